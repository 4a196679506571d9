package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// quiet is a log nobody reads.
func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// inside marks the process that runs in its own network namespace.
const inside = "SLIPWAY_TEST_NAMESPACE"

// TestMain runs the tests in a process with a network namespace of its own: the code under test uses many threads.
func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		asInit()
	}
	worker := slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.fuzzworker") })
	if os.Getuid() != 0 || os.Getenv(inside) != "" || worker {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot run the tests in a network namespace:", err)
		os.Exit(1)
	}
}

// machine gives this process' namespace the links eth0 and eth1 (veth); their other ends, sw0 and sw1, are in a second
// namespace, the rack.
func machine(t *testing.T) (node, rack netns.NsHandle) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("network namespaces need root")
	}
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	node, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	if rack, err = netns.New(); err != nil {
		t.Fatal(err)
	}
	if err := netns.Set(node); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rack.Close(); node.Close() })
	for _, n := range []string{"0", "1"} {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth" + n
		attrs.HardwareAddr = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0x10 + n[0] - '0'}
		link := &netlink.Veth{LinkAttrs: attrs, PeerName: "sw" + n, PeerNamespace: netlink.NsFd(rack)}
		if err := netlink.LinkAdd(link); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { removeByMAC(t, attrs.HardwareAddr.String()) })
	}
	return node, rack
}

// removeByMAC removes a link, whatever its name is now.
func removeByMAC(t *testing.T, mac string) {
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Attrs().HardwareAddr.String() == mac && l.Type() == "veth" {
			if err := netlink.LinkDel(l); err != nil {
				t.Error(err)
			}
		}
	}
}

func linkNamed(t *testing.T, name string) LinkState {
	t.Helper()
	links, err := Links()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Name == name {
			return l
		}
	}
	t.Fatalf("there is no link %s", name)
	return LinkState{}
}

func configure(t *testing.T, links ...bootspec.Link) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return Configure(ctx, bootspec.Network{Links: links}, quiet())
}

// supported skips where this machine's kernel lacks a kind of link; TestMachineNetwork runs the same test where it doesn't.
func supported(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("this kernel can't: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestConfigureTakesTheBootAddressOver(t *testing.T) {
	machine(t)
	boot := Lease{Link: "eth0", Address: netip.MustParsePrefix("10.1.0.100/24"), Router: netip.MustParseAddr("10.1.0.1")}
	if err := errors.Join(setUp("eth0"), boot.apply()); err != nil {
		t.Fatal(err)
	}
	mgmt := physical("eth0", "52:54:00:00:00:10", "10.1.0.11/24")
	mgmt.MTU = 1400
	mgmt.Routes = []bootspec.Route{{To: defaultRoute, Via: netip.MustParseAddr("10.1.0.1"), Metric: 100}, {To: netip.MustParsePrefix("10.8.0.0/16")}}
	pods := physical("eth1", "52:54:00:00:00:11", "172.16.1.11/24", "2001:db8::11/64")
	for range 2 { // the second time there is nothing to do
		if err := configure(t, mgmt, pods); err != nil {
			t.Fatal(err)
		}
	}
	eth0 := linkNamed(t, "eth0")
	if len(eth0.Addresses) != 1 || eth0.Addresses[0].String() != "10.1.0.11/24" || eth0.MTU != 1400 {
		t.Errorf("eth0 is %+v", eth0)
	}
	if got := len(eth0.Routes); got != 2 {
		t.Errorf("eth0 has the routes %v", eth0.Routes)
	}
}

func TestConfigureRenames(t *testing.T) {
	machine(t)
	err := configure(t, physical("eth1", "52:54:00:00:00:10", "10.1.0.11/24"), physical("eth0", "52:54:00:00:00:11"))
	if err != nil {
		t.Fatal(err)
	}
	if got := linkNamed(t, "eth1"); got.MAC != "52:54:00:00:00:10" || len(got.Addresses) != 1 || !got.Up {
		t.Errorf("eth1 is %+v", got)
	}
}

func TestConfigureVLAN(t *testing.T) {
	machine(t)
	vlan := bootspec.Link{Name: "pods", Kind: "vlan", VLAN: &bootspec.VLAN{Parent: "eth0", ID: 101}, Addresses: prefixes("172.16.1.11/24")}
	supported(t, configure(t, physical("eth0", "52:54:00:00:00:10"), vlan))
	vlan.VLAN.ID = 102
	if err := configure(t, physical("eth0", "52:54:00:00:00:10"), vlan); err != nil {
		t.Fatal(err)
	}
	if got := linkNamed(t, "pods"); got.VLAN != 102 || len(got.Addresses) != 1 {
		t.Errorf("pods is %+v", got)
	}
}

func TestNothingChangesWhenALinkIsMissing(t *testing.T) {
	machine(t)
	err := configure(t, physical("eth0", "52:54:00:00:00:10", "10.1.0.11/24"), physical("eth1", "52:54:00:00:00:99"))
	if err == nil || !strings.Contains(err.Error(), "52:54:00:00:00:11") {
		t.Errorf("the error doesn't name the cards that exist: %v", err)
	}
	if got := linkNamed(t, "eth0"); len(got.Addresses) != 0 || got.Up {
		t.Errorf("eth0 was changed: %+v", got)
	}
}

func TestReadBackNamesTheDifference(t *testing.T) {
	machine(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := ReadBack(ctx, bootspec.Network{Links: []bootspec.Link{physical("eth1", "52:54:00:00:00:11", "172.16.1.11/24")}})
	if err == nil || !strings.Contains(err.Error(), "eth1: add address 172.16.1.11/24") {
		t.Errorf("error is %v", err)
	}
}

// serve answers DHCP on a link of the rack with what reply makes of the answer; the first lost packets get none.
func serve(t *testing.T, node, rack netns.NsHandle, link string, lost int, reply func(*dhcpv4.DHCPv4)) {
	t.Helper()
	if err := netns.Set(rack); err != nil {
		t.Fatal(err)
	}
	address := netip.MustParsePrefix("10.1.0.1/24")
	if err := errors.Join(setUp(link), replaceAddress(link, address)); err != nil {
		t.Fatal(err)
	}
	s, err := server4.NewServer(link, nil, func(conn net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4) {
		if lost--; lost >= 0 {
			return
		}
		r, err := dhcpv4.NewReplyFromRequest(m)
		if err != nil || m.ClassIdentifier() != bootspec.VendorClass {
			return
		}
		r.UpdateOption(dhcpv4.OptMessageType(map[dhcpv4.MessageType]dhcpv4.MessageType{
			dhcpv4.MessageTypeDiscover: dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeRequest: dhcpv4.MessageTypeAck,
		}[m.MessageType()]))
		r.YourIPAddr = net.IPv4(10, 1, 0, 11)
		r.UpdateOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 1, 0, 1)))
		r.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)))
		r.UpdateOption(dhcpv4.OptRouter(net.IPv4(10, 1, 0, 1)))
		reply(r)
		_, _ = conn.WriteTo(r.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 68})
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

func bootServer(r *dhcpv4.DHCPv4) { r.UpdateOption(dhcpv4.OptBootFileName("http://10.1.0.1:8080/")) }
