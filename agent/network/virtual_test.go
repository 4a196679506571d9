package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// inRack does something in the rack's namespace.
func inRack(t *testing.T, node, rack netns.NsHandle, do func() error) {
	t.Helper()
	err := netns.Set(rack)
	if err == nil {
		err = do()
	}
	if err := errors.Join(err, netns.Set(node)); err != nil {
		supported(t, err)
	}
}

// trunk makes the switch: a VLAN-aware bridge with the VLANs 101 and 102 tagged on its port, where the rack has 10.1.0.1
// (102) and 172.16.1.1 (101), and echoes what it gets by TCP.
func trunk(port string) error {
	aware, none := true, uint16(0)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	bridge := &netlink.Bridge{LinkAttrs: attrs, VlanFiltering: &aware, VlanDefaultPVID: &none}
	if err := netlink.LinkAdd(bridge); err != nil {
		return err
	}
	l, err := netlink.LinkByName(port)
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetMaster(l, bridge), netlink.LinkSetUp(l), netlink.LinkSetUp(bridge)); err != nil {
		return err
	}
	for id, address := range map[int]string{101: "172.16.1.1/24", 102: "10.1.0.1/24"} {
		vlan := netlink.NewLinkAttrs()
		vlan.Name, vlan.ParentIndex = "vlan"+address[:2], bridge.Index
		err := errors.Join(netlink.BridgeVlanAdd(l, uint16(id), false, false, false, true),
			netlink.BridgeVlanAdd(bridge, uint16(id), false, false, true, false),
			netlink.LinkAdd(&netlink.Vlan{LinkAttrs: vlan, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}),
			replaceAddress(vlan.Name, netip.MustParsePrefix(address)), setUp(vlan.Name))
		if err != nil {
			return err
		}
	}
	return nil
}

// echoes answers on TCP port 7 of the namespace it is called in.
func echoes(t *testing.T) error {
	l, err := net.Listen("tcp", ":7")
	if err != nil {
		return err
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	return nil
}

// reaches says whether an address echoes, within so many seconds.
func reaches(t *testing.T, address string, seconds int) bool {
	t.Helper()
	for deadline := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(address, "7"), time.Second)
		if err != nil {
			continue
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_, werr := c.Write([]byte{7})
		_, rerr := io.ReadFull(c, make([]byte, 1))
		c.Close()
		if werr == nil && rerr == nil {
			return true
		}
	}
	return false
}

// aggregated waits until both links of a bond carry traffic as one aggregate, as agreed with the switch: the partner is in
// sync, collects and distributes (IEEE 802.1AX, 6.4.2.3).
func aggregated(a, b string) bool {
	const agreed = 0x08 | 0x10 | 0x20
	for range 300 {
		var id [2]uint16
		for i, name := range []string{a, b} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return false
			}
			if s, ok := l.Attrs().Slave.(*netlink.BondSlave); ok && s.AdPartnerOperPortState&agreed == agreed {
				id[i] = s.AggregatorId
			}
		}
		if id[0] != 0 && id[0] == id[1] {
			return true
		}
		time.Sleep(100 * time.Millisecond)
	}
	return false
}

// TestConfigureBondWithLACP has two VLANs on a bond that negotiates with the switch's: traffic of both survives the loss
// of one cable.
func TestConfigureBondWithLACP(t *testing.T) {
	node, rack := machine(t)
	inRack(t, node, rack, func() error {
		bond := bondLink("lag", "802.3ad", []string{"sw0", "sw1"})
		bond.Bond.LACP = "fast"
		log := quiet()
		err := Configure(t.Context(), bootspec.Network{Links: []bootspec.Link{{Name: "sw0", Kind: "physical"}, {Name: "sw1", Kind: "physical"}, bond}}, log)
		if err != nil {
			return err
		}
		return errors.Join(trunk("lag"), echoes(t))
	})
	bond := bondLink("bond0", "802.3ad", []string{"eth0", "eth1"})
	bond.Bond.LACP, bond.MTU = "fast", 1450
	links := []bootspec.Link{
		physical("eth0", "52:54:00:00:00:10"), physical("eth1", "52:54:00:00:00:11"), bond,
		vlanLink("mgmt", "bond0", 102, "10.1.0.11/24"), vlanLink("pods", "bond0", 101, "172.16.1.11/24"),
	}
	supported(t, configure(t, links...))
	for _, address := range []string{"10.1.0.1", "172.16.1.1"} {
		if !reaches(t, address, 30) {
			t.Errorf("%s can't be reached over the bond", address)
		}
	}
	if !aggregated("eth0", "eth1") {
		t.Error("the two cables don't become one aggregate")
	}
	if got := linkNamed(t, "eth1").MAC; got != "52:54:00:00:00:11" {
		t.Errorf("a member's own MAC address is lost: %s", got)
	}
	have, err := Links()
	if err != nil {
		t.Fatal(err)
	}
	if ops := Diff(have, bootspec.Network{Links: links}); len(ops) > 0 {
		t.Errorf("there is still to do: %v", ops)
	}
	inRack(t, node, rack, func() error {
		l, err := netlink.LinkByName("sw0")
		return errors.Join(err, netlink.LinkSetDown(l))
	})
	for _, address := range []string{"10.1.0.1", "172.16.1.1"} {
		if !reaches(t, address, 30) {
			t.Errorf("%s can't be reached after a cable is lost", address)
		}
	}
}

// TestConfigureBondTakesTheBootAddressOver begins where the boot has left the machine: with an address on one card.
func TestConfigureBondTakesTheBootAddressOver(t *testing.T) {
	machine(t)
	boot := Lease{Link: "eth0", Address: netip.MustParsePrefix("10.1.0.100/24"), Router: netip.MustParseAddr("10.1.0.1")}
	if err := errors.Join(setUp("eth0"), boot.apply()); err != nil {
		t.Fatal(err)
	}
	cards := []bootspec.Link{physical("eth0", "52:54:00:00:00:10"), physical("eth1", "52:54:00:00:00:11")}
	bond := bondLink("bond0", "active-backup", []string{"eth0", "eth1"}, "10.1.0.11/24")
	bond.Routes = []bootspec.Route{{To: defaultRoute, Via: netip.MustParseAddr("10.1.0.1"), Metric: 200}}
	t.Cleanup(func() { _ = removeLink("bond0") })
	supported(t, configure(t, append(cards, bond)...))
	if eth0 := linkNamed(t, "eth0"); len(eth0.Addresses) != 0 || len(eth0.Routes) != 0 || eth0.Master == 0 {
		t.Errorf("eth0 is %+v", eth0)
	}
	if b := linkNamed(t, "bond0"); len(b.Addresses) != 1 || len(b.Routes) != 1 || b.Bond.Mode != "active-backup" {
		t.Errorf("bond0 is %+v", b)
	}
	// Another mode, and a card less.
	bond.Bond.Mode, bond.Members = "balance-xor", []string{"eth1"}
	if err := configure(t, append(cards, bond)...); err != nil {
		t.Fatal(err)
	}
	if b := linkNamed(t, "bond0"); b.Bond != (BondState{Mode: "balance-xor", MIIMon: 100, Hash: "layer3+4"}) || len(b.Addresses) != 1 {
		t.Errorf("bond0 is %+v", b)
	}
	if eth0, eth1 := linkNamed(t, "eth0"), linkNamed(t, "eth1"); eth0.Master != 0 || eth1.Master == 0 || !eth0.Up {
		t.Errorf("eth0 is %+v, eth1 is %+v", eth0, eth1)
	}
}

func TestConfigureBridge(t *testing.T) {
	node, rack := machine(t)
	inRack(t, node, rack, func() error {
		return errors.Join(setUp("sw0"), replaceAddress("sw0", netip.MustParsePrefix("10.1.0.1/24")), echoes(t))
	})
	t.Cleanup(func() { _ = removeLink("br0") })
	bridge := bootspec.Link{Name: "br0", Kind: bootspec.KindBridge, Members: []string{"eth0"}, Addresses: prefixes("10.1.0.11/24")}
	for range 2 {
		supported(t, configure(t, physical("eth0", "52:54:00:00:00:10"), bridge))
	}
	if !reaches(t, "10.1.0.1", 30) {
		t.Error("nothing can be reached through the bridge")
	}
}

// TestTryTakesBackWhatLosesTheServer changes everything that can be changed, to no good end.
func TestTryTakesBackWhatLosesTheServer(t *testing.T) {
	node, rack := machine(t)
	inRack(t, node, rack, func() error {
		return errors.Join(setUp("sw0"), replaceAddress("sw0", netip.MustParsePrefix("10.1.0.1/24")), echoes(t))
	})
	boot := Lease{Link: "eth0", Address: netip.MustParsePrefix("10.1.0.100/24"), Router: netip.MustParseAddr("10.1.0.1")}
	if err := errors.Join(setUp("eth0"), boot.apply()); err != nil {
		t.Fatal(err)
	}
	before, err := Links()
	if err != nil {
		t.Fatal(err)
	}
	bad := physical("lan0", "52:54:00:00:00:10", "10.1.1.11/24")
	bad.MTU, bad.SLAAC = 1400, true
	want := bootspec.Network{Links: []bootspec.Link{
		bad, physical("eth0", "52:54:00:00:00:11"),
		{Name: "br0", Kind: bootspec.KindBridge, Members: []string{"eth0"}, Addresses: prefixes("10.1.0.11/24")},
	}}
	reach := func(ctx context.Context) error {
		if !reaches(t, "10.1.0.1", 2) {
			return errors.New("no answer from 10.1.0.1")
		}
		return nil
	}
	trial := Trial{Reach: reach, Patience: 3 * time.Second, Log: quiet()}
	err = trial.Configure(t.Context(), want)
	if !errors.Is(err, ErrTakenBack) {
		t.Fatalf("error is %v", err)
	}
	after, err := Links()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(before, after, func(a, b LinkState) bool {
		return a.Name == b.Name && a.Index == b.Index && a.MTU == b.MTU && a.RA == b.RA && a.Master == b.Master &&
			slices.Equal(v4(a.Addresses), v4(b.Addresses)) && slices.Equal(a.Routes, b.Routes)
	}) {
		t.Errorf("before it was\n%+v\nnow it is\n%+v", before, after)
	}
	if err := reach(t.Context()); err != nil {
		t.Error(err)
	}
	// A document that keeps the server stays.
	if err := trial.Configure(t.Context(), bootspec.Network{Links: []bootspec.Link{physical("eth0", "52:54:00:00:00:10", "10.1.0.11/24")}}); err != nil {
		t.Error(err)
	}
}

func v4(list []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool { return !p.Addr().Is4() })
}

// advertise is a router on a link: it sends one router advertisement with a prefix for addresses (RFC 4861, 4.2 and 4.6.2).
func advertise(link string, prefix netip.Prefix) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6) // the kernel adds the checksum
	if err != nil {
		return err
	}
	defer unix.Close(s)
	packet := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, // a router for 1800 s
		3, 4, byte(prefix.Bits()), 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0}
	packet = append(packet, prefix.Addr().AsSlice()...)
	return errors.Join(
		unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255),
		unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, l.Attrs().Index),
		unix.Sendto(s, packet, 0, &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(l.Attrs().Index)}))
}

// TestSLAAC: a link that shall takes addresses and a default route from a router, also while the machine forwards; another
// takes none.
func TestSLAAC(t *testing.T) {
	node, rack := machine(t)
	forwarding := func(value string) {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	forwarding("1")
	t.Cleanup(func() { forwarding("0") })
	inRack(t, node, rack, func() error { return errors.Join(setUp("sw0"), setUp("sw1")) })
	yes, no := physical("eth0", "52:54:00:00:00:10", "2001:db8:9::11/64"), physical("eth1", "52:54:00:00:00:11")
	yes.SLAAC = true
	if err := configure(t, yes, no); err != nil {
		t.Fatal(err)
	}
	routed := func(l LinkState) bool {
		return slices.ContainsFunc(l.Routes, func(r RouteState) bool { return r.To.Bits() == 0 && r.To.Addr().Is6() && !r.Ours })
	}
	var eth0 LinkState
	for range 50 {
		inRack(t, node, rack, func() error {
			_ = advertise("sw0", netip.MustParsePrefix("2001:db8:1::/64")) // until its own address is ready it can't
			_ = advertise("sw1", netip.MustParsePrefix("2001:db8:2::/64"))
			return nil
		})
		time.Sleep(200 * time.Millisecond)
		if eth0 = linkNamed(t, "eth0"); len(eth0.Addresses) == 2 && routed(eth0) {
			break
		}
	}
	if !slices.Contains(eth0.Addresses, netip.MustParsePrefix("2001:db8:1:0:5054:ff:fe00:10/64")) || !routed(eth0) {
		t.Errorf("eth0 is %+v", eth0)
	}
	if eth1 := linkNamed(t, "eth1"); len(eth1.Addresses) != 0 || routed(eth1) {
		t.Errorf("eth1 is %+v", eth1)
	}
	if err := configure(t, yes, no); err != nil { // what the router gave is left alone
		t.Fatal(err)
	}
	if got := linkNamed(t, "eth0"); len(got.Addresses) != 2 {
		t.Errorf("eth0 is %+v", got)
	}
}

// TestKeep: a link has its address as long as the server gives it, and no longer.
func TestKeep(t *testing.T) {
	node, rack := machine(t)
	var asked atomic.Int32
	var silent atomic.Bool
	serve(t, node, rack, "sw0", 1, func(r *dhcpv4.DHCPv4) { // the first packet is lost
		r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(4 * time.Second))
		if asked.Add(1); silent.Load() {
			r.OpCode = dhcpv4.OpcodeBootRequest // no answer
		}
	})
	link := physical("eth0", "52:54:00:00:00:10", "10.7.0.11/24")
	link.DHCP, link.Metric = true, 300
	if err := configure(t, link); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); Keep(ctx, bootspec.Network{Links: []bootspec.Link{link}}, quiet()) }()
	t.Cleanup(func() { cancel(); <-ended })
	has := func() bool {
		l := linkNamed(t, "eth0")
		return slices.Contains(l.Addresses, netip.MustParsePrefix("10.1.0.11/24")) && len(v4(l.Addresses)) == 2
	}
	wait := func(what string, done func() bool) {
		t.Helper()
		for range 300 {
			if done() {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Fatalf("%s: eth0 is %+v", what, linkNamed(t, "eth0"))
	}
	wait("no address", has)
	if l := linkNamed(t, "eth0"); !slices.Contains(l.Routes, RouteState{To: defaultRoute, Via: netip.MustParseAddr("10.1.0.1"), Metric: 300}) {
		t.Errorf("the routes are %v", l.Routes)
	}
	wait("never renewed", func() bool { return asked.Load() >= 4 }) // offer, acknowledgement, two renewals
	if !has() {
		t.Errorf("after renewals eth0 is %+v", linkNamed(t, "eth0"))
	}
	if err := configure(t, link); err != nil || !has() { // what the lease gave is left alone
		t.Errorf("%v, eth0 is %+v", err, linkNamed(t, "eth0"))
	}
	silent.Store(true)
	wait("the address stays after its lease", func() bool { return !has() })
	silent.Store(false)
	wait("the address doesn't come again", has)
}
