package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/netboot"
)

func explainCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var state string
	c := &cobra.Command{
		Use:   "explain MAC|NODE --cluster FILE",
		Short: "Say why a machine got which answers from the boot server",
		Long: `explain shows the newest packets of a machine that the running boot server remembers, and for each the way to its
decision: whether the document knows the machine, what kind of client asked, its architecture, relay, address, and the answer that
went out, or why there was none. It works on the boot server's machine, through its state folder.`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(c, fmt.Errorf("name a machine: its MAC address, or a node of the cluster document"))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			d, err := flags.load(c)
			if err != nil {
				return err
			}
			past, err := netboot.Explain(c.Context(), stateFolder(state, d), netboot.FromCluster(d.Cluster), args[0])
			if err != nil {
				return err
			}
			return a.print(past, func(w io.Writer) error { return writeExchanges(w, args[0], past) })
		},
	}
	flags.register(c)
	c.Flags().StringVar(&state, "state", "", "the boot server's folder of node states (default: /var/lib/slipway/CLUSTER)")
	a.outputFlag(c)
	return c
}

// writeExchanges prints them, the oldest first.
func writeExchanges(w io.Writer, machine string, past []netboot.Exchange) error {
	if len(past) == 0 {
		_, err := fmt.Fprintf(w, "the boot server has heard nothing of %s since it started (cable, VLAN, boot order, MAC address?)\n", machine)
		return err
	}
	for _, e := range past {
		fmt.Fprintf(w, "%s %s\n", e.Time.Local().Format(time.DateTime), e.Asked)
		for _, step := range e.Path {
			fmt.Fprintf(w, "    %s\n", step)
		}
		answer := e.Answer
		if answer == "" {
			answer = "none"
		}
		if _, err := fmt.Fprintf(w, "    answer: %s\n", answer); err != nil {
			return err
		}
	}
	return nil
}
