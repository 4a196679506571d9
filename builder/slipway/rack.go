package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/nodes"
	"github.com/slipway-os/slipway/builder/rack"
)

// rackFlags are what a rehearsal needs besides the cluster.
type rackFlags struct {
	clusterFlags
	images          imageFlags
	artifacts, logs string
	kubectl         string
	memory          map[string]int
	cpus            int
	once, faults    bool
	timeout         time.Duration
}

func rackCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "rack",
		Short: "Rehearse: boot a cluster document's rack in QEMU",
		Args:  noWords,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(rackUpCommand(a))
	return c
}

func rackUpCommand(a *app) *cobra.Command {
	var flags rackFlags
	c := &cobra.Command{
		Use:   "up --cluster FILE --artifacts DIR --identity DIR",
		Short: "Boot the rack, wait until every node is Ready, and try the cluster out",
		Long: `up makes the document's networks in a network namespace, starts the boot server there, and powers on one
QEMU machine for each node, which knows nothing but "boot from the network". When every node is Ready it tries the
cluster out, and shows where the time went. On a terminal the rack then stays up until Ctrl-C; with --once, or without a
terminal, it ends by itself. Nothing is left behind. It needs root.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := flags.load(c)
			if err != nil {
				return err
			}
			if err := needs(c, "artifacts"); err != nil {
				return err
			}
			return rackUp(c.Context(), a, flags, d)
		},
	}
	flags.register(c)
	flags.registerIdentity(c)
	c.Flags().StringVar(&flags.artifacts, "artifacts", "", "folder of baked images")
	c.Flags().StringVar(&flags.images.images, "images", "", "folder with components, for kubectl (default: as for bake)")
	c.Flags().StringVar(&flags.kubectl, "kubectl", "", "kubectl to use (default: that of the control plane's image)")
	c.Flags().StringVar(&flags.logs, "logs", "", "folder that keeps the serial consoles and the server's log")
	c.Flags().StringToIntVar(&flags.memory, "memory", nil, "MiB by role (default: control-plane=2048,worker=1024)")
	c.Flags().IntVar(&flags.cpus, "cpus", 0, "processors of a machine (default 2; 1 where machines are emulated)")
	c.Flags().BoolVar(&flags.faults, "faults", false, "then take control planes' power under writes, and see that nothing is lost")
	c.Flags().BoolVar(&flags.once, "once", false, "end when all checks are done")
	c.Flags().DurationVar(&flags.timeout, "timeout", 0, "of the whole rehearsal; 0: 45 minutes, and more with more than three machines")
	a.outputFlag(c)
	return c
}

func rackUp(ctx context.Context, a *app, flags rackFlags, d *clusterDocument) error {
	id, err := loadIdentity(a, &flags.clusterFlags, d)
	if err != nil {
		return err
	}
	if flags.faults && len(d.ControlPlanes()) < 3 {
		return fmt.Errorf("--faults takes a control plane's power, and %s has %d: it needs three", d.Metadata.Name, len(d.ControlPlanes()))
	}
	operator, err := nodes.NewOperator(d.Cluster, id, a.pki())
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find the slipway program: %w", err)
	}
	kubectl, err := findKubectl(ctx, a, &flags)
	if err != nil {
		return err
	}
	options := rack.Options{
		Cluster: d.Cluster, File: d.file, Document: d.data, Slipway: self, Kubectl: kubectl,
		Kubeconfig: func(file string) error { return writeKubeconfig(a, &flags.clusterFlags, d, file) },
		Memory:     flags.memory, CPUs: flags.cpus, Timeout: flags.timeout,
		Once: flags.once || a.output == "json" || !terminal(a.out), Out: a.out, Live: terminal(a.out),
		Log: slog.New(slog.NewTextHandler(a.words, nil)), Faults: flags.faults, Admin: operator.TLS(),
	}
	for _, f := range []struct {
		to   *string
		path string
	}{{&options.Artifacts, flags.artifacts}, {&options.Identity, flags.identityDir(d)}, {&options.IdentityKey, flags.key}, {&options.Logs, flags.logs}} {
		if f.path == "" {
			continue
		}
		if *f.to, err = filepath.Abs(f.path); err != nil {
			return fmt.Errorf("cannot find %s: %w", f.path, err)
		}
	}
	if a.output == "json" {
		options.Out, options.Live = a.words, false
		options.OnResult = func(r rack.Result) { err = a.print(r, nil) }
	}
	return errors.Join(rack.Up(ctx, options), err)
}

// findKubectl is the program that is kubectl when called by that name: given, or the control plane's component.
func findKubectl(ctx context.Context, a *app, flags *rackFlags) (string, error) {
	return findProgram(ctx, a, flags.images, program{what: "kubectl", flag: "--kubectl", given: flags.kubectl, component: "kube-control-plane", path: "/usr/bin/kube"})
}
