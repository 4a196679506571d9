// Package adopt makes nodes of the cluster document out of machines that a boot server has discovered: it writes the entry of a node as
// a person would, and adds it to the document without touching anything else that stands there.
//
// It is pure: what it knows of machines is what they said of themselves (bootspec.Hardware), what it makes is text. Reading and writing
// files, and whether the document is right with the new node, is for others to do (profiles/cluster).
package adopt

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// Options are what an operator says of a node.
type Options struct {
	Role string
	Name string // empty: the next one of the role's nodes
	// Disk is where the node installs itself: serial number, WWN, place on the bus or name of one of the machine's disks. Empty: the one that
	// the document's install chooses for all nodes, if it does.
	Disk string
	// Addresses and Links are the address and the network card (its MAC address) for a network by its name. Others are chosen.
	Addresses map[string]netip.Addr
	Links     map[string]string
	// MACOnly leaves out the UUID and the serial number by which the machine is told from others with its MAC address.
	MACOnly bool
}

// Node is a node to be, and its entry in the document: lines without the list's dash and indentation.
type Node struct {
	Name  string
	Lines []string
	node  cluster.Node
}

// Plan makes a node of a machine. Addresses of networks without a pool are the next ones after those of the nodes of the same role. The
// cluster isn't changed; With adds the node to it for the next one.
func Plan(c *cluster.Cluster, h bootspec.Hardware, o Options) (Node, error) {
	fail := func(err error) (Node, error) { return Node{}, fmt.Errorf("cannot adopt %s: %w", h.MAC, err) }
	if n, known := c.NodeByMAC(h.MAC); known {
		return fail(fmt.Errorf("it is %s already", n.Name))
	}
	n := cluster.Node{Name: o.Name, Role: o.Role}
	if n.Name == "" {
		n.Name = nextName(c, o.Role)
	}
	links, err := planLinks(c, h, o)
	if err != nil {
		return fail(err)
	}
	n.Links = links
	disk, err := planDisk(c, h, o.Disk)
	if err != nil {
		return fail(err)
	}
	lines := []string{"name: " + n.Name, "role: " + n.Role, "match: " + match(h, o.MACOnly), "links:"}
	for _, l := range links {
		lines = append(lines, "  - "+linkText(l))
	}
	if disk != "" {
		lines = append(lines, "install: {disk: {"+disk+"}}")
	}
	return Node{Name: n.Name, Lines: lines, node: n}, nil
}

// With is the cluster with another node, for planning the next one.
func With(c *cluster.Cluster, n Node) *cluster.Cluster {
	next := *c
	next.Nodes = append(slices.Clone(c.Nodes), n.node)
	return &next
}

var numbered = regexp.MustCompile(`^(.*?)([0-9]+)$`)

// nextName is the name after the highest of the role's nodes: worker-3 after worker-2, r7n13 after r7n12.
func nextName(c *cluster.Cluster, role string) string {
	prefix, highest := map[string]string{cluster.RoleControlPlane: "cp-"}[role], 0
	if prefix == "" {
		prefix = role + "-"
	}
	for _, n := range c.Nodes {
		m := numbered.FindStringSubmatch(n.Name)
		if n.Role != role || m == nil {
			continue
		}
		if number, err := strconv.Atoi(m[2]); err == nil && number > highest {
			prefix, highest = m[1], number
		}
	}
	for {
		highest++
		name := prefix + strconv.Itoa(highest)
		if _, taken := c.Node(name); !taken {
			return name
		}
	}
}

// quote is a text as YAML has it in double quotes; texts of machines are printable ASCII.
func quote(s string) string { return strconv.Quote(bootspec.HardwareText(s)) }

// noIdentity are what makers write who forgot to.
var noIdentity = []string{"", "0", "none", "default string", "to be filled by o.e.m.", "system serial number", "not specified", "not applicable", "123456789", "0123456789"}

func match(h bootspec.Hardware, macOnly bool) string {
	words := []string{"mac: " + quote(h.MAC)}
	uuid := strings.ToLower(h.System.UUID)
	if !macOnly && strings.Trim(uuid, "0-") != "" && strings.Trim(uuid, "f-") != "" {
		words = append(words, "uuid: "+quote(uuid))
	}
	if !macOnly && !slices.Contains(noIdentity, strings.ToLower(h.System.Serial)) {
		words = append(words, "serial: "+quote(h.System.Serial))
	}
	return "{" + strings.Join(words, ", ") + "}"
}

func linkText(l cluster.Link) string {
	words := []string{"name: " + l.Name}
	if l.MAC != "" {
		words = append(words, "mac: "+quote(string(l.MAC)))
	}
	if l.Parent != "" {
		words = append(words, "parent: "+l.Parent)
	}
	words = append(words, "network: "+l.Network)
	if l.Address.IsValid() {
		words = append(words, "address: "+l.Address.String())
	}
	return "{" + strings.Join(words, ", ") + "}"
}

// planLinks gives the node a link on the management network, by the card it was discovered with, and one on the container network.
func planLinks(c *cluster.Cluster, h bootspec.Hardware, o Options) ([]cluster.Link, error) {
	mac, err := cluster.ParseMAC(h.MAC)
	if err != nil {
		return nil, err
	}
	management, container := c.Management(), c.Container()
	for _, named := range [][]string{keys(o.Addresses), keys(o.Links)} {
		for _, network := range named {
			if network != management && network != container {
				return nil, fmt.Errorf("network %q is neither the management network (%s) nor the container network (%s)", network, management, container)
			}
		}
	}
	if said, ok := o.Links[management]; ok {
		if mac, err = cluster.ParseMAC(said); err != nil {
			return nil, err
		}
	}
	first := cluster.Link{Name: "eth0", MAC: mac, Network: management}
	if first.Address, err = address(c, management, o); err != nil {
		return nil, err
	}
	if container == management {
		return []cluster.Link{first}, nil
	}
	second := cluster.Link{Name: "eth1", Network: container}
	switch said, ok := o.Links[container]; {
	case ok:
		if second.MAC, err = cluster.ParseMAC(said); err != nil {
			return nil, err
		}
	case c.Networks[container].VLAN != 0:
		second.Name, second.Parent = "pods", first.Name
	default:
		if second.MAC, err = otherCard(h, mac); err != nil {
			return nil, fmt.Errorf("the container network %s has no card: %w (say which with --link %s=MAC)", container, err, container)
		}
	}
	if second.Address, err = address(c, container, o); err != nil {
		return nil, err
	}
	return []cluster.Link{first, second}, nil
}

func keys[V any](m map[string]V) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	return names
}

// otherCard is the first network card on the bus besides one, with a cable if there is one that has.
func otherCard(h bootspec.Hardware, but cluster.MAC) (cluster.MAC, error) {
	var others []bootspec.HardwareNIC
	for _, n := range h.NICs {
		if n.MAC != string(but) {
			others = append(others, n)
		}
	}
	if len(others) == 0 {
		return "", fmt.Errorf("the machine has told of %d network cards", len(h.NICs))
	}
	slices.SortStableFunc(others, func(a, b bootspec.HardwareNIC) int {
		if a.Carrier != b.Carrier {
			if a.Carrier {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.PCI, b.PCI), cmp.Compare(a.Name, b.Name))
	})
	return cluster.ParseMAC(others[0].MAC)
}

// address is the node's address on a network; the zero Addr where the network's pool gives it.
func address(c *cluster.Cluster, network string, o Options) (netip.Addr, error) {
	if a, said := o.Addresses[network]; said {
		return a, nil
	}
	n := c.Networks[network]
	if n.Pool.IsValid() {
		return netip.Addr{}, nil
	}
	used := map[netip.Addr]bool{c.Provisioning.Server: true, c.Kubernetes.VirtualAddress: true, n.CIDR.Masked().Addr(): true}
	for _, other := range c.Networks {
		used[other.Gateway] = true
		for _, a := range other.DNS {
			used[a] = true
		}
	}
	var after netip.Addr
	for _, node := range c.Nodes {
		for _, l := range node.Links {
			used[l.Address] = true
			if node.Role == o.Role && l.Network == network && l.Address.IsValid() && (!after.IsValid() || after.Less(l.Address)) {
				after = l.Address
			}
		}
	}
	if !after.IsValid() {
		after = n.CIDR.Masked().Addr()
	}
	free := func(a netip.Addr) bool {
		return !used[a] && !c.Provisioning.Pool.Contains(a) && n.CIDR.Contains(a.Next()) // the last one is the broadcast address
	}
	for _, from := range []netip.Addr{after.Next(), n.CIDR.Masked().Addr().Next()} {
		for a := from; a.IsValid() && n.CIDR.Contains(a); a = a.Next() {
			if free(a) {
				return a, nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("network %s (%s) has no free address (say one with --address %s=ADDRESS)", network, n.CIDR, network)
}

// planDisk is how the document names the disk that the node installs itself to; empty: it doesn't, or nothing is known of its disks.
func planDisk(c *cluster.Cluster, h bootspec.Hardware, said string) (string, error) {
	if said == "" && (c.Install == nil || c.Install.Skip || c.Install.Disk == nil || len(h.Disks) == 0) {
		return "", nil
	}
	var fit []bootspec.HardwareDisk
	for _, d := range h.Disks {
		if d.Optical || d.ReadOnly || d.Size == 0 {
			continue
		}
		if said != "" && slices.Contains([]string{d.Serial, d.WWN, d.Bus, d.Name, "/dev/" + d.Name}, said) || said == "" && !d.Removable && fits(c.Install.Disk, d) {
			fit = append(fit, d)
		}
	}
	if said == "" && c.Install.Disk.Smallest {
		slices.SortStableFunc(fit, func(a, b bootspec.HardwareDisk) int {
			return cmp.Or(cmp.Compare(a.Size, b.Size), cmp.Compare(a.Bus, b.Bus), cmp.Compare(a.Name, b.Name))
		})
		fit = fit[:min(len(fit), 1)]
	}
	if len(fit) != 1 {
		return "", fmt.Errorf("%d of its disks fit, so it isn't clear where it installs itself (say which with --disk): %s", len(fit), diskList(h.Disks))
	}
	return stableID(fit[0], h.Disks)
}

// fits says whether a disk is one that the document's install means.
func fits(want *cluster.Disk, d bootspec.HardwareDisk) bool {
	return (want.Path == "" || want.Path == d.Bus || want.Path == "/dev/"+d.Name) && d.Size >= int64(want.MinSize) && (want.MaxSize == 0 || d.Size <= int64(want.MaxSize))
}

// stableID names a disk by what stays the same whatever is plugged in besides: WWN, serial number, or its place on the bus.
func stableID(d bootspec.HardwareDisk, all []bootspec.HardwareDisk) (string, error) {
	alone := func(value string, of func(bootspec.HardwareDisk) string) bool {
		count := 0
		for _, other := range all {
			if of(other) == value {
				count++
			}
		}
		return value != "" && count == 1
	}
	switch {
	case alone(d.WWN, func(d bootspec.HardwareDisk) string { return d.WWN }):
		return "wwn: " + quote(d.WWN), nil
	case alone(d.Serial, func(d bootspec.HardwareDisk) string { return d.Serial }):
		return "serial: " + quote(d.Serial), nil
	case alone(d.Bus, func(d bootspec.HardwareDisk) string { return d.Bus }):
		return "path: " + quote(d.Bus), nil
	}
	return "", fmt.Errorf("disk %s has no serial number, no WWN and no place of its own on the bus: write install: by hand", d.Name)
}

func diskList(disks []bootspec.HardwareDisk) string {
	var words []string
	for _, d := range disks {
		words = append(words, strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s %s", d.Name, bootspec.DiskSize(d.Size), d.Model, d.Serial, d.WWN)), " "))
	}
	if len(words) == 0 {
		return "it has told of none"
	}
	return strings.Join(words, "; ")
}
