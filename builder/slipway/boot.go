package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/netboot"
)

func bootCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var state string
	c := &cobra.Command{
		Use:   "boot NODE [disk|network|install] --cluster FILE",
		Short: "Say what a node boots when its firmware asks the boot server",
		Long: `boot says what a node boots when its firmware asks the boot server, from now on; without a word, what that is now:

  disk     its own disk: the answer to a node that has installed itself
  network  its image from the boot server; a node of the document with install: installs itself, unless it has already
  install  its image from the boot server, to install itself once more over its own earlier installation

It works on the boot server's machine, through its state folder, whether the server runs or not. What is on a disk that
is not the node's own earlier installation is never touched by this: that needs overwrite: in the cluster document.`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 && len(args) != 2 {
				return usage(c, fmt.Errorf("name a node and what it boots: disk, network or install"))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			var from netboot.BootFrom
			if len(args) == 2 {
				var err error
				if from, err = netboot.ParseBootFrom(args[1]); err != nil {
					return usage(c, err)
				}
			}
			d, err := flags.load(c)
			if err != nil {
				return err
			}
			folder, site := stateFolder(state, d), netboot.FromCluster(d.Cluster)
			if len(args) == 1 {
				if from, err = netboot.BootsFrom(c.Context(), folder, site, args[0]); err != nil {
					return err
				}
				fmt.Fprintln(a.out, from)
				return nil
			}
			if err := netboot.SetBootFrom(c.Context(), folder, site, args[0], from); err != nil {
				return err
			}
			fmt.Fprintf(a.words, "%s boots from %s\n", args[0], from)
			return nil
		},
	}
	flags.register(c)
	c.Flags().StringVar(&state, "state", "", "the boot server's folder of node states (default: /var/lib/slipway/CLUSTER)")
	return c
}
