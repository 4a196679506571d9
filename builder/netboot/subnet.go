package netboot

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Subnet is one where machines boot.
type Subnet struct {
	Prefix  netip.Prefix
	Server  netip.Addr // our address in it; zero: requests come from there through a relay
	Gateway netip.Addr // zero: none
	DNS     []netip.Addr
	Pool    Pool // for machines that aren't in the document
}

// subnets are all of a site, the one of its own fields first.
func (s *Site) subnets() []Subnet {
	return append([]Subnet{{Prefix: s.Subnet, Server: s.Server, Gateway: s.Gateway, DNS: s.DNS, Pool: s.Pool}}, s.Further...)
}

// subnet finds the subnet that an address is in.
func (s *Site) subnet(a netip.Addr) (Subnet, bool) {
	if !a.IsValid() {
		return Subnet{}, false
	}
	if s.Subnet.Contains(a) { // the usual one, without making a list
		return Subnet{Prefix: s.Subnet, Server: s.Server, Gateway: s.Gateway, DNS: s.DNS, Pool: s.Pool}, true
	}
	for _, other := range s.Further {
		if other.Prefix.Contains(a) {
			return other, true
		}
	}
	return Subnet{}, false
}

// ours says whether an address is one of the server's own.
func (s *Site) ours(a netip.Addr) bool {
	return a.IsValid() && (a == s.Server || s.ipv6() != nil && a == s.IPv6.Server || slices.ContainsFunc(s.Further, func(o Subnet) bool { return o.Server == a }))
}

// servers are our own addresses.
func (s *Site) servers() []netip.Addr {
	var out []netip.Addr
	for _, n := range s.subnets() {
		if n.Server.IsValid() {
			out = append(out, n.Server)
		}
	}
	return out
}

// known lists the subnets, for people.
func (s *Site) known() string {
	if len(s.Further) == 0 {
		return fmt.Sprintf("not in %s, the only network this server knows", s.Subnet)
	}
	var names []string
	for _, n := range s.subnets() {
		names = append(names, n.Prefix.String())
	}
	return "in none of the networks this server knows: " + strings.Join(names, ", ")
}

// agentLink is the suboption of option 82 by which a relay names another network than that of its own address (RFC 3527).
const agentLink = 5

// relayed is the suboption of a relay's information (RFC 3046 section 2.0), nil: there is none.
func relayed(request *dhcpv4.DHCPv4, code byte) []byte {
	information := request.Options.Get(dhcpv4.OptionRelayAgentInformation)
	for len(information) >= 2 {
		end := 2 + int(information[1])
		if end > len(information) {
			return nil
		}
		if information[0] == code {
			return information[2:end]
		}
		information = information[end:]
	}
	return nil
}

// place finds the subnet that a request is from, and our address that its client can reach; otherwise it gives the reason. A
// relay says the subnet by its address or by what it selects. A client that writes to our own address has one already (RFC 2131
// section 4.3.2, renewing). All others are where the request was heard; an interface may be in several subnets, and a node is in that
// of its address.
func (d *Decision) place(request *dhcpv4.DHCPv4, policy Policy) bool {
	site, at := policy.Site, policy.at()
	here := at[0]
	relay := address(request.GatewayIPAddr)
	link := netip.Addr{}
	if value := relayed(request, agentLink); len(value) == 4 && relay.IsValid() {
		link = netip.AddrFrom4([4]byte(value))
	}
	found := false
	switch own := address(request.ClientIPAddr); {
	case link.IsValid() && !link.IsUnspecified():
		if d.Subnet, found = site.subnet(link); !found {
			d.Reason = fmt.Sprintf("relay %s selects %s, which is %s", relay, link, site.known())
			return false
		}
	case relay.IsValid():
		if d.Subnet, found = site.subnet(relay); !found {
			d.Reason = fmt.Sprintf("relay %s is %s", relay, site.known())
			return false
		}
	case policy.Unicast && own.IsValid():
		d.Subnet, found = site.subnet(own)
	}
	if !found && d.Known && slices.ContainsFunc(at, func(a netip.Addr) bool { return site.together(a, d.Machine.Address) }) {
		d.Subnet, found = site.subnet(d.Machine.Address)
	}
	if !found {
		d.Subnet, _ = site.subnet(here)
	}
	if d.Server = d.Subnet.Server; !d.Server.IsValid() {
		d.Server = here
	}
	return true
}

// together says whether two addresses are in the same subnet.
func (s *Site) together(a, b netip.Addr) bool {
	n, ok := s.subnet(a)
	return ok && n.Prefix.Contains(b)
}

// at is where requests are heard: our own addresses on the interface.
func (p Policy) at() []netip.Addr {
	if len(p.At) > 0 {
		return p.At
	}
	return []netip.Addr{p.Site.Server}
}

// base is the base URL at the address of ours that the client can reach.
func (d *Decision) base(policy Policy) string {
	return baseURL(d.Server, policy.HTTPPort)
}

// baseURL is that of our HTTP server at an address.
func baseURL(server netip.Addr, port int) string {
	return "http://" + netip.AddrPortFrom(server, uint16(port)).String()
}

// elsewhere says, of a node whose reserved address is not of the subnet that it asks in, why it gets none.
func (d *Decision) elsewhere() string {
	if !d.Known || d.Subnet.Prefix.Contains(d.Machine.Address) {
		return ""
	}
	return fmt.Sprintf("%s asks in %s, its address %s is of another network (cable, VLAN, or match.mac of another link?)", d.Machine.Name, d.Subnet.Prefix, d.Machine.Address)
}

// wayInWords says how a request came: for people.
func wayInWords(request *dhcpv4.DHCPv4, heardOn string) string {
	way := "from its own network"
	if relay := address(request.GatewayIPAddr); relay.IsValid() {
		way = fmt.Sprintf("through relay %s", relay)
		if link := relayed(request, agentLink); len(link) == 4 {
			way += fmt.Sprintf(", which selects %s", netip.AddrFrom4([4]byte(link)))
		}
		for _, sub := range []struct {
			code byte
			name string
		}{{1, "circuit"}, {2, "remote"}} { // RFC 3046 section 3
			if value := relayed(request, sub.code); value != nil {
				way += fmt.Sprintf(", %s %s", sub.name, quoted(value))
			}
		}
	}
	if heardOn != "" {
		way += ", heard on " + heardOn
	}
	return way
}
