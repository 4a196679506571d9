package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/netboot"
)

func armCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var state string
	c := &cobra.Command{
		Use:   "arm NODE --cluster FILE",
		Short: "Open a node's configuration for the next machine that claims it",
		Long: `arm opens a node's configuration, with its keys, for the next machine that has the node's MAC address, and binds the node
to that machine. A node that was never claimed is armed already. It is needed after a machine, its mainboard or its TPM was replaced, and with
provisioning.claims.policy once before every boot from the network. It works on the boot server's machine, through its state
folder, whether the server runs or not.`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(c, fmt.Errorf("name a node"))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			d, err := flags.load(c)
			if err != nil {
				return err
			}
			if err := netboot.Arm(c.Context(), stateFolder(state, d), netboot.FromCluster(d.Cluster), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(a.words, "%s is armed: its configuration goes to the next machine that has its MAC address\n", args[0])
			return nil
		},
	}
	flags.register(c)
	c.Flags().StringVar(&state, "state", "", "the boot server's folder of node states (default: /var/lib/slipway/CLUSTER)")
	return c
}

func claimsCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var state string
	c := &cobra.Command{
		Use:   "claims --cluster FILE",
		Short: "Show who has claimed the nodes' configurations",
		Long: `claims shows for each node whether its configuration may be claimed by a new machine, and which machine it is bound to: when
and from where it was claimed, and what the machine showed: its TPM, too, by the SHA-256 of its endorsement key (with --output json all
of it, and the key's certificate). It works on the boot server's machine, through its state folder.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := flags.load(c)
			if err != nil {
				return err
			}
			records, err := netboot.Claims(c.Context(), stateFolder(state, d), netboot.FromCluster(d.Cluster))
			if err != nil {
				return err
			}
			return a.print(records, func(w io.Writer) error { return writeClaims(w, records) })
		},
	}
	flags.register(c)
	c.Flags().StringVar(&state, "state", "", "the boot server's folder of node states (default: /var/lib/slipway/CLUSTER)")
	a.outputFlag(c)
	return c
}

func writeClaims(w io.Writer, records []netboot.ClaimRecord) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tARMED\tCLAIMED\tFROM\tMAC\tUUID\tSERIAL\tTPM\tCLAIMS")
	for _, r := range records {
		armed := "no"
		if r.Armed {
			armed = "yes"
		}
		if r.Bound == nil {
			fmt.Fprintf(table, "%s\t%s\tnever\t-\t-\t-\t-\t-\t0\n", r.Node, armed)
			continue
		}
		b := r.Bound
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\n", r.Node, armed, b.Time.Local().Format(time.DateTime), b.From, b.MAC, dash(b.UUID), dash(b.Serial), shownTPM(b), len(r.Recent))
	}
	return table.Flush()
}

// shownTPM is a TPM as the beginning of its fingerprint, and who made it; the whole is in the JSON.
func shownTPM(c *netboot.Claimed) string {
	switch {
	case c.TPM == "":
		return "-"
	case c.TPMMaker == "":
		return c.TPM[:min(16, len(c.TPM))]
	}
	return c.TPM[:min(16, len(c.TPM))] + " of " + c.TPMMaker
}
