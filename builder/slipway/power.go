package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-os/slipway/builder/power"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// Bounds of asking controllers.
const (
	powerLimit  = 3 * time.Minute // one, with all that it takes
	powerAtOnce = 16
)

func powerCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "power",
		Short: "Switch machines on and off, and say what they boot next, by their management controllers",
		Long: `power asks the machines' management controllers (BMCs), which the cluster document names: by Redfish, or by IPMI with the program
ipmitool. Users and passwords are in the file that bmc.credentials names. Nodes are asked side by side; one that fails doesn't keep the others.`,
	}
	for _, s := range []struct {
		word, short, long string
		action            power.Action
		flags             string
	}{
		{"status", "Show which machines are on", "status shows the nodes' power, what they boot next if that was said, and what is in their virtual CDs.", "", ""},
		{"on", "Switch machines on", "on switches machines on. Those that are on stay so.", power.On, "boot"},
		{"off", "Switch machines off", "off asks the machines' operating systems to end, and waits for it. With --force they are switched off at once.", power.Off, "force"},
		{"cycle", "Switch machines off and on", "cycle switches machines off and on again at once; those that are off are switched on. Drain nodes first.", power.Cycle, "boot"},
	} {
		c.AddCommand(powerVerb(a, s.word, s.short, s.long, s.action, s.flags))
	}
	c.AddCommand(mediaVerb(a, "insert NODE URL", "Put an image into a machine's virtual CD", `insert has a machine's controller take an image from a URL that it can reach as the machine's virtual CD, read-only. A medium that is there is taken
out first. Boot from it: slipway power cycle NODE --boot cd.`), mediaVerb(a, "eject NODE", "Take the image out of a machine's virtual CD", "eject takes the image out of a machine's virtual CD."))
	return c
}

// powerResult is what became of one node.
type powerResult struct {
	Node  string       `json:"node"`
	State *power.State `json:"state,omitempty"`
	Error string       `json:"error,omitempty"`
}

func powerVerb(a *app, word, short, long string, action power.Action, extra string) *cobra.Command {
	var flags clusterFlags
	var all, force bool
	var boot string
	c := &cobra.Command{
		Use: word + " [NODE...] --cluster FILE", Short: short, Long: long,
		RunE: func(c *cobra.Command, args []string) error {
			d, err := flags.load(c)
			if err != nil {
				return err
			}
			list, err := controlled(d, args, all || action == "")
			if err != nil {
				return usage(c, err)
			}
			source := power.Source(boot)
			if boot != "" && !slices.Contains([]power.Source{power.Network, power.Disk, power.CD}, source) {
				return usage(c, fmt.Errorf("--boot is network, disk or cd, not %q", boot))
			}
			if force {
				action = power.ForceOff
			}
			return a.ask(c, d, list, func(ctx context.Context, bmc power.Controller) error { return act(ctx, bmc, action, source) })
		},
	}
	flags.register(c)
	if action != "" {
		c.Flags().BoolVar(&all, "all", false, "all nodes that have a controller")
	}
	switch extra {
	case "boot":
		c.Flags().StringVar(&boot, "boot", "", "boot from there, this once: network, disk, cd")
	case "force":
		c.Flags().BoolVar(&force, "force", false, "at once, without asking the operating system")
	}
	a.outputFlag(c)
	return c
}

// act does what was asked for, and waits until it shows.
func act(ctx context.Context, bmc power.Controller, action power.Action, source power.Source) error {
	if action == "" {
		return nil
	}
	if source != "" {
		if err := bmc.BootNext(ctx, source); err != nil {
			return err
		}
	}
	if err := bmc.Power(ctx, action); err != nil {
		return err
	}
	err := power.Await(ctx, bmc, action == power.On || action == power.Cycle)
	if err != nil && action == power.Off {
		err = fmt.Errorf("%w (its operating system doesn't end: --force)", err)
	}
	return err
}

func mediaVerb(a *app, use, short, long string) *cobra.Command {
	var flags clusterFlags
	words := strings.Count(use, " ")
	c := &cobra.Command{
		Use: use + " --cluster FILE", Short: short, Long: long,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != words {
				return usage(c, fmt.Errorf("write: slipway power %s", use))
			}
			d, err := flags.load(c)
			if err != nil {
				return err
			}
			list, err := controlled(d, args[:1], false)
			if err != nil {
				return usage(c, err)
			}
			return a.ask(c, d, list, func(ctx context.Context, bmc power.Controller) error {
				if words == 1 {
					return bmc.Eject(ctx)
				}
				return bmc.Insert(ctx, args[1])
			})
		},
	}
	flags.register(c)
	a.outputFlag(c)
	return c
}

// controlled are the named nodes, or all that have a controller.
func controlled(d *clusterDocument, names []string, all bool) ([]*cluster.Node, error) {
	if len(names) == 0 && !all {
		return nil, errors.New("name nodes, or all of them with --all")
	}
	list, err := named(d, names)
	if err != nil {
		return nil, err
	}
	var have []*cluster.Node
	for _, n := range list {
		switch {
		case n.BMC != nil:
			have = append(have, n)
		case len(names) > 0:
			return nil, fmt.Errorf("the cluster document names no management controller of %s: write bmc: {redfish: https://...} there", n.Name)
		}
	}
	if len(have) == 0 {
		return nil, errors.New("the cluster document names no management controllers: write bmc: {redfish: https://...} at its nodes")
	}
	return have, nil
}

// ask opens each node's controller, does something there, and prints how the machine is then. The error says for how many it failed.
func (a *app) ask(c *cobra.Command, d *clusterDocument, list []*cluster.Node, do func(context.Context, power.Controller) error) error {
	file := d.BMC.Credentials
	if !filepath.IsAbs(file) {
		file = filepath.Join(filepath.Dir(d.file), file)
	}
	credentials, err := power.ReadCredentials(file)
	if err != nil {
		return err
	}
	results := make([]powerResult, len(list))
	var group errgroup.Group
	group.SetLimit(powerAtOnce)
	for i, n := range list {
		group.Go(func() error {
			results[i] = askOne(c.Context(), n, credentials, do)
			return nil
		})
	}
	_ = group.Wait() // faults are in the results
	failed := 0
	for _, r := range results {
		if r.Error != "" {
			failed++
		}
	}
	if err := a.print(results, func(w io.Writer) error { return writePower(w, results) }); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d nodes failed", failed, len(list))
	}
	return nil
}

func askOne(ctx context.Context, n *cluster.Node, credentials *power.Credentials, do func(context.Context, power.Controller) error) powerResult {
	ctx, cancel := context.WithTimeout(ctx, powerLimit)
	defer cancel()
	fail := func(err error) powerResult { return powerResult{Node: n.Name, Error: err.Error()} }
	login, err := credentials.Login(n.Name)
	if err != nil {
		return fail(err)
	}
	b := n.BMC
	bmc, err := power.Open(ctx, power.Machine{
		Redfish: b.Redfish, System: b.System, Fingerprint: b.Fingerprint, IPMI: b.IPMI, CipherSuite: b.CipherSuite, BIOS: b.BIOS, Login: login,
	})
	if err != nil {
		return fail(err)
	}
	defer bmc.Close()
	if err := do(ctx, bmc); err != nil {
		return fail(err)
	}
	state, err := bmc.State(ctx)
	if err != nil {
		return fail(err)
	}
	return powerResult{Node: n.Name, State: &state}
}

func writePower(w io.Writer, results []powerResult) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tPOWER\tBOOTS NEXT\tCD\tMACHINE")
	for _, r := range results {
		if r.State == nil {
			fmt.Fprintf(t, "%s\tunknown\t\t\t%s\n", r.Node, r.Error)
			continue
		}
		on := "off"
		if r.State.On {
			on = "on"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", r.Node, on, r.State.Next, r.State.Media, r.State.Model)
	}
	return t.Flush()
}
