package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/adopt"
	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// adoptFlags are what adopt needs besides the cluster.
type adoptFlags struct {
	clusterFlags
	options          adopt.Options
	addresses, links []string
	state            string
	write            bool
}

func adoptCommand(a *app) *cobra.Command {
	var flags adoptFlags
	c := &cobra.Command{
		Use:   "adopt MAC... --role ROLE --cluster FILE [--write]",
		Short: "Make nodes of the cluster document out of discovered machines",
		Long: `adopt writes the entries of new nodes for machines that are not in the cluster document yet, out of what they told the boot server
(provisioning.unknownMachines: discover; see "slipway machines"): MAC address, UUID and serial number, network cards, the disk to
install to by its WWN or serial number where the document has nodes install themselves. Names go on where those of the role end, and so do
addresses, unless the network has a pool. A machine that was not discovered has its MAC address alone.

It prints them; with --write it adds them to the document, in which everything else stays as it is, with comments and layout, and has
a running boot server serve it. What the document would be is checked first: a faulty one is not written. Control planes are an odd
number: adopt two at once.`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(c, errors.New("name a machine by its MAC address"))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := needs(c, "role"); err != nil {
				return err
			}
			if len(args) > 1 && (flags.options.Name != "" || len(flags.addresses)+len(flags.links) > 0 || flags.options.Disk != "") {
				return usage(c, errors.New("--name, --address, --link and --disk are of one machine: adopt one at a time"))
			}
			d, err := flags.load(c)
			if err != nil {
				return err
			}
			if flags.write && d.file == "" {
				return usage(c, fmt.Errorf("%s is a shipped example, no file: there is nothing to write to", flags.file))
			}
			return adoptMachines(c, a, &flags, d, args)
		},
	}
	flags.register(c)
	c.Flags().StringVar(&flags.options.Role, "role", "", "role of the node: control-plane, worker")
	c.Flags().StringVar(&flags.options.Name, "name", "", "name of the node (default: the next one of its role)")
	c.Flags().StringVar(&flags.options.Disk, "disk", "", "disk that the node installs itself to: serial number, WWN, place on the bus or name")
	c.Flags().StringSliceVar(&flags.addresses, "address", nil, "NETWORK=ADDRESS of the node (default: the next one, or of the network's pool)")
	c.Flags().StringSliceVar(&flags.links, "link", nil, "NETWORK=MAC of the network card for a network")
	c.Flags().BoolVar(&flags.options.MACOnly, "mac-only", false, "don't require UUID and serial number of the machine")
	c.Flags().BoolVar(&flags.write, "write", false, "add it to the document, and have a running boot server serve that")
	c.Flags().StringVar(&flags.state, "state", "", "the boot server's folder of node states (default: /var/lib/slipway/CLUSTER)")
	return c
}

// read takes the flags that name networks.
func (f *adoptFlags) read(c *cobra.Command) error {
	f.options.Addresses, f.options.Links = map[string]netip.Addr{}, map[string]string{}
	for _, word := range f.addresses {
		network, text, ok := strings.Cut(word, "=")
		address, err := netip.ParseAddr(text)
		if !ok || err != nil {
			return usage(c, fmt.Errorf("--address is like mgmt=10.1.0.23, not %q", word))
		}
		f.options.Addresses[network] = address
	}
	for _, word := range f.links {
		network, mac, ok := strings.Cut(word, "=")
		if !ok {
			return usage(c, fmt.Errorf("--link is like container=52:54:00:00:01:23, not %q", word))
		}
		f.options.Links[network] = mac
	}
	return nil
}

func adoptMachines(c *cobra.Command, a *app, flags *adoptFlags, d *clusterDocument, words []string) error {
	if err := flags.read(c); err != nil {
		return err
	}
	state := stateFolder(flags.state, d)
	known, unread := netboot.Machines(c.Context(), state)
	planned, nodes := d.Cluster, []adopt.Node(nil)
	for _, word := range words {
		mac, err := cluster.ParseMAC(word)
		if err != nil {
			return usage(c, err)
		}
		h, found := hardwareOf(known, string(mac))
		if !found {
			fmt.Fprintf(a.words, "nothing is known of the hardware of %s: %v\n", mac, whyUnknown(unread))
		}
		n, err := adopt.Plan(planned, h, flags.options)
		if err != nil {
			return err
		}
		nodes, planned = append(nodes, n), adopt.With(planned, n)
	}
	if d.file == "" {
		return printEntries(a, nodes)
	}
	return writeEntries(c.Context(), a, flags, d, state, nodes)
}

func whyUnknown(err error) error {
	if err != nil {
		return err
	}
	return errors.New("it was not discovered here")
}

// hardwareOf is what is known of a machine: its MAC address at least.
func hardwareOf(known []netboot.Discovered, mac string) (bootspec.Hardware, bool) {
	for _, m := range known {
		if m.Hardware.MAC == mac {
			return m.Hardware, true
		}
	}
	return bootspec.Hardware{MAC: mac}, false
}

// printEntries prints entries as they stand in a list.
func printEntries(a *app, nodes []adopt.Node) error {
	for _, n := range nodes {
		if _, err := fmt.Fprintf(a.out, "  - %s\n", strings.Join(n.Lines, "\n    ")); err != nil {
			return err
		}
	}
	return nil
}

// writeEntries checks what the document would be, and prints the entries or writes the document.
func writeEntries(ctx context.Context, a *app, flags *adoptFlags, d *clusterDocument, state string, nodes []adopt.Node) error {
	file, err := filepath.EvalSymlinks(d.file)
	if err != nil {
		return err
	}
	before, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot read cluster document: %w", err)
	}
	after, err := adopt.Insert(before, nodes)
	if err != nil && !flags.write && errors.Is(err, adopt.ErrLayout) {
		return printEntries(a, nodes) // for a person to put where it belongs
	}
	if err != nil {
		return fmt.Errorf("%s: %w (adopt without --write prints what to add)", d.file, err)
	}
	changed, record, chosen, err := cluster.Propose(file, after)
	if err != nil {
		fmt.Fprintln(a.words, "with the new nodes the document would be wrong, so nothing is written:")
		return err
	}
	if had := len(d.Nodes); len(changed.Nodes) != had+len(nodes) || !reflect.DeepEqual(changed.Nodes[:had], d.Nodes) {
		return fmt.Errorf("%s: adding nodes would change others, so nothing is written (adopt without --write prints what to add)", d.file)
	}
	if err := printEntries(a, nodes); err != nil {
		return err
	}
	for _, x := range chosen {
		fmt.Fprintf(a.words, "%s: %v on %s, of the pool\n", x.Node, x.Address, x.Network)
	}
	if !flags.write {
		fmt.Fprintln(a.words, "nothing is written: add it to the document, or run this again with --write")
		return nil
	}
	if err := replaceDocument(file, before, after, record, chosen); err != nil {
		return err
	}
	fmt.Fprintf(a.words, "%s has %d nodes now\n", d.file, len(changed.Nodes))
	return tellReload(ctx, a, state)
}

// replaceDocument writes the record of addresses, which may have nodes that no document has, and then the document.
func replaceDocument(file string, before, after []byte, record cluster.Addresses, chosen []cluster.Assigned) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if len(chosen) > 0 {
		var text bytes.Buffer
		if err := record.Write(&text); err != nil {
			return err
		}
		if err := replaceFile(file+cluster.AddressesExt, 0o644, text.Bytes()); err != nil {
			return fmt.Errorf("cannot write record of addresses: %w", err)
		}
	}
	if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, before) {
		return fmt.Errorf("%s was changed meanwhile, so it is not written (run this again)", file)
	}
	if err := replaceFile(file, info.Mode().Perm(), after); err != nil {
		return fmt.Errorf("cannot write cluster document: %w", err)
	}
	return nil
}

// tellReload has a running boot server serve the changed document.
func tellReload(ctx context.Context, a *app, state string) error {
	switch err := netboot.Reload(ctx, state); {
	case errors.Is(err, netboot.ErrNotRunning):
		fmt.Fprintf(a.words, "no boot server runs here with %s: the one that serves this document is told with `slipway reload`\n", state)
		return nil
	case err != nil:
		return fmt.Errorf("the document is written, but the boot server doesn't serve it: %w", err)
	}
	fmt.Fprintln(a.words, "the boot server serves it")
	return nil
}

func reloadCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var state string
	c := &cobra.Command{
		Use:   "reload --cluster FILE",
		Short: "Have the running boot server serve the changed cluster document or identity",
		Long: `reload has the running boot server read its cluster document, its folder of images and the identity again. What is wrong with them is printed,
and the server goes on with all that it had. An identity whose keys are encrypted is opened as at the server's start, without asking. The cluster's
name, the provisioning subnet, the server's own address and ports take a restart. SIGHUP does the same. It works on the boot server's machine, through its state folder.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := flags.load(c)
			if err != nil {
				return err
			}
			folder := stateFolder(state, d)
			if err := netboot.Reload(c.Context(), folder); err != nil {
				if errors.Is(err, netboot.ErrNotRunning) {
					err = fmt.Errorf("%w: %s (say which with --state)", err, folder)
				}
				return fmt.Errorf("cannot reload: %w", err)
			}
			fmt.Fprintln(a.words, "the boot server serves the document and the identity as they are now")
			return nil
		},
	}
	flags.register(c)
	c.Flags().StringVar(&state, "state", "", "the boot server's folder of node states (default: /var/lib/slipway/CLUSTER)")
	return c
}
