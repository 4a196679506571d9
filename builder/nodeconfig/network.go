package nodeconfig

import (
	"net/netip"
	"slices"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// Network is a node's network document. Physical links come first, so that what a VLAN is on exists before it.
func Network(c *cluster.Cluster, n *cluster.Node) bootspec.Network {
	b := &linkBuilder{cluster: c, routed: map[string]bool{}}
	for _, l := range n.Links {
		b.add(l)
	}
	b.fit()
	network := bootspec.Network{Links: append(b.physical, b.virtual...), DNS: slices.Clone(c.DNS)}
	for _, l := range n.Links {
		network.DNS = appendNew(network.DNS, c.Networks[l.Network].DNS)
		network.Domains = appendNew(network.Domains, c.Networks[l.Network].Domains)
	}
	return network
}

func appendNew[T comparable](list, more []T) []T {
	for _, v := range more {
		if !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	return list
}

// linkBuilder turns the document's links into kernel links.
type linkBuilder struct {
	cluster           *cluster.Cluster
	physical, virtual []bootspec.Link
	routed            map[string]bool // networks whose gateway has its route already
}

func (b *linkBuilder) add(l cluster.Link) {
	network := b.cluster.Networks[l.Network]
	link := bootspec.Link{Name: l.Name, Kind: l.Kind, Network: l.Network, MTU: l.MTU, DHCP: l.DHCP}
	if l.Address.IsValid() {
		link.Addresses = []netip.Prefix{netip.PrefixFrom(l.Address, network.CIDR.Bits())}
		link.Routes = b.routes(l.Network, network)
	}
	switch {
	case l.Kind == bootspec.KindVLAN:
		link.VLAN = &bootspec.VLAN{Parent: l.Parent, ID: l.VLAN}
		b.virtual = append(b.virtual, link)
	case network.VLAN != 0 && !l.Untagged:
		b.physical = append(b.physical, bootspec.Link{Name: l.Name, Kind: bootspec.KindPhysical, Match: match(l), MTU: l.MTU})
		link.Name, link.Kind = cluster.VLANName(l.Name, network.VLAN), bootspec.KindVLAN
		link.VLAN = &bootspec.VLAN{Parent: l.Name, ID: network.VLAN}
		b.virtual = append(b.virtual, link)
	default:
		link.Match = match(l)
		b.physical = append(b.physical, link)
	}
}

func match(l cluster.Link) *bootspec.Match { return &bootspec.Match{MAC: string(l.MAC)} }

// routes are the default route through a network's gateway, once for each network. An external network is preferred to
// the management network, and that to others.
func (b *linkBuilder) routes(name string, network cluster.Network) []bootspec.Route {
	if !network.Gateway.IsValid() || b.routed[name] {
		return nil
	}
	b.routed[name] = true
	metric := 300
	switch {
	case network.Role == cluster.NetworkExternal:
		metric = 100
	case name == b.cluster.Management():
		metric = 200
	}
	everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	return []bootspec.Route{{To: everywhere, Via: network.Gateway, Metric: metric}}
}

// ethernetMTU is what a link has that nobody has changed, in bytes (IEEE 802.3).
const ethernetMTU = 1500

// fit makes links carry what the VLANs on them need: a VLAN's MTU can't be over that of its parent.
func (b *linkBuilder) fit() {
	for _, v := range b.virtual {
		for i := range b.physical {
			p := &b.physical[i]
			if p.Name == v.VLAN.Parent && v.MTU > max(p.MTU, ethernetMTU) {
				p.MTU = v.MTU
			}
		}
	}
}
