package network

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func find1(t *testing.T, f Finder) (Lease, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	f.Usable = func(l LinkState) bool { return strings.HasPrefix(l.Name, "eth") }
	f.Log = quiet()
	return f.Find(ctx)
}

func TestFindOnTheLinkThatAnswers(t *testing.T) {
	node, rack := machine(t)
	serve(t, node, rack, "sw1", 1, bootServer) // the first packet is lost; eth0 has no carrier
	lease, err := find1(t, Finder{})
	if err != nil {
		t.Fatal(err)
	}
	if lease.Link != "eth1" || lease.Server != "http://10.1.0.1:8080" || lease.MAC != "52:54:00:00:00:11" {
		t.Errorf("lease is %+v", lease)
	}
	eth1 := linkNamed(t, "eth1")
	if len(eth1.Addresses) == 0 || eth1.Addresses[0].String() != "10.1.0.11/24" || len(eth1.Routes) != 1 || !eth1.Routes[0].Ours {
		t.Errorf("eth1 is %+v", eth1)
	}
}

func TestFindPassesOverOtherServers(t *testing.T) {
	node, rack := machine(t)
	serve(t, node, rack, "sw0", 0, func(*dhcpv4.DHCPv4) {}) // gives addresses, knows no boot server
	serve(t, node, rack, "sw1", 0, bootServer)
	lease, err := find1(t, Finder{})
	if err != nil || lease.Link != "eth1" {
		t.Errorf("lease is %+v, error %v", lease, err)
	}
}

// TestFindBesideAnotherServer: the address from one server, the boot server's from a proxy, whichever comes first.
func TestFindBesideAnotherServer(t *testing.T) {
	proxy := func(r *dhcpv4.DHCPv4) {
		bootServer(r)
		r.YourIPAddr = net.IPv4zero
		r.UpdateOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 1, 0, 2)))
		r.UpdateOption(dhcpv4.OptClassIdentifier("slipway-agent"))
	}
	node, rack := machine(t)
	serve(t, node, rack, "sw0", 0, func(*dhcpv4.DHCPv4) {})
	serve(t, node, rack, "sw0", 0, proxy)
	lease, err := find1(t, Finder{})
	if err != nil || lease.Link != "eth0" || lease.Server != "http://10.1.0.1:8080" || lease.Address.String() != "10.1.0.11/24" {
		t.Errorf("lease is %+v, error %v", lease, err)
	}
	kind := func(p *dhcpv4.DHCPv4) { p.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeOffer)) }
	address, told := offer(kind), offer(proxy, kind)
	for name, order := range map[string][]*dhcpv4.DHCPv4{"the address first": {address, told}, "the proxy first": {told, address}} {
		var o offers
		if o.take(order[0]) || !o.take(order[1]) || o.offer != address || o.server != "http://10.1.0.1:8080" {
			t.Errorf("%s: %+v", name, o)
		}
	}
	stranger := offer(proxy, kind, func(p *dhcpv4.DHCPv4) { p.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient")) })
	if o := (offers{}); o.take(stranger) || o.take(address) {
		t.Error("an offer for firmware was taken for one to the agent")
	}
}

func TestFindWithServerGiven(t *testing.T) {
	node, rack := machine(t)
	serve(t, node, rack, "sw0", 0, func(*dhcpv4.DHCPv4) {})
	lease, err := find1(t, Finder{Server: "http://10.9.9.9"})
	if err != nil || lease.Link != "eth0" || lease.Server != "http://10.9.9.9" {
		t.Errorf("lease is %+v, error %v", lease, err)
	}
}

func TestFindWithoutLinks(t *testing.T) {
	machine(t)
	f := Finder{NoLink: time.Millisecond, Usable: func(LinkState) bool { return false }, Log: quiet()}
	if _, err := f.Find(t.Context()); !errors.Is(err, ErrNoLink) {
		t.Errorf("error is %v", err)
	}
}

func TestFindEndsWithItsContext(t *testing.T) {
	machine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	f := Finder{Usable: func(l LinkState) bool { return l.Name == "eth0" }, Log: quiet()}
	if _, err := f.Find(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}

func TestWaitingSaysWhatIsWrong(t *testing.T) {
	eth0 := card(2, "eth0", "52:54:00:00:00:11")
	eth1 := card(3, "eth1", "52:54:00:00:00:12")
	eth1.Carrier = true
	got := waiting([]LinkState{eth0, eth1}, 15*time.Second)
	if want := "still looking for the boot server after 15s: eth0 (52:54:00:00:00:11): no carrier: cable or switch port; eth1 (52:54:00:00:00:12): no usable DHCP answer"; got != want {
		t.Errorf("it says %q", got)
	}
}

func offer(modify ...func(*dhcpv4.DHCPv4)) *dhcpv4.DHCPv4 {
	p := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootReply, YourIPAddr: net.IPv4(10, 1, 0, 11), ClientHWAddr: net.HardwareAddr{1, 2, 3, 4, 5, 6}, Options: dhcpv4.Options{}}
	p.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)))
	for _, m := range modify {
		m(p)
	}
	return p
}

func TestLeaseRefusesUselessAnswers(t *testing.T) {
	for want, p := range map[string]*dhcpv4.DHCPv4{
		"no boot server":         offer(),
		"is no boot server":      offer(func(p *dhcpv4.DHCPv4) { p.BootFileName = "pxelinux.0" }),
		"no usable address":      offer(bootServer, func(p *dhcpv4.DHCPv4) { p.YourIPAddr = net.IPv4zero }),
		"no usable subnet mask":  offer(bootServer, func(p *dhcpv4.DHCPv4) { p.UpdateOption(dhcpv4.OptSubnetMask(net.IPMask{0, 0, 0, 0})) }),
		"not an address like":    offer(func(p *dhcpv4.DHCPv4) { p.UpdateOption(dhcpv4.OptBootFileName("http://user:pw@10.1.0.1/")) }),
		`"tftp://10.1.0.1/x.efi`: offer(func(p *dhcpv4.DHCPv4) { p.UpdateOption(dhcpv4.OptBootFileName("tftp://10.1.0.1/x.efi")) }),
	} {
		if l, err := leaseFrom(p, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("lease %+v, error %v, wanted %q", l, err, want)
		}
	}
}

func FuzzLease(f *testing.F) {
	f.Add(offer(bootServer).ToBytes(), "")
	f.Add(offer().ToBytes(), "http://10.1.0.1:8080")
	f.Fuzz(func(t *testing.T, packet []byte, server string) {
		p, err := dhcpv4.FromBytes(packet)
		if err != nil {
			return
		}
		o := offers{server: server}
		if full := o.take(p); full && (o.offer == nil || server != "" && o.server != server) {
			t.Errorf("complete without an address: %+v", o)
		}
		l, err := leaseFrom(p, server)
		if err != nil {
			return
		}
		if !l.Address.IsValid() || l.Address.Bits() == 0 || len(l.DNS) > maxDNS || l.Server == "" || l.Router.IsValid() && !l.Address.Contains(l.Router) {
			t.Errorf("lease %+v", l)
		}
	})
}
