// Package network gives a machine its network: by DHCP in the initramfs, from the node document's network in the
// running system. The document is compared with what the kernel has (Diff, pure), the difference is applied through
// netlink (Apply), and what the kernel then has is compared again (ReadBack).
//
// Words: a link is a network interface; a state is what the kernel has; an op is one change.
//
// It owns the links that the document names and no others: containers' and overlay networks' links are left alone. It
// doesn't resolve names and has no firewall.
package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkState is one link as the kernel has it.
type LinkState struct {
	Index     int
	Name      string
	Kind      string // physical, vlan, bond, bridge, or the kernel's name for another kind (veth, dummy)
	MAC       string // lower case with colons, permanent if the kernel knows it
	Driver    string // virtio_net
	PCI       string // 0000:00:03.0, of the device or its parent
	Up        bool   // administratively
	Carrier   bool
	MTU       int
	Parent    int // index of a VLAN's parent
	VLAN      int // id of a VLAN
	Master    int // index of the bond or bridge that it is a member of
	Bond      BondState
	RA        int // what it does with router advertisements (accept_ra)
	Addresses []netip.Prefix
	Routes    []RouteState
}

// RouteState is one route through a link.
type RouteState struct {
	To     netip.Prefix
	Via    netip.Addr // zero: on link
	Metric int
	// Ours says that the agent made the route, in the initramfs or in the running system.
	Ours bool
}

// Protocol marks the routes the agent makes (rtm_protocol; numbers from 64 on are free for daemons).
const Protocol = 83

// Links is the state of all links of this network namespace but lo, sorted by index.
func Links() ([]LinkState, error) {
	list, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("cannot list network links: %w", err)
	}
	var states []LinkState
	for _, l := range list {
		if l.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		s := describe(l)
		if err := readAddresses(l, &s); err != nil {
			return nil, err
		}
		if err := readRoutes(l, &s); err != nil {
			return nil, err
		}
		states = append(states, s)
	}
	slices.SortFunc(states, func(a, b LinkState) int { return a.Index - b.Index })
	return states, nil
}

func describe(l netlink.Link) LinkState {
	a := l.Attrs()
	s := LinkState{
		Index: a.Index, Name: a.Name, Kind: l.Type(), MAC: strings.ToLower(a.HardwareAddr.String()), MTU: a.MTU,
		Up: a.Flags&net.FlagUp != 0, Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
	}
	if len(a.PermHWAddr) > 0 {
		s.MAC = strings.ToLower(a.PermHWAddr.String())
	}
	if slave, ok := a.Slave.(*netlink.BondSlave); ok && len(slave.PermHardwareAddr) > 0 {
		s.MAC = strings.ToLower(slave.PermHardwareAddr.String()) // the others have the bond's
	}
	switch l := l.(type) {
	case *netlink.Vlan:
		s.Parent, s.VLAN = a.ParentIndex, l.VlanId
	case *netlink.Bond:
		s.Bond = readBond(l)
	}
	s.Master, s.RA = a.MasterIndex, readRA(a.Name)
	device := filepath.Join("/sys/class/net", a.Name, "device")
	if _, err := os.Stat(device); err == nil && s.Kind == "device" {
		s.Kind = "physical"
		s.Driver = linkBase(filepath.Join(device, "driver"))
		s.PCI = pciOf(device)
	}
	return s
}

func linkBase(path string) string {
	target, err := os.Readlink(path)
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// pciOf finds the PCI function that a device is or sits on: a virtio device's parent.
func pciOf(device string) string {
	path, err := filepath.EvalSymlinks(device)
	if err != nil {
		return ""
	}
	for ; len(path) > 1; path = filepath.Dir(path) {
		if linkBase(filepath.Join(path, "subsystem")) == "pci" {
			return filepath.Base(path)
		}
	}
	return ""
}

func readAddresses(l netlink.Link, s *LinkState) error {
	list, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("cannot list addresses of %s: %w", s.Name, err)
	}
	for _, a := range list {
		if p, ok := prefix(a.IPNet); ok && a.Scope == unix.RT_SCOPE_UNIVERSE {
			s.Addresses = append(s.Addresses, p)
		}
	}
	return nil
}

func readRoutes(l netlink.Link, s *LinkState) error {
	list, err := netlink.RouteList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("cannot list routes of %s: %w", s.Name, err)
	}
	for _, r := range list {
		if r.Protocol == unix.RTPROT_KERNEL || r.Type != unix.RTN_UNICAST {
			continue
		}
		route := RouteState{Metric: r.Priority, Ours: r.Protocol == Protocol}
		if r.Gw != nil {
			route.Via, _ = netip.AddrFromSlice(r.Gw)
			route.Via = route.Via.Unmap()
		}
		to, ok := prefix(r.Dst)
		if !ok { // older kernels and libraries leave a default route's destination out
			to = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if r.Family == netlink.FAMILY_V6 {
				to = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
		}
		route.To = to
		s.Routes = append(s.Routes, route)
	}
	return nil
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), ok
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// setUp makes a link able to send and receive.
func setUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cannot find link %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("cannot set link %s up: %w", name, err)
	}
	return nil
}

// replaceAddress adds an address that stays for ever; one that is there already is no error.
func replaceAddress(name string, p netip.Prefix) error { return addAddress(name, p, 0) }

// addAtOnce adds an IPv6 address that is used at once, without a look for duplicates: for one that a server has given.
func addAtOnce(name string, p netip.Prefix) error { return addAddress(name, p, unix.IFA_F_NODAD) }

func addAddress(name string, p netip.Prefix, flags int) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cannot find link %s: %w", name, err)
	}
	if err := netlink.AddrReplace(l, &netlink.Addr{IPNet: ipNet(p), Flags: flags}); err != nil {
		return fmt.Errorf("cannot add address %v to %s: %w", p, name, err)
	}
	return nil
}

func removeAddress(name string, p netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cannot find link %s: %w", name, err)
	}
	err = netlink.AddrDel(l, &netlink.Addr{IPNet: ipNet(p)})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("cannot remove address %v from %s: %w", p, name, err)
	}
	return nil
}

func route(index int, r RouteState) *netlink.Route {
	n := &netlink.Route{LinkIndex: index, Dst: ipNet(r.To.Masked()), Priority: r.Metric, Protocol: Protocol}
	if r.Via.IsValid() {
		n.Gw = r.Via.AsSlice()
	} else {
		n.Scope = netlink.SCOPE_LINK
	}
	return n
}

func replaceRoute(name string, r RouteState) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cannot find link %s: %w", name, err)
	}
	if err := netlink.RouteReplace(route(l.Attrs().Index, r)); err != nil {
		return fmt.Errorf("cannot add route %v via %v to %s: %w", r.To, r.Via, name, err)
	}
	return nil
}

func removeRoute(name string, r RouteState) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cannot find link %s: %w", name, err)
	}
	err = netlink.RouteDel(route(l.Attrs().Index, r))
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot remove route %v via %v from %s: %w", r.To, r.Via, name, err)
	}
	return nil
}
