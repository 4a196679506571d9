package cluster

import (
	"fmt"
	"net/netip"

	"github.com/slipway-os/slipway/images/document"
)

// Subnet is where machines boot besides the provisioning subnet: another network that the boot server has an interface in, or
// one that it only hears of through a DHCP relay.
type Subnet struct {
	Subnet  netip.Prefix `yaml:"subnet"`
	Server  netip.Addr   `yaml:"server"`  // the boot server's own address in it; none: it is behind a relay
	Gateway netip.Addr   `yaml:"gateway"` // default: that of the network it is in
	Pool    Range        `yaml:"pool"`    // for machines without a reserved address; may be empty
}

// BootSubnets are all subnets where machines boot, that of provisioning.subnet first.
func (c *Cluster) BootSubnets() []Subnet {
	p := c.Provisioning
	return append([]Subnet{{Subnet: p.Subnet, Server: p.Server, Gateway: c.Networks[c.Management()].Gateway, Pool: p.Pool}}, p.Subnets...)
}

// SubnetNetwork is the name of the network that a subnet is in; empty: of none in the document.
func (c *Cluster) SubnetNetwork(subnet netip.Prefix) string {
	for _, name := range c.networkNames() {
		if cidr := c.Networks[name].CIDR; cidr.IsValid() && subnet.IsValid() && cidr.Overlaps(subnet) {
			return name
		}
	}
	return ""
}

// bootLink is the index of the link that a node boots from, by its address in one of the subnets; -1: it has none.
func (c *Cluster) bootLink(n *Node) int {
	best := -1
	for _, s := range c.BootSubnets() {
		for i, l := range n.Links {
			if !l.Address.IsValid() || !s.Subnet.Contains(l.Address) {
				continue
			}
			if n.Match.MAC != "" && n.physical(i).MAC == n.Match.MAC {
				return i
			}
			if best < 0 {
				best = i
			}
		}
	}
	return best
}

// BootServer is the boot server's address that a node reaches it at: that in the subnet it boots in, and behind a relay
// provisioning.server.
func (c *Cluster) BootServer(n *Node) netip.Addr {
	address := c.BootAddress(n)
	for _, s := range c.Provisioning.Subnets {
		if address.IsValid() && s.Subnet.Contains(address) && s.Server.IsValid() {
			return s.Server
		}
	}
	return c.Provisioning.Server
}

// subnetDefaults gives further subnets the gateway of the network they are in.
func (c *Cluster) subnetDefaults() {
	for i := range c.Provisioning.Subnets {
		s := &c.Provisioning.Subnets[i]
		if g := c.Networks[c.SubnetNetwork(s.Subnet)].Gateway; !s.Gateway.IsValid() && s.Subnet.IsValid() && s.Subnet.Contains(g) {
			s.Gateway = g
		}
	}
}

// subnets checks the further subnets, each by itself and against the others.
func (k *check) subnets(c *Cluster) {
	all := []Subnet{{Subnet: c.Provisioning.Subnet}}
	for i, s := range c.Provisioning.Subnets {
		at := document.Index("provisioning.subnets", i)
		if !k.prefix(at+".subnet", s.Subnet, "10.2.0.0/24") {
			continue
		}
		for _, other := range all {
			if other.Subnet.IsValid() && other.Subnet.Overlaps(s.Subnet) {
				k.fault(at+".subnet", "each subnet needs addresses of its own", "%s overlaps %s", s.Subnet, other.Subnet)
			}
		}
		all = append(all, s)
		name := "the subnet"
		if s.Server.IsValid() {
			k.host(at+".server", s.Server, s.Subnet, name)
		}
		switch {
		case s.Gateway.IsValid():
			k.host(at+".gateway", s.Gateway, s.Subnet, name)
		case !s.Server.IsValid():
			k.fault(at+".gateway", "write its router's address in "+s.Subnet.String()+", or server: the boot server's own address in it",
				"is missing: behind a relay machines reach the boot server through a router")
		}
		k.subnetPool(c, s, at+".pool")
	}
}

// subnetPool checks that a further subnet's pool holds no address that is someone's.
func (k *check) subnetPool(c *Cluster, s Subnet, path string) {
	pool := s.Pool
	if !pool.IsValid() || !k.host(path, pool.First, s.Subnet, "the subnet") || !k.host(path, pool.Last, s.Subnet, "the subnet") {
		return
	}
	const hint = "end the pool before it, or begin it after it"
	whose := map[string]netip.Addr{"the server's": s.Server, "the virtual": c.Kubernetes.VirtualAddress}
	if s.Gateway != s.Server {
		whose["the gateway's"] = s.Gateway
	}
	for _, what := range []string{"the server's", "the gateway's", "the virtual"} {
		if a := whose[what]; pool.Contains(a) {
			k.fault(path, hint, "the pool %s contains %s address %s", pool, what, a)
		}
	}
	for _, n := range c.Nodes {
		for _, l := range n.Links {
			if pool.Contains(l.Address) {
				k.fault(path, hint, "the pool %s contains %s's address %s", pool, n.Name, l.Address)
			}
		}
	}
	for _, name := range c.networkNames() {
		if p := c.Networks[name].Pool; p.IsValid() && !pool.Last.Less(p.First) && !p.Last.Less(pool.First) {
			k.fault(path, "keep them apart: this one is for machines that are not in the document", "it overlaps the pool %s", fmt.Sprintf("%s of network %s", p, name))
		}
	}
}
