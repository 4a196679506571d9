package netboot

import (
	"fmt"
	"net/netip"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// IPv6 is the provisioning network's other family: machines of the document boot over it as over IPv4.
type IPv6 struct {
	Subnet netip.Prefix
	Server netip.Addr // our address in it
	DNS    []netip.Addr
	// Advertise: this server sends router advertisements, which make firmware ask DHCPv6. They say that it is no router.
	Advertise bool
}

// ipv6FromCluster is a document's; nil: nodes boot over IPv4 alone.
func ipv6FromCluster(c *cluster.Cluster) *IPv6 {
	p := c.Provisioning
	if !p.Server6.IsValid() {
		return nil
	}
	six := &IPv6{Subnet: p.Subnet6, Server: p.Server6, Advertise: p.RouterAdvertisements}
	for _, a := range append(c.DNS[:len(c.DNS):len(c.DNS)], c.Networks[c.Management()].DNS...) {
		if a.Is6() {
			six.DNS = append(six.DNS, a)
		}
	}
	return six
}

// ipv6 is what is served over IPv6; nil: nothing. Beside another DHCP server there is no proxy for DHCPv6.
func (s *Site) ipv6() *IPv6 {
	if s.Proxy {
		return nil
	}
	return s.IPv6
}

// check6 is check for IPv6.
func (s *Site) check6() error {
	six := s.IPv6
	if six == nil {
		return nil
	}
	if !six.Subnet.IsValid() || !six.Server.Is6() || !six.Subnet.Contains(six.Server) {
		return fmt.Errorf("cannot serve: server address %s is not in subnet %s", six.Server, six.Subnet)
	}
	seen := map[netip.Addr]string{six.Server: "the server"}
	for _, m := range s.Machines {
		if !m.Address6.IsValid() {
			continue // it boots in another subnet, over IPv4
		}
		if !six.Subnet.Contains(m.Address6) {
			return fmt.Errorf("cannot serve %s: needs an address in %s", m.Name, six.Subnet)
		}
		if other, twice := seen[m.Address6]; twice {
			return fmt.Errorf("cannot serve %s: %s is also that of %s", m.Name, m.Address6, other)
		}
		seen[m.Address6] = m.Name
	}
	return nil
}
