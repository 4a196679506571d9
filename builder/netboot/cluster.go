package netboot

import (
	"net/netip"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// FromCluster is what the server must know of a cluster document.
func FromCluster(c *cluster.Cluster) *Site {
	management := c.Networks[c.Management()]
	site := &Site{
		Cluster:      c.Metadata.Name,
		Subnet:       c.Provisioning.Subnet,
		Server:       c.Provisioning.Server,
		Gateway:      management.Gateway,
		DNS:          append(c.DNS[:len(c.DNS):len(c.DNS)], management.DNS...),
		Pool:         Pool{First: c.Provisioning.Pool.First, Last: c.Provisioning.Pool.Last},
		ServeUnknown: c.Provisioning.UnknownMachines == cluster.UnknownOffer || c.Provisioning.UnknownMachines == cluster.UnknownDiscover,
		Discover:     c.Provisioning.UnknownMachines == cluster.UnknownDiscover,
		ListUnknown:  c.Provisioning.UnknownMachines != cluster.UnknownIgnore,
		IPv6:         ipv6FromCluster(c),
	}
	for _, s := range c.Provisioning.Subnets {
		site.Further = append(site.Further, Subnet{
			Prefix: s.Subnet, Server: s.Server, Gateway: s.Gateway, Pool: Pool{First: s.Pool.First, Last: s.Pool.Last},
			DNS: append(c.DNS[:len(c.DNS):len(c.DNS)], c.Networks[c.SubnetNetwork(s.Subnet)].DNS...),
		})
	}
	for i := range c.Nodes {
		n := &c.Nodes[i]
		var others []netip.Addr
		for _, l := range n.Links {
			if l.Address.IsValid() && l.Address != c.BootAddress(n) {
				others = append(others, l.Address)
			}
		}
		site.Machines = append(site.Machines, Machine{
			Others:  others,
			Name:    n.Name,
			Role:    n.Role,
			MAC:     c.BootMAC(n).HardwareAddr(),
			Address: c.BootAddress(n),
			Install: c.NodeInstall(n) != nil,
			UUID:    n.Match.UUID,
			Serial:  n.Match.Serial,

			Address6: c.BootAddress6(n),
		})
	}
	return site
}
