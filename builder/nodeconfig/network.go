package nodeconfig

import (
	"net/netip"
	"slices"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// Network is a node's network document. What a link is on or made of comes before it.
func Network(c *cluster.Cluster, n *cluster.Node) bootspec.Network {
	b := &linkBuilder{cluster: c, routed: map[string]bool{}}
	for _, l := range n.Links {
		b.add(l)
	}
	links := bootspec.Arrange(b.links)
	fit(links)
	network := bootspec.Network{Links: links, DNS: slices.Clone(c.DNS)}
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
	cluster *cluster.Cluster
	links   []bootspec.Link
	routed  map[string]bool // networks whose routes a link has already
}

func (b *linkBuilder) add(l cluster.Link) {
	network := b.cluster.Networks[l.Network]
	link := bootspec.Link{Name: l.Name, Kind: l.Kind, Network: l.Network, MTU: l.MTU, DHCP: l.DHCP, SLAAC: l.SLAAC, Members: l.Members}
	if l.Address.IsValid() {
		link.Addresses = append(link.Addresses, netip.PrefixFrom(l.Address, network.CIDR.Bits()))
	}
	if l.Address6.IsValid() {
		link.Addresses = append(link.Addresses, netip.PrefixFrom(l.Address6, network.CIDR6.Bits()))
	}
	if len(link.Addresses) > 0 {
		link.Routes = b.routes(l.Network, network)
	}
	if l.DHCP {
		link.Metric = b.metric(l.Network)
	}
	switch l.Kind {
	case bootspec.KindVLAN:
		link.VLAN = &bootspec.VLAN{Parent: l.Parent, ID: l.VLAN}
	case bootspec.KindPhysical:
		link.Match = &bootspec.Match{MAC: string(l.MAC), Driver: l.Driver, PCI: l.PCI}
	case bootspec.KindBond:
		link.Bond = &bootspec.Bond{Mode: l.Bond.Mode, MIIMon: l.Bond.MIIMon, LACP: l.Bond.LACP, Hash: l.Bond.Hash}
	}
	tagged := l.Kind == bootspec.KindPhysical || l.Kind == bootspec.KindBond
	if tagged && network.VLAN != 0 && !l.Untagged {
		b.links = append(b.links, bootspec.Link{Name: l.Name, Kind: l.Kind, Match: link.Match, MTU: l.MTU, Members: l.Members, Bond: link.Bond})
		link.Name, link.Kind = cluster.VLANName(l.Name, network.VLAN), bootspec.KindVLAN
		link.Match, link.Members, link.Bond = nil, nil, nil
		link.VLAN = &bootspec.VLAN{Parent: l.Name, ID: network.VLAN}
	}
	b.links = append(b.links, link)
}

// routes are the ways through a network, once for each network: its own routes, and the default ones through its gateways.
// An external network is preferred to the management network, and that to others.
func (b *linkBuilder) routes(name string, network cluster.Network) []bootspec.Route {
	if b.routed[name] {
		return nil
	}
	b.routed[name] = true
	metric := b.metric(name)
	var routes []bootspec.Route
	if network.Gateway.IsValid() {
		routes = append(routes, bootspec.Route{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: network.Gateway, Metric: metric})
	}
	if network.Gateway6.IsValid() {
		routes = append(routes, bootspec.Route{To: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Via: network.Gateway6, Metric: metric})
	}
	for _, r := range network.Routes {
		routes = append(routes, bootspec.Route{To: r.To, Via: r.Via, Metric: r.Metric})
	}
	return routes
}

// metric is that of the default routes through a network: less is preferred.
func (b *linkBuilder) metric(name string) int {
	switch {
	case b.cluster.Networks[name].Role == cluster.NetworkExternal:
		return 100
	case name != "" && name == b.cluster.Management():
		return 200
	}
	return 300
}

// ethernetMTU is what a link has that nobody has changed, in bytes (IEEE 802.3).
const ethernetMTU = 1500

// fit makes links carry what is on them: a VLAN's or a bridge's MTU can't be over that of what is below, and a bond's
// members have its own.
func fit(links []bootspec.Link) {
	for _, upper := range slices.Backward(links) {
		for i := range links {
			l := &links[i]
			if !slices.Contains(upper.Below(), l.Name) {
				continue
			}
			if upper.Kind == bootspec.KindBond {
				l.MTU = upper.MTU
			} else if upper.MTU > max(l.MTU, ethernetMTU) {
				l.MTU = upper.MTU
			}
		}
	}
}
