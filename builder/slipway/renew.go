package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/nodeconfig"
	"github.com/slipway-os/slipway/builder/nodes"
	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// renewLimit bounds the renewal of one node: its API server has to start again.
const renewLimit = 15 * time.Minute

// renewResult is what became of one node.
type renewResult struct {
	Node string `json:"node"`
	bootspec.Renewed
	Seconds float64 `json:"seconds"`
}

func renewCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var running bool
	c := &cobra.Command{
		Use:   "renew [NODE...] --cluster FILE",
		Short: "Give running nodes new certificates and the cluster document of now",
		Long: `renew gives running nodes a newer configuration without a reboot: new certificates and keys, and what the cluster
document says now of other nodes (a control plane that was added, say). One node after the other gets it, all of the document
unless some are named; its components are restarted one by one, and the next node is begun when it is well again. Pods go on
running. On a node that booted from a disk or stick the configuration there is replaced too. With --running nodes that don't answer
are left out, as those that the document has got and that have no power yet.

A node whose own network, storage or installation has changed in the document is refused: that takes a reboot. So is another
identity than the cluster's.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := needs(c, "cluster"); err != nil {
				return err
			}
			return renew(c.Context(), a, c, &flags, args, running)
		},
	}
	flags.register(c)
	flags.registerIdentity(c)
	c.Flags().BoolVar(&running, "running", false, "leave out nodes that don't answer")
	a.outputFlag(c)
	return c
}

func renew(ctx context.Context, a *app, c *cobra.Command, flags *clusterFlags, names []string, running bool) error {
	o, d, err := operator(a, c, flags)
	if err != nil {
		return err
	}
	list, err := named(d, names)
	if err != nil {
		return usage(c, err)
	}
	if running {
		list = answering(ctx, c, o, list)
	}
	id, err := loadIdentity(a, flags, d)
	if err != nil {
		return err
	}
	results, err := renewEach(ctx, a, c, o, d, id, list, func(*cluster.Node) error { return nil })
	if err != nil {
		return err
	}
	return a.print(results, func(w io.Writer) error { return writeRenewed(w, results) })
}

// renewEach gives one node after the other its configuration of now, and calls done after each. After a fault it says which were not begun.
func renewEach(ctx context.Context, a *app, c *cobra.Command, o *nodes.Operator, d *clusterDocument, id *pki.Identity, list []*cluster.Node, done func(*cluster.Node) error) ([]renewResult, error) {
	var results []renewResult
	for i, n := range list {
		document, err := nodeconfig.Render(d.Cluster, n.Name, id, nodeconfig.Environment{Environment: a.pki(), Server: nodeServerURL(d, n.Name)})
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(c.ErrOrStderr(), "renewing %s (%d of %d)\n", n.Name, i+1, len(list))
		r, err := renewOne(ctx, o, n, document)
		if err == nil {
			err = done(n)
		}
		if err != nil {
			return nil, errors.Join(err, untouched(list[i+1:]))
		}
		results = append(results, r)
	}
	return results, nil
}

func writeRenewed(w io.Writer, results []renewResult) error {
	for _, r := range results {
		fmt.Fprintf(w, "%s: %d files renewed in %.0f s, certificates are good until %s\n", r.Node, len(r.Files), r.Seconds, r.Until.Format(time.DateOnly))
		if r.Kept != "" {
			fmt.Fprintf(w, "  kept on %s for its next boot\n", r.Kept)
		}
		for _, file := range r.Later {
			fmt.Fprintf(w, "  %s counts from the next boot on\n", file)
		}
	}
	return nil
}

func renewOne(ctx context.Context, o *nodes.Operator, n *cluster.Node, document []byte) (renewResult, error) {
	ctx, cancel := context.WithTimeout(ctx, renewLimit)
	defer cancel()
	began := time.Now()
	done, err := o.Renew(ctx, n, document)
	return renewResult{Node: n.Name, Renewed: done, Seconds: time.Since(began).Seconds()}, err
}

// named are the document's nodes with these names, or all: control planes first.
func named(d *clusterDocument, names []string) ([]*cluster.Node, error) {
	var list []*cluster.Node
	for _, name := range names {
		n, ok := d.Node(name)
		if !ok {
			return nil, fmt.Errorf("the cluster document has no node %q", name)
		}
		list = append(list, n)
	}
	if len(names) > 0 {
		return list, nil
	}
	for _, role := range []string{cluster.RoleControlPlane, cluster.RoleWorker} {
		for i := range d.Nodes {
			if d.Nodes[i].Role == role {
				list = append(list, &d.Nodes[i])
			}
		}
	}
	return list, nil
}

// answering are the nodes that answer; the others are named.
func answering(ctx context.Context, c *cobra.Command, o *nodes.Operator, list []*cluster.Node) []*cluster.Node {
	silent := map[string]string{}
	for _, n := range o.Survey(ctx) {
		if n.Status == nil {
			silent[n.Name] = n.Error
		}
	}
	return slices.DeleteFunc(slices.Clone(list), func(n *cluster.Node) bool {
		why, left := silent[n.Name]
		if left {
			fmt.Fprintf(c.ErrOrStderr(), "left out, as it does not answer: %s (%s)\n", n.Name, why)
		}
		return left
	})
}

// untouched says which nodes were not begun.
func untouched(list []*cluster.Node) error {
	if len(list) == 0 {
		return nil
	}
	text := "not begun:"
	for _, n := range list {
		text += " " + n.Name
	}
	return errors.New(text)
}
