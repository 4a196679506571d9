package cluster

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/document"
)

// links checks a node's links: each by itself, and what one is on or made of.
func (k *check) links(c *Cluster, n *Node, path string, macs, addresses taken) {
	names, members := taken{}, taken{}
	for i, l := range n.Links {
		at := document.Index(path+".links", i)
		k.linkName(at+".name", l.Name)
		k.unique(names, "name", l.Name, at+".name")
		k.unique(macs, "MAC address", string(l.MAC), at+".mac")
		k.mtu(at+".mtu", l.MTU)
		switch l.Kind {
		case bootspec.KindPhysical:
			k.physicalLink(l, at)
			k.taggedLink(c, l, at, names)
		case bootspec.KindVLAN:
			k.vlanLink(n, l, at)
		case bootspec.KindBond:
			k.bondLink(l, at)
			k.members(n, l, at, members)
			k.taggedLink(c, l, at, names)
		case bootspec.KindBridge:
			k.members(n, l, at, members)
		default:
			k.oneOf(at+".kind", "kind of link", l.Kind, []string{bootspec.KindPhysical, bootspec.KindVLAN, bootspec.KindBond, bootspec.KindBridge})
			continue
		}
		k.foreign(l, at)
		k.linkAddress(c, l, at, addresses)
		k.linkAddress6(c, l, at, addresses)
	}
	k.circles(n, path)
}

func (k *check) linkName(path, name string) {
	const hint = "use 1 to 15 of letters, digits, . _ and -, like eth0"
	switch {
	case name == "":
		k.fault(path, hint, "is missing")
	case len(name) > 15:
		k.fault(path, hint, "%q is over the kernel's limit of 15 bytes for a link's name", name)
	case !linkName.MatchString(name) || name == "all" || name == "default" || name == "lo":
		k.fault(path, hint, "%q can't be a link's name", name)
	}
}

// pciFunction is a PCI function's place: domain, bus, device, function.
var pciFunction = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

func (k *check) physicalLink(l Link, at string) {
	if l.MAC == "" && l.Driver == "" && l.PCI == "" {
		k.fault(at+".mac", "a physical link is found by mac, driver or pci; a VLAN has parent:, a bond bond: and members:", "is missing")
	}
	if l.PCI != "" && !pciFunction.MatchString(l.PCI) {
		k.fault(at+".pci", "write it like 0000:00:03.0", "%q is not the place of a PCI function", l.PCI)
	}
}

// taggedLink checks a link that stands for two when its network has a tag.
func (k *check) taggedLink(c *Cluster, l Link, at string, names taken) {
	if l.VLAN != 0 {
		k.fault(at+".vlan", "set vlan on the network, or make a link with parent: "+l.Name, "a %s link has no tag of its own", l.Kind)
	}
	if tag := c.Networks[l.Network].VLAN; tag != 0 && !l.Untagged {
		name := VLANName(l.Name, tag)
		if len(name) > 15 {
			k.fault(at+".name", "choose a shorter name", "%q, its VLAN's name, is over the kernel's limit of 15 bytes", name)
		}
		k.unique(names, "name", name, at+".name")
	}
}

// VLANName is the name of the kernel link for a tag on a physical link or a bond.
func VLANName(parent string, tag int) string { return fmt.Sprintf("%s.%d", parent, tag) }

// foreign reports fields of other kinds of links.
func (k *check) foreign(l Link, at string) {
	physical, virtual := l.Kind == bootspec.KindPhysical, l.Kind == bootspec.KindBond || l.Kind == bootspec.KindBridge
	for _, f := range []struct {
		field  string
		set    bool
		belong bool
		to     string
	}{
		{"mac", l.MAC != "", physical, "a physical link has one; others take that of what they are on"},
		{"driver", l.Driver != "", physical, "only a physical link is found by it"},
		{"pci", l.PCI != "", physical, "only a physical link is found by it"},
		{"parent", l.Parent != "", l.Kind == bootspec.KindVLAN, "only a VLAN has a parent"},
		{"untagged", l.Untagged, physical || l.Kind == bootspec.KindBond, "only physical links and bonds can be untagged"},
		{"members", l.Members != nil, virtual, "only bonds and bridges have members"},
		{"bond", l.Bond != nil, l.Kind == bootspec.KindBond, "only a bond has options of one"},
	} {
		if f.set && !f.belong {
			k.fault(at+"."+f.field, "remove it, or change kind: "+f.to, "a %s link has no %s", l.Kind, f.field)
		}
	}
}

func (k *check) vlanLink(n *Node, l Link, at string) {
	k.vlan(at+".vlan", l.VLAN)
	if l.VLAN == 0 {
		k.fault(at+".vlan", "set it here or on the network", "the VLAN has no tag")
	}
	i := n.link(l.Parent)
	switch {
	case l.Parent == "":
		k.fault(at+".parent", "name the link it is on", "is missing")
	case i < 0:
		k.fault(at+".parent", "", "%s has no link %q", n.Name, l.Parent)
	case n.Links[i].Kind == bootspec.KindVLAN:
		k.fault(at+".parent", "name the physical link", "%q is a VLAN itself; VLANs in VLANs are not supported", l.Parent)
	}
}

func (k *check) bondLink(l Link, at string) {
	if len(l.Members) == 0 {
		k.fault(at+".members", "name the physical links it is made of, like [eth0, eth1]", "is missing")
	}
	if l.Bond == nil {
		k.fault(at+".bond", "write it like bond: {mode: 802.3ad}", "is missing")
		return
	}
	b := *l.Bond
	k.oneOf(at+".bond.mode", "mode of a bond", b.Mode, bootspec.BondModes)
	if b.MIIMon < 0 || b.MIIMon > 10000 {
		k.fault(at+".bond.miimon", "100 is usual", "%d is not a time from 1 to 10000 milliseconds", b.MIIMon)
	}
	if b.LACP != "" {
		k.oneOf(at+".bond.lacp", "rate of LACP", b.LACP, []string{"slow", "fast"})
		if b.Mode != bootspec.BondLACP {
			k.fault(at+".bond.lacp", "remove it, or use mode: "+bootspec.BondLACP, "mode %s negotiates nothing", b.Mode)
		}
	}
	if b.Hash != "" {
		k.oneOf(at+".bond.hash", "hash policy", b.Hash, bootspec.BondHashes)
		if !(bootspec.Bond{Mode: b.Mode}).Hashes() {
			k.fault(at+".bond.hash", "remove it", "mode %s has no hash policy", b.Mode)
		}
	}
}

// members checks what a bond or a bridge is made of: links with nothing of their own, each in one.
func (k *check) members(n *Node, l Link, at string, members taken) {
	for j, name := range l.Members {
		path := document.Index(at+".members", j)
		i := n.link(name)
		if i < 0 {
			k.fault(path, "", "%s has no link %q", n.Name, name)
			continue
		}
		k.unique(members, "member", name, path)
		m := n.Links[i]
		switch {
		case l.Kind == bootspec.KindBond && m.Kind != bootspec.KindPhysical:
			k.fault(path, "name physical links", "%s is no physical link, a bond is made of those", name)
		case m.Kind == bootspec.KindBridge:
			k.fault(path, "name physical links, bonds or VLANs", "%s is a bridge itself", name)
		case m.Network != "" || m.Address.IsValid() || m.Address6.IsValid() || m.DHCP || m.SLAAC:
			k.fault(path, "give network and addresses to "+l.Name, "%s has a network or addresses of its own", name)
		}
	}
}

// circles reports links that are on themselves.
func (k *check) circles(n *Node, path string) {
	for i, l := range n.Links {
		if slices.Contains(n.under(l.Name, map[string]bool{}), l.Name) {
			k.fault(document.Index(path+".links", i), "parents and members must end at physical links", "%s is on itself", l.Name)
			return
		}
	}
}

// under is the names of all that a link is on or made of.
func (n *Node) under(name string, seen map[string]bool) []string {
	i := n.link(name)
	if i < 0 || seen[name] {
		return nil
	}
	seen[name] = true
	l := n.Links[i]
	direct := slices.Clone(l.Members)
	if l.Parent != "" {
		direct = append(direct, l.Parent)
	}
	all := slices.Clone(direct)
	for _, d := range direct {
		all = append(all, n.under(d, seen)...)
	}
	return all
}

func (k *check) linkAddress(c *Cluster, l Link, at string, addresses taken) {
	network, known := c.Networks[l.Network]
	if l.Network != "" && !known {
		k.fault(at+".network", document.Suggest(l.Network, c.networkNames()), "no network is called %q", l.Network)
	}
	if l.DHCP && l.Address.IsValid() {
		k.fault(at+".dhcp", "remove one of them", "the link has an address already")
	}
	if !l.Address.IsValid() {
		return
	}
	k.unique(addresses, "address", l.Address.String(), at+".address")
	switch {
	case l.Network == "":
		k.fault(at+".network", "name the network that the address is in", "is missing")
	case known && network.CIDR.IsValid() && network.CIDR == network.CIDR.Masked() && network.CIDR.Addr().Is4():
		k.host(at+".address", l.Address, network.CIDR, "network "+l.Network)
	}
}

func (k *check) linkAddress6(c *Cluster, l Link, at string, addresses taken) {
	a := l.Address6
	if !a.IsValid() {
		return
	}
	k.unique(addresses, "address", a.String(), at+".address6")
	network := c.Networks[l.Network]
	switch {
	case !network.CIDR6.IsValid():
		k.fault(at+".address6", "set cidr6 on its network", "the link's network has no IPv6")
	case !network.CIDR6.Contains(a) || a == network.CIDR6.Masked().Addr():
		k.fault(at+".address6", fmt.Sprintf("use an address like %s", network.CIDR6.Masked().Addr().Next()), "%s is no machine's address in network %s (%s)", a, l.Network, network.CIDR6)
	}
}

// network6 checks a network's IPv6, and the routes that lead through it.
func (k *check) network6(n Network, path string) {
	switch p := n.CIDR6; {
	case !p.IsValid():
		if n.Gateway6.IsValid() && !n.Gateway6.IsLinkLocalUnicast() {
			k.fault(path+".gateway6", "set cidr6, or use the router's link-local address", "the network has no cidr6")
		}
	case p.Addr().Is4():
		k.fault(path+".cidr6", "write it like 2001:db8:0:1::/64; IPv4 belongs into cidr", "%s is IPv4", p)
	case p != p.Masked():
		k.fault(path+".cidr6", fmt.Sprintf("write %s", p.Masked()), "%s has bits set beyond its length", p)
	case n.Gateway6.IsValid() && !p.Contains(n.Gateway6) && !n.Gateway6.IsLinkLocalUnicast():
		k.fault(path+".gateway6", "use the router's address there, or its link-local one", "%s is not in %s", n.Gateway6, p)
	}
	if g := n.Gateway6; g.IsValid() && (g.Is4() || g.Zone() != "") {
		k.fault(path+".gateway6", "write it like fe80::1", "%s is no IPv6 address without a zone", g)
	}
	for i, r := range n.Routes {
		k.route(n, r, document.Index(path+".routes", i))
	}
}

func (k *check) route(n Network, r Route, at string) {
	switch {
	case !r.To.IsValid():
		k.fault(at+".to", "write it like 10.8.0.0/16", "is missing")
		return
	case r.To != r.To.Masked():
		k.fault(at+".to", fmt.Sprintf("write %s", r.To.Masked()), "%s has bits set beyond its length", r.To)
	case r.To.Bits() == 0:
		k.fault(at+".to", "set gateway or gateway6", "the default route is the gateway's")
	}
	within := n.CIDR
	if r.To.Addr().Is6() {
		within = n.CIDR6
	}
	switch {
	case r.Via.IsValid() && r.Via.Is4() != r.To.Addr().Is4():
		k.fault(at+".via", "use an address of the same kind", "%s can't lead to %s", r.Via, r.To)
	case r.Via.IsValid() && within.IsValid() && !within.Contains(r.Via) && !r.Via.IsLinkLocalUnicast():
		k.fault(at+".via", "use a router in the network", "%s is not in %s", r.Via, within)
	}
	if r.Metric < 0 || r.Metric > 1<<20 {
		k.fault(at+".metric", "less is preferred; gateways have 100 to 300", "%d is not from 0 to 1048576", r.Metric)
	}
}

// networkPool checks the pool that nodes' addresses are taken from.
func (k *check) networkPool(c *Cluster, name, path string) {
	n := c.Networks[name]
	if !n.Pool.IsValid() || !n.CIDR.IsValid() || !n.CIDR.Addr().Is4() {
		return
	}
	const hint = "end the pool before it, or begin it after it"
	if !k.host(path+".pool", n.Pool.First, n.CIDR, "network "+name) || !k.host(path+".pool", n.Pool.Last, n.CIDR, "network "+name) {
		return
	}
	for _, other := range []struct {
		what    string
		address netip.Addr
	}{{"the gateway", n.Gateway}, {"the boot server", c.Provisioning.Server}, {"the virtual address", c.Kubernetes.VirtualAddress}} {
		if n.Pool.Contains(other.address) {
			k.fault(path+".pool", hint, "the pool %s contains %s %s", n.Pool, other.what, other.address)
		}
	}
	if p := c.Provisioning.Pool; p.IsValid() && !p.Last.Less(n.Pool.First) && !n.Pool.Last.Less(p.First) {
		k.fault(path+".pool", "keep them apart: provisioning.pool is for machines that are not in the document", "it overlaps provisioning.pool %s", p)
	}
}
