// Package netboot is the boot server: DHCP, TFTP and HTTP for the machines of one cluster document, and what is known of
// each machine's boot.
//
// What to answer is decided by pure functions (Decide); the sockets around them are thin. It serves artifacts that are
// finished and node configurations that its caller renders; it makes neither. It is not a general DHCP server: it serves
// the provisioning subnets of one site.
//
// Words: a machine is what has a MAC address and asks; a node is a machine of the cluster document. An event is a step of
// a boot (bootspec.Event); a boot is what lies between two power-ons.
package netboot

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Site is what the server must know of a cluster: a plain value, made from the cluster document by FromCluster.
type Site struct {
	Cluster string
	Subnet  netip.Prefix // provisioning network
	Server  netip.Addr   // our address in it
	Gateway netip.Addr   // zero: none
	DNS     []netip.Addr
	Pool    Pool // for machines that aren't in the document
	// Further are the other subnets where machines boot.
	Further []Subnet
	// Proxy: another DHCP server gives the addresses; this one says only what to boot (proxyDHCP).
	Proxy bool
	// ServeUnknown: machines outside the document get an address from the pool (never a configuration).
	ServeUnknown bool
	// Discover: machines outside the document boot an image that tells their hardware (never a configuration).
	Discover bool
	// ListUnknown: machines outside the document are kept among the node states.
	ListUnknown bool
	Machines    []Machine
	IPv6        *IPv6 // nil: machines boot over IPv4 alone
}

// Machine is a node as the boot server sees it.
type Machine struct {
	Name    string
	Role    string
	MAC     net.HardwareAddr
	Address netip.Addr // reserved for it in the subnet that it boots in
	// Others are its further addresses: it may be heard from there once it has its configuration.
	Others  []netip.Addr
	Install bool // it installs itself to disk
	// Address6 is reserved for it in the site's IPv6 subnet; invalid: it doesn't boot there.
	Address6 netip.Addr
	// NetworkArgument is the value of the kernel argument bootspec.ArgNetwork: bonds and VLANs that its boot server is asked for over; empty: none.
	NetworkArgument string
	// UUID and Serial are what the machine's SMBIOS must say before it gets its configuration; empty: whatever it says.
	UUID, Serial string
}

// mismatch says in which way a machine that has a node's MAC address is another one than the document means.
func (m Machine) mismatch(uuid, serial string) string {
	switch {
	case m.UUID != "" && !strings.EqualFold(m.UUID, uuid):
		return fmt.Sprintf("its SMBIOS UUID is %q, the cluster document has %q for %s", oneLine(uuid), m.UUID, m.Name)
	case m.Serial != "" && m.Serial != serial:
		return fmt.Sprintf("its SMBIOS serial number is %q, the cluster document has %q for %s", oneLine(serial), m.Serial, m.Name)
	}
	return ""
}

// Pool is a range of addresses, both ends included. The zero Pool is empty.
type Pool struct{ First, Last netip.Addr }

// Contains says whether an address lies in the pool.
func (p Pool) Contains(a netip.Addr) bool {
	return p.First.IsValid() && a.Compare(p.First) >= 0 && a.Compare(p.Last) <= 0
}

// machine finds a machine by its MAC address.
func (s *Site) machine(mac net.HardwareAddr) (Machine, bool) {
	for _, m := range s.Machines {
		if bytes.Equal(m.MAC, mac) {
			return m, true
		}
	}
	return Machine{}, false
}

// mode says in a word what the server does for addresses.
func (s *Site) mode() string {
	if s.Proxy {
		return "proxy beside another server"
	}
	return "authoritative"
}

// roles are the roles of the machines, each once.
func (s *Site) roles() []string {
	var out []string
	seen := map[string]bool{}
	for _, m := range s.Machines {
		if !seen[m.Role] {
			seen[m.Role] = true
			out = append(out, m.Role)
		}
	}
	return out
}

// check finds what would make the server answer wrongly. The cluster document's own validation says it better; this
// guards against a Site made by hand.
func (s *Site) check() error {
	if !s.Subnet.IsValid() || !s.Server.Is4() || !s.Subnet.Contains(s.Server) {
		return fmt.Errorf("cannot serve: server address %s is not in subnet %s", s.Server, s.Subnet)
	}
	if p := s.Pool; p != (Pool{}) && (!s.Subnet.Contains(p.First) || !s.Subnet.Contains(p.Last) || p.Last.Less(p.First)) {
		return fmt.Errorf("cannot serve: pool %s-%s is not a range in subnet %s", p.First, p.Last, s.Subnet)
	}
	seen := map[string]string{s.Server.String(): "the server"}
	for i, n := range s.Further {
		if !n.Prefix.IsValid() || !n.Prefix.Addr().Is4() || n.Server.IsValid() && !n.Prefix.Contains(n.Server) {
			return fmt.Errorf("cannot serve: server address %s is not in subnet %s", n.Server, n.Prefix)
		}
		if p := n.Pool; p != (Pool{}) && (!n.Prefix.Contains(p.First) || !n.Prefix.Contains(p.Last) || p.Last.Less(p.First)) {
			return fmt.Errorf("cannot serve: pool %s-%s is not a range in subnet %s", p.First, p.Last, n.Prefix)
		}
		for _, other := range s.subnets()[:i+1] {
			if other.Prefix.Overlaps(n.Prefix) {
				return fmt.Errorf("cannot serve: subnets %s and %s overlap", other.Prefix, n.Prefix)
			}
		}
		if n.Server.IsValid() {
			seen[n.Server.String()] = "the server"
		}
	}
	for _, m := range s.Machines {
		if _, ok := s.subnet(m.Address); len(m.MAC) != 6 || !ok {
			return fmt.Errorf("cannot serve %s: needs a MAC address and an address in %s", m.Name, s.where())
		}
		for _, key := range []string{m.MAC.String(), m.Address.String()} {
			if other, twice := seen[key]; twice {
				return fmt.Errorf("cannot serve %s: %s is also that of %s", m.Name, key, other)
			}
			seen[key] = m.Name
		}
	}
	return s.check6()
}

// where names the subnets, for people.
func (s *Site) where() string {
	if len(s.Further) == 0 {
		return s.Subnet.String()
	}
	return "one of the subnets"
}
