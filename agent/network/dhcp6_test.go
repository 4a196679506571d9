package network

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/server6"
	"github.com/vishvananda/netns"
)

// serve6 answers DHCPv6 on a link of the rack with what reply makes of the answer.
func serve6(t *testing.T, node, rack netns.NsHandle, link string, reply func(*dhcpv6.Message)) {
	t.Helper()
	if err := netns.Set(rack); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(setUp(link), addAtOnce(link, netip.MustParsePrefix("fd00:1::1/64"))); err != nil {
		t.Fatal(err)
	}
	s, err := server6.NewServer(link, &net.UDPAddr{IP: net.IPv6unspecified, Port: 547}, func(conn net.PacketConn, peer net.Addr, m dhcpv6.DHCPv6) {
		asked, ok := m.(*dhcpv6.Message)
		if !ok || len(asked.Options.UserClasses()) != 1 || string(asked.Options.UserClasses()[0]) != "slipway-agent" {
			return
		}
		make := dhcpv6.NewReplyFromMessage
		if asked.MessageType == dhcpv6.MessageTypeSolicit {
			make = dhcpv6.NewAdvertiseFromSolicit
		}
		answer, err := make(asked, dhcpv6.WithServerID(&dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}),
			dhcpv6.WithIANA(dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP("fd00:1::11"), PreferredLifetime: time.Hour, ValidLifetime: time.Hour}))
		if err != nil {
			return
		}
		reply(answer)
		_, _ = conn.WriteTo(answer.ToBytes(), peer)
	})
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve()
	t.Cleanup(func() { s.Close() })
	if err := netns.Set(node); err != nil {
		t.Fatal(err)
	}
}

// TestFindOverIPv6: nobody answers over IPv4.
func TestFindOverIPv6(t *testing.T) {
	node, rack := machine(t)
	serve6(t, node, rack, "sw1", func(m *dhcpv6.Message) { m.AddOption(dhcpv6.OptBootFileURL("http://[fd00:1::1]:8080")) })
	lease, err := find1(t, Finder{Later6: time.Second / 2})
	if err != nil || lease.Link != "eth1" || lease.Server != "http://[fd00:1::1]:8080" || lease.MAC != "52:54:00:00:00:11" || lease.Address.String() != "fd00:1::11/64" {
		t.Fatalf("lease is %+v, error %v", lease, err)
	}
	if conn, err := net.Listen("tcp6", "[fd00:1::11]:0"); err != nil {
		t.Errorf("the address can't be used: %v", err)
	} else {
		conn.Close()
	}
}

func TestLeaseOverIPv6(t *testing.T) {
	reply := func(address string, life time.Duration, boot string) *dhcpv6.Message {
		m, _ := dhcpv6.NewMessage(dhcpv6.WithIANA(dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(address), ValidLifetime: life}))
		if boot != "" {
			m.AddOption(dhcpv6.OptBootFileURL(boot))
		}
		return m
	}
	bare, _ := dhcpv6.NewMessage()
	for name, m := range map[string]*dhcpv6.Message{
		"no address": bare, "an old address": reply("fd00:1::11", 0, "http://[fd00:1::1]:8080"), "IPv4": reply("10.1.0.1", time.Hour, "http://[fd00:1::1]:8080"),
		"multicast": reply("ff02::1", time.Hour, "http://[fd00:1::1]:8080"), "no boot server": reply("fd00:1::11", time.Hour, ""),
		"a boot file": reply("fd00:1::11", time.Hour, "tftp://[fd00:1::1]/x.efi"),
	} {
		if l, err := leaseFrom6(m, ""); err == nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if l, err := leaseFrom6(reply("fd00:1::11", time.Hour, ""), "http://10.9.9.9"); err != nil || l.Address.Bits() != 128 || l.Server != "http://10.9.9.9" {
		t.Errorf("%+v, %v", l, err)
	}
}

// FuzzLeaseOverIPv6: whatever answers, an address of its own and a boot server are taken, or nothing.
func FuzzLeaseOverIPv6(f *testing.F) {
	m, _ := dhcpv6.NewMessage(dhcpv6.WithIANA(dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP("fd00:1::11"), ValidLifetime: time.Hour}), dhcpv6.WithDNS(net.ParseIP("fd00:1::2")))
	m.AddOption(dhcpv6.OptBootFileURL("http://[fd00:1::1]:8080"))
	f.Add(m.ToBytes())
	f.Fuzz(func(t *testing.T, packet []byte) {
		m, err := dhcpv6.MessageFromBytes(packet)
		if err != nil {
			return
		}
		if l, err := leaseFrom6(m, ""); err == nil && (!l.Address.Addr().IsGlobalUnicast() || l.Server == "") {
			t.Errorf("%+v", l)
		}
	})
}
