package cluster

import (
	"net/netip"

	"github.com/slipway-os/slipway/images/document"
)

// provisioningNetwork is the name of the network that machines boot on; empty: there is none.
func (c *Cluster) provisioningNetwork() string {
	for _, name := range c.networkNames() {
		if cidr := c.Networks[name].CIDR; cidr.IsValid() && c.Provisioning.Subnet.IsValid() && cidr.Overlaps(c.Provisioning.Subnet) {
			return name
		}
	}
	return ""
}

// setDefaults6 fills in what booting over IPv6 needs and the document doesn't say.
func (c *Cluster) setDefaults6(source *document.Source) {
	network, p := c.Networks[c.provisioningNetwork()], &c.Provisioning
	if !source.Has("provisioning.subnet6") && p.Server6.IsValid() {
		p.Subnet6 = network.CIDR6
	}
	if !source.Has("provisioning.routerAdvertisements") {
		p.RouterAdvertisements = p.Server6.IsValid() && !network.Gateway6.IsValid()
	}
}

// BootAddress6 is the address that the boot server leases to a node over IPv6: that of a link of its in the provisioning
// subnet, else the subnet's with the node's IPv4 address there as its last 32 bits. The zero Addr where machines don't boot over IPv6,
// and for a node of another provisioning subnet.
func (c *Cluster) BootAddress6(n *Node) netip.Addr {
	subnet, v4 := c.Provisioning.Subnet6, c.BootAddress(n)
	if !c.Provisioning.Server6.IsValid() || !subnet.IsValid() {
		return netip.Addr{}
	}
	for _, l := range n.Links {
		if l.Address6.IsValid() && subnet.Contains(l.Address6) {
			return l.Address6
		}
	}
	if !v4.Is4() || !c.Provisioning.Subnet.Contains(v4) || subnet.Bits() > maxBits6 {
		return netip.Addr{}
	}
	bytes, last := subnet.Masked().Addr().As16(), v4.As4()
	copy(bytes[12:], last[:])
	return netip.AddrFrom16(bytes)
}

// maxBits6 leaves room for an IPv4 address in the IPv6 subnet.
const maxBits6 = 96

// provisioning6 checks what machines boot with over IPv6.
func (k *check) provisioning6(c *Cluster) {
	const server, subnet, example = "provisioning.server6", "provisioning.subnet6", "2001:db8:0:1::/64"
	p := c.Provisioning
	if !p.Server6.IsValid() {
		for _, path := range []string{subnet, "provisioning.routerAdvertisements"} {
			if k.source.Has(path) {
				k.fault(path, "write provisioning.server6, the boot server's IPv6 address", "means nothing: machines boot over IPv4 alone")
			}
		}
		return
	}
	switch n := p.Subnet6; {
	case !n.IsValid():
		k.fault(server, "set cidr6 on the network that machines boot on, or provisioning.subnet6", "the provisioning network has no IPv6")
		return
	case n.Addr().Is4():
		k.fault(subnet, "write it like "+example, "%s is IPv4", n)
		return
	case n != n.Masked():
		k.fault(subnet, "write "+n.Masked().String(), "%s has bits set beyond its length", n)
		return
	case n.Bits() > maxBits6:
		k.fault(subnet, "make it /96 or larger, best /64", "%s is too small: nodes' addresses there end in their IPv4 addresses", n)
		return
	case !n.Contains(p.Server6) || p.Server6 == n.Addr() || p.Server6.Zone() != "":
		k.fault(server, "use an address like "+n.Addr().Next().String(), "%s is no machine's address in the provisioning subnet (%s)", p.Server6, n)
		return
	}
	owners := map[netip.Addr]string{p.Server6: server}
	if g := c.Networks[c.provisioningNetwork()].Gateway6; g.IsValid() && g != p.Server6 {
		owners[g] = "its network's gateway6"
	}
	for i := range c.Nodes {
		n := &c.Nodes[i]
		a := c.BootAddress6(n)
		if !a.IsValid() {
			continue // it has no address over IPv4 either, which is said
		}
		if other := owners[a]; other != "" {
			k.fault(document.Index("nodes", i), "give one of them another address, perhaps by an address6", "its IPv6 address while it boots, %s, is also that of %s", a, other)
		}
		owners[a] = n.Name
	}
}
