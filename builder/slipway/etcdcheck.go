package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/nodes"
)

// checkFlags are those of etcd check.
type checkFlags struct {
	images    imageFlags
	key, etcd string
	drill     bool
}

// checkResult is a checked snapshot, and the drill if there was one.
type checkResult struct {
	nodes.Snapshot
	Drill *nodes.Drill `json:"drill,omitempty"`
}

func etcdCheckCommand(a *app) *cobra.Command {
	var flags checkFlags
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Check that a snapshot of etcd is whole, and try it out",
		Long: `check reads a snapshot: its SHA-256, the pages of its database, its revision and keys. An encrypted one needs --key.
With --drill it is restored into a scratch folder of this machine (TMPDIR; room for three times the snapshot), as restore does it
on a control plane, and etcd of the images is started with it: every key is read and one is written. No cluster is touched.`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(c, errors.New("name one snapshot"))
			}
			if flags.etcd != "" && !flags.drill {
				return usage(c, errors.New("--etcd is for --drill"))
			}
			return check(c.Context(), a, &flags, args[0])
		},
	}
	c.Flags().StringVar(&flags.key, "key", "", "file with the secret key that age-keygen made, for an encrypted snapshot")
	c.Flags().BoolVar(&flags.drill, "drill", false, "restore it in a scratch folder, and start etcd with it")
	c.Flags().StringVar(&flags.etcd, "etcd", "", "etcd program of an image (default: from the cache, or built)")
	c.Flags().StringVar(&flags.images.images, "images", "", "folder with components, for etcd (default: as for bake)")
	a.outputFlag(c)
	return c
}

func check(ctx context.Context, a *app, flags *checkFlags, file string) error {
	s, done, err := nodes.OpenSnapshot(file, flags.key)
	if err != nil {
		return err
	}
	defer done()
	r := checkResult{Snapshot: s}
	r.File = file // not its decrypted copy
	if flags.drill {
		etcd, err := findEtcd(ctx, a, flags)
		if err != nil {
			return err
		}
		d, err := nodes.TryOut(ctx, etcd, s)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		r.Drill = &d
	}
	return a.print(r, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s is whole: revision %d, %d keys, %d bytes, SHA-256 %s\n", r.File, r.Revision, r.Keys, r.Size, r.SHA256)
		if d := r.Drill; d != nil && err == nil {
			_, err = fmt.Fprintf(w, "etcd %s was started with it, read all %d keys (%d bytes, hash %08x) after %.1f s, and wrote one\n", d.Version, d.Keys, d.Bytes, d.Hash, float64(d.Took)/1000)
		}
		return err
	})
}

// findEtcd is the images' etcd for this machine: given, or the component.
func findEtcd(ctx context.Context, a *app, flags *checkFlags) (string, error) {
	return findProgram(ctx, a, flags.images, program{what: "etcd for the drill", flag: "--etcd", given: flags.etcd, component: "etcd", path: "/usr/bin/etcd"})
}
