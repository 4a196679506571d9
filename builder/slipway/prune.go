package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/nodes"
	"github.com/slipway-os/slipway/profiles/cluster"
)

func pruneCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var yes, dry bool
	c := &cobra.Command{
		Use:   "prune --cluster FILE",
		Short: "Remove from a running cluster the nodes that its document no longer has",
		Long: `prune compares a running cluster with its document and removes what the document no longer has: members of etcd, one by
one, and Kubernetes' node objects, whose pods are replaced elsewhere. Take the nodes out of the document first, drain them
(kubectl drain), power them off, and run slipway renew afterwards: it tells the others.

etcd refuses a removal that would cost its quorum. A machine that was removed still has its keys: wipe its disk. One that was
a control plane has the key of the cluster's authority; no command can take that back.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := needs(c, "cluster"); err != nil {
				return err
			}
			o, d, err := operator(a, c, &flags)
			if err != nil {
				return err
			}
			through, err := snapshotNode(c, o, d, "")
			if err != nil {
				return err
			}
			left, err := o.Leftovers(c.Context(), through)
			if err != nil {
				return err
			}
			if len(left.Members)+len(left.Nodes) > 0 && !dry {
				if !yes {
					if err := confirm(c.Context(), c, func(w io.Writer) { writeLeftovers(w, left, "will be removed") }); err != nil {
						return err
					}
				}
				if err := prune(c.Context(), o, through, left); err != nil {
					return err
				}
			}
			words := "removed"
			if dry {
				words = "would be removed"
			}
			return a.print(left, func(w io.Writer) error { writeLeftovers(w, left, words); return nil })
		},
	}
	flags.register(c)
	flags.registerIdentity(c)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&dry, "dry-run", false, "say what would be removed, and do nothing")
	a.outputFlag(c)
	return c
}

func prune(ctx context.Context, o *nodes.Operator, through *cluster.Node, left nodes.Leftovers) error {
	for _, m := range left.Members {
		if err := o.RemoveMember(ctx, through, m); err != nil {
			return fmt.Errorf("%w (what was removed before stays removed; the same command goes on)", err)
		}
	}
	for _, name := range left.Nodes {
		if err := o.RemoveNode(ctx, through, name); err != nil {
			return err
		}
	}
	return nil
}

func writeLeftovers(w io.Writer, left nodes.Leftovers, words string) {
	if len(left.Members)+len(left.Nodes) == 0 {
		fmt.Fprintln(w, "the cluster has no nodes but those of its document")
	}
	for _, m := range left.Members {
		fmt.Fprintf(w, "%s: %s from etcd\n", nodes.MemberName(m), words)
	}
	for _, name := range left.Nodes {
		fmt.Fprintf(w, "%s: %s from Kubernetes\n", name, words)
	}
}
