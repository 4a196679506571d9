package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/nodeconfig"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

func netCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "net",
		Short: "Show nodes' networks, and give nodes addresses",
		Args:  noWords,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(netPlanCommand(a), netAssignCommand(a))
	return c
}

func netPlanCommand(a *app) *cobra.Command {
	var flags clusterFlags
	c := &cobra.Command{
		Use:   "plan [NODE...] --cluster FILE",
		Short: "Print the network links, addresses and routes that nodes get",
		Long: `plan prints what the agent gives the kernel of a node, in the order in which it does: each link with how it is
found or made, its addresses and its routes. Nothing is asked or changed. With --output argument it prints the kernel
argument that lets one node find its boot server over its bonds and VLANs.`,
		RunE: func(c *cobra.Command, args []string) error {
			d, err := flags.load(c)
			if err != nil {
				return err
			}
			chosen, err := chosenNodes(d.Cluster, args)
			if err != nil {
				return usage(c, err)
			}
			if a.output == "argument" {
				if len(chosen) != 1 {
					return usage(c, errors.New("a kernel argument is one node's: name it"))
				}
				value, err := nodeconfig.Network(d.Cluster, chosen[0]).Argument()
				if err == nil {
					fmt.Fprintf(a.out, "%s=%s\n", bootspec.ArgNetwork, value)
				}
				return err
			}
			networks := map[string]bootspec.Network{}
			for _, n := range chosen {
				networks[n.Name] = nodeconfig.Network(d.Cluster, n)
			}
			if a.output == "json" {
				e := json.NewEncoder(a.out)
				e.SetIndent("", "  ")
				return e.Encode(networks)
			}
			for i, n := range chosen {
				if i > 0 {
					fmt.Fprintln(a.out)
				}
				if err := printNetwork(a.out, n.Name, networks[n.Name]); err != nil {
					return err
				}
			}
			return nil
		},
	}
	flags.register(c)
	c.Flags().StringVar(&a.output, "output", "text", "text for people, json for programs, argument for a kernel")
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		if !slices.Contains([]string{"text", "json", "argument"}, a.output) {
			return usage(c, fmt.Errorf("--output is text, json or argument, not %q", a.output))
		}
		return nil
	}
	return c
}

// chosenNodes are the nodes of those names, all of them without names.
func chosenNodes(c *cluster.Cluster, names []string) ([]*cluster.Node, error) {
	var chosen []*cluster.Node
	for _, name := range names {
		n, ok := c.Node(name)
		if !ok {
			return nil, fmt.Errorf("the cluster document has no node %q", name)
		}
		chosen = append(chosen, n)
	}
	if len(names) == 0 {
		for i := range c.Nodes {
			chosen = append(chosen, &c.Nodes[i])
		}
	}
	return chosen, nil
}

// printNetwork prints a network document as a table.
func printNetwork(w io.Writer, node string, network bootspec.Network) error {
	var table bytes.Buffer
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for _, l := range network.Links {
		mtu := ""
		if l.MTU != 0 {
			mtu = fmt.Sprintf("mtu %d", l.MTU)
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", l.Name, l.Kind, describeLink(l, network), mtu, strings.Join(linkAddresses(l), " "))
		for _, r := range l.Routes {
			fmt.Fprintf(t, "  \t\t%s\t\t\n", describeRoute(r))
		}
	}
	if len(network.DNS) > 0 {
		fmt.Fprintf(t, "  dns\t\t%s\t\t\n", strings.Join(texts(network.DNS), " "))
	}
	if len(network.Domains) > 0 {
		fmt.Fprintf(t, "  search\t\t%s\t\t\n", strings.Join(network.Domains, " "))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, node)
	for line := range strings.Lines(table.String()) {
		_, err = fmt.Fprintln(w, strings.TrimRight(line, " \n"))
	}
	return err
}

// describeLink says how a link is found, or what it is made of.
func describeLink(l bootspec.Link, network bootspec.Network) string {
	var words []string
	add := func(name, value string) {
		if value != "" {
			words = append(words, name+" "+value)
		}
	}
	switch l.Kind {
	case bootspec.KindPhysical:
		add("mac", l.Match.MAC)
		add("driver", l.Match.Driver)
		add("pci", l.Match.PCI)
	case bootspec.KindVLAN:
		words = append(words, fmt.Sprintf("%d on %s", l.VLAN.ID, l.VLAN.Parent))
	case bootspec.KindBond:
		words = append(words, l.Bond.Mode)
		add("lacp", l.Bond.LACP)
		add("hash", l.Bond.Hash)
	}
	add("of", strings.Join(l.Members, " "))
	for _, m := range network.Links {
		if slices.Contains(m.Members, l.Name) {
			add("in", m.Name)
		}
	}
	return strings.Join(words, ", ")
}

func linkAddresses(l bootspec.Link) []string {
	words := texts(l.Addresses)
	if l.DHCP {
		words = append(words, "dhcp")
	}
	if l.SLAAC {
		words = append(words, "slaac")
	}
	return words
}

func describeRoute(r bootspec.Route) string {
	words := "route " + r.To.String()
	if r.Via.IsValid() {
		words += " via " + r.Via.String()
	}
	if r.Metric != 0 {
		words += fmt.Sprintf(" metric %d", r.Metric)
	}
	return words
}

func texts[T fmt.Stringer](list []T) []string {
	var words []string
	for _, v := range list {
		words = append(words, v.String())
	}
	return words
}

func netAssignCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var dry bool
	c := &cobra.Command{
		Use:   "assign --cluster FILE",
		Short: "Give nodes addresses of their networks' pools",
		Long: `assign gives each link of a node that has no address one of its network's pool, and records it in a file beside
the document, FILE` + cluster.AddressesExt + `. A node keeps its address as long as it is recorded there, whatever else changes in the
document; keep the file with the document. Nodes that have theirs are left alone.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := needs(c, "cluster"); err != nil {
				return err
			}
			record, chosen, err := cluster.Assign(flags.file)
			if err != nil {
				return err
			}
			for _, x := range chosen {
				fmt.Fprintf(a.out, "%s: %v on %s\n", x.Node, x.Address, x.Network)
			}
			if len(chosen) == 0 || dry {
				return nil
			}
			var text bytes.Buffer
			if err := record.Write(&text); err != nil {
				return err
			}
			if err := replaceFile(flags.file+cluster.AddressesExt, 0o644, text.Bytes()); err != nil {
				return fmt.Errorf("cannot write record of addresses: %w", err)
			}
			return nil
		},
	}
	flags.register(c)
	c.Flags().BoolVar(&dry, "dry-run", false, "only say which addresses would be given")
	return c
}
