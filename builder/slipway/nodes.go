package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/nodes"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// operator reads what is needed to ask nodes.
func operator(a *app, c *cobra.Command, flags *clusterFlags) (*nodes.Operator, *clusterDocument, error) {
	d, err := flags.load(c)
	if err != nil {
		return nil, nil, err
	}
	id, err := loadIdentity(a, flags, d)
	if err != nil {
		return nil, nil, err
	}
	o, err := nodes.NewOperator(d.Cluster, id, a.pki())
	return o, d, err
}

func logsCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var query nodes.LogQuery
	c := &cobra.Command{
		Use:   "logs NODE --cluster FILE",
		Short: "Print a running node's journal",
		Long: `logs prints the journal of a node's present boot, as the node itself tells it through its management API: of
all units and the kernel, or of one unit. It needs the cluster's identity.`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(c, errors.New("name one node"))
			}
			if query.Since < 0 {
				return usage(c, errors.New("--since is how long ago: 10m"))
			}
			o, d, err := operator(a, c, &flags)
			if err != nil {
				return err
			}
			n, ok := d.Node(args[0])
			if !ok {
				return usage(c, fmt.Errorf("the cluster document has no node %q", args[0]))
			}
			client := o.Node(n)
			defer client.Close()
			return client.Logs(c.Context(), query, a.out)
		},
	}
	flags.register(c)
	flags.registerIdentity(c)
	c.Flags().StringVar(&query.Unit, "unit", "", "only this unit: etcd.service")
	c.Flags().DurationVar(&query.Since, "since", 0, "only what is newer than this: 10m (default: the whole boot)")
	c.Flags().BoolVar(&query.Follow, "follow", false, "go on until interrupted")
	return c
}

// printNodes asks all nodes and prints a line for each, and what should be known or done.
func printNodes(ctx context.Context, a *app, c *cobra.Command, flags *clusterFlags) error {
	o, _, err := operator(a, c, flags)
	if err != nil {
		return err
	}
	answers := o.Survey(ctx)
	now := a.now()
	result := struct {
		Nodes   []nodes.Answer `json:"nodes"`
		Explain []string       `json:"explain,omitempty"`
	}{answers, nodes.Explain(answers, flags.file, now)}
	return a.print(result, func(w io.Writer) error {
		if err := writeNodes(w, answers, now); err != nil {
			return err
		}
		if len(result.Explain) > 0 {
			fmt.Fprintln(w)
		}
		for _, line := range result.Explain {
			fmt.Fprintln(w, line)
		}
		return nil
	})
}

// writeNodes prints a line for each node.
func writeNodes(w io.Writer, answers []nodes.Answer, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tROLE\tADDRESS\tUP\tUNITS\tIMAGE\tKERNEL\tCERTIFICATES\tETCD\tMEMORY\tDISK")
	for _, n := range answers {
		l := n.Status
		if l == nil {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", n.Name, n.Role, n.Address, "no answer")
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.Role, n.Address, l.Uptime.Duration().Round(time.Second),
			unitsCell(l.Units), dash(l.Image), dash(l.Kernel), certificateCell(l.Certificates, now), etcdCell(l.Etcd), capacityCell(l.Memory), diskCell(l.Disks))
	}
	return table.Flush()
}

// unitsCell is how many units are active, and the names of those that aren't.
func unitsCell(list []bootspec.UnitStatus) string {
	var rest []string
	for _, u := range list {
		if u.Active != "active" {
			rest = append(rest, strings.TrimSuffix(u.Name, ".service"))
		}
	}
	cell := fmt.Sprintf("%d/%d", len(list)-len(rest), len(list))
	if len(rest) > 0 {
		cell += " not " + strings.Join(rest, ",")
	}
	return cell
}

// certificateCell is how long the certificate that ends first is good for, of those nobody renews by itself.
func certificateCell(list []bootspec.CertificateDate, now time.Time) string {
	first, ok := nodes.FirstToEnd(list)
	if !ok {
		return "-"
	}
	days := int(first.Until.Sub(now).Hours() / 24)
	return fmt.Sprintf("%d days", days)
}

func etcdCell(e *bootspec.EtcdStatus) string {
	switch {
	case e == nil:
		return "-"
	case !e.Answers:
		return "no answer"
	case !e.HasLeader:
		return "no leader"
	case !e.Healthy:
		return "unhealthy"
	case e.Leader:
		return "leader " + mebibytes(e.Size)
	}
	return "ok " + mebibytes(e.Size)
}

func capacityCell(c bootspec.Capacity) string {
	return mebibytes(c.Free) + " of " + mebibytes(c.Total) + " free"
}

// diskCell is the file system with the least free, in parts of its size.
func diskCell(list []bootspec.Capacity) string {
	cell, least := "-", int64(101)
	for _, c := range list {
		if c.Total == 0 || c.Name == "/" {
			continue
		}
		if part := c.Free * 100 / c.Total; part < least {
			cell, least = fmt.Sprintf("%s %d%% free", c.Name, part), part
		}
	}
	return cell
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

func etcdCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "etcd",
		Short: "Take, find, check and restore snapshots of a cluster's etcd",
		Args:  noWords,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(etcdSnapshotCommand(a), etcdListCommand(a), etcdFetchCommand(a), etcdCheckCommand(a), etcdRestoreCommand(a))
	return c
}

func etcdSnapshotCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var node, out string
	c := &cobra.Command{
		Use:   "snapshot --cluster FILE --out FILE",
		Short: "Take a snapshot of a running cluster's etcd",
		Long: `snapshot takes a snapshot of etcd from a control plane through its management API into a file that only its owner
may read. The file appears whole and checked (against the SHA-256 that etcd wrote), or not at all. Without --node the first
control plane whose etcd is healthy is asked. Whoever has the file has all that the cluster keeps; Secrets in it are
encrypted with a key of the cluster's identity, so that a copy of the identity is needed to restore it.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := needs(c, "cluster", "out"); err != nil {
				return err
			}
			o, d, err := operator(a, c, &flags)
			if err != nil {
				return err
			}
			n, err := snapshotNode(c, o, d, node)
			if err != nil {
				return err
			}
			client := o.Node(n)
			defer client.Close()
			s, err := client.EtcdSnapshot(c.Context(), out)
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "took a snapshot of etcd on %s into %s: revision %d, %d keys, %d bytes, SHA-256 %s as etcd says\n", n.Name, out, s.Revision, s.Keys, s.Size, s.SHA256)
				return err
			})
		},
	}
	flags.register(c)
	flags.registerIdentity(c)
	c.Flags().StringVar(&node, "node", "", "control plane to ask (default: the first that is healthy)")
	c.Flags().StringVarP(&out, "out", "o", "", "file to write")
	a.outputFlag(c)
	return c
}

// snapshotNode chooses whom to ask.
func snapshotNode(c *cobra.Command, o *nodes.Operator, d *clusterDocument, name string) (*cluster.Node, error) {
	if name != "" {
		n, ok := d.Node(name)
		if !ok || n.Role != cluster.RoleControlPlane {
			return nil, usage(c, fmt.Errorf("the cluster document has no control plane %q", name))
		}
		return n, nil
	}
	var why []string
	for _, answer := range o.Survey(c.Context()) {
		switch {
		case answer.Role != cluster.RoleControlPlane:
		case answer.Status == nil:
			why = append(why, answer.Error)
		case answer.Status.Etcd == nil || !answer.Status.Etcd.Healthy:
			why = append(why, answer.Name+": etcd isn't healthy")
		default:
			n, _ := d.Node(answer.Name)
			return n, nil
		}
	}
	return nil, fmt.Errorf("no control plane has a healthy etcd: %s (slipway status --nodes says more; --node asks one all the same)", strings.Join(why, "; "))
}
