package netboot

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"

	"github.com/slipway-os/slipway/images/bootspec"
)

// network6 gives the tests' bridge the server's IPv6 address too, and returns a configuration for it.
func network6(t *testing.T, log *journal) Config {
	t.Helper()
	network(t)
	bridge, err := netlink.LinkByName(serverLink)
	must(t, err)
	setAddress(t, bridge, "fd00:1::1/64")
	c := configFor(t, log)
	c.Site = lab6(t)
	return c
}

// ready6 waits until the machine's link-local address is its own (RFC 4862), and returns the link.
func (c *host) ready6() *net.Interface {
	c.t.Helper()
	there, err := netlink.NewHandleAt(c.space)
	must(c.t, err)
	defer there.Close()
	link, err := there.LinkByName("eth0")
	must(c.t, err)
	waitFor(c.t, func() bool {
		addresses, err := there.AddrList(link, netlink.FAMILY_V6)
		must(c.t, err)
		for _, a := range addresses {
			if a.IP.IsLinkLocalUnicast() && a.Flags&(0x40|0x08) == 0 { // tentative, failed
				return true
			}
		}
		return false
	})
	return &net.Interface{Index: link.Attrs().Index, Name: "eth0", HardwareAddr: link.Attrs().HardwareAddr, MTU: link.Attrs().MTU}
}

// TestFirmwareOverIPv6: what UEFI does with PXE and HTTP Boot over IPv6, with other programs: it hears an advertisement, asks DHCPv6, and
// gets the image by TFTP and by HTTP.
func TestFirmwareOverIPv6(t *testing.T) {
	log := &journal{}
	config := network6(t, log)
	s, _ := run(t, config)
	node := plug(t, worker1)
	link := node.ready6()
	advertised := node.advertised(link)
	if advertised == nil || !advertised.ManagedConfiguration || advertised.RouterLifetime != 0 {
		t.Fatalf("the router advertisement is %+v", advertised)
	}
	for class, want := range map[string]string{
		"PXEClient:Arch:00007:UNDI:003016":  "tftp://[fd00:1::1]/" + workerUKI,
		"HTTPClient:Arch:00016:UNDI:003016": "http://[fd00:1::1]:8080/artifacts/" + workerUKI,
	} {
		reply := node.ask6(link, dhcpv6.WithOption(&dhcpv6.OptVendorClass{EnterpriseNumber: 343, Data: [][]byte{[]byte(class)}}),
			dhcpv6.WithArchType(iana.EFI_X86_64), dhcpv6.WithRequestedOptions(dhcpv6.OptionBootfileURL))
		address := reply.Options.OneIANA().Options.OneAddress()
		if address == nil || address.IPv6Addr.String() != "fd00:1::21" || reply.Options.BootFileURL() != want {
			t.Errorf("%s: %s", class, reply.Summary())
		}
	}
	if said, err := node.run("ip", "address", "add", "fd00:1::21/64", "dev", "eth0", "nodad"); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	whole := filepath.Join(config.Artifacts, workerUKI)
	for name, command := range map[string][]string{
		"tftp":  {"tftp", "-6", "-m", "binary", "fd00:1::1", "-c", "get", workerUKI, filepath.Join(node.dir, "tftp")},
		"atftp": {"atftp", "--option", "blksize 1468", "--option", "windowsize 4", "-g", "-r", workerUKI, "-l", filepath.Join(node.dir, "atftp"), "fd00:1::1"},
		"curl":  {"curl", "-sSf", "-o", filepath.Join(node.dir, "curl"), "http://[fd00:1::1]:8080/artifacts/" + workerUKI},
	} {
		if said, err := node.run(command...); err != nil {
			t.Fatalf("%s: %v: %s", name, err, said)
		}
		sameFile(t, filepath.Join(node.dir, name), whole)
	}
	must(t, node.in(func() error { // blocks fit a frame: 1500 bytes less the headers of IPv6, UDP and TFTP
		conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.ParseIP("fd00:1::21")})
		if err != nil {
			return err
		}
		defer conn.Close()
		ask := "\x00\x01" + workerUKI + "\x00octet\x00blksize\x0065464\x00"
		if _, err := conn.WriteToUDP([]byte(ask), &net.UDPAddr{IP: net.ParseIP("fd00:1::1"), Port: portTFTP}); err != nil {
			return err
		}
		buffer := make([]byte, 2000)
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, _, err := conn.ReadFromUDP(buffer)
		if got := string(buffer[:n]); got != "\x00\x06blksize\x001448\x00" {
			t.Errorf("block size: %q", got)
		}
		return err
	}))
	waitFor(t, func() bool {
		nodes := s.Nodes()
		_, sent := nodes[len(nodes)-1].Boot().Find(bootspec.EventKernelSent)
		return sent
	})
	if said, err := node.run("curl", "-sSf", "http://[fd00:1::1]:8080"+bootspec.RouteSecure); err != nil || !strings.Contains(said, "https://[fd00:1::1]:7446") {
		t.Errorf("the way over TLS: %s, %v", said, err)
	}
	if told := s.past.explain(worker1); len(told) == 0 || !strings.Contains(strings.Join(told[0].Path, " "), "told by its link-local address") {
		t.Errorf("explained: %+v", told)
	}
}

// advertised asks for a router advertisement, as firmware does.
func (c *host) advertised(link *net.Interface) (heard *ndp.RouterAdvertisement) {
	c.t.Helper()
	must(c.t, c.in(func() error {
		conn, _, err := ndp.Listen(link, ndp.LinkLocal)
		if err != nil {
			return err
		}
		defer conn.Close()
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
			if err := conn.WriteTo(&ndp.RouterSolicitation{}, nil, netip.IPv6LinkLocalAllRouters()); err != nil {
				return err
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			if message, _, _, err := conn.ReadFrom(); err == nil {
				if a, ok := message.(*ndp.RouterAdvertisement); ok {
					heard = a
					return nil
				}
			}
		}
		return nil
	}))
	return heard
}

// ask6 asks DHCPv6 with the library's client: SOLICIT, ADVERTISE, REQUEST, REPLY.
func (c *host) ask6(link *net.Interface, with ...dhcpv6.Modifier) (reply *dhcpv6.Message) {
	c.t.Helper()
	must(c.t, c.in(func() error {
		client, err := nclient6.New(link.Name)
		if err != nil {
			return err
		}
		defer client.Close()
		advertise, err := client.Solicit(c.t.Context(), with...)
		if err != nil {
			return err
		}
		reply, err = client.Request(c.t.Context(), advertise, with...)
		return err
	}))
	return reply
}

// TestDhclient6: ISC's client gets its lease and gives it back.
func TestDhclient6(t *testing.T) {
	log := &journal{}
	run(t, network6(t, log))
	node := plug(t, worker1)
	node.ready6()
	stop := node.dhclient6()
	if got := node.told("BOUND6", "new_ip6_address"); got != "new_ip6_address=fd00:1::21" {
		t.Errorf("it was told %s", got)
	}
	stop()
	node.dhclient6("-r")
	waitFor(t, func() bool { return strings.Contains(log.String(), "client releases fd00:1::21") })
	other := plug(t, stranger)
	other.ready6()
	other.dhclient6()
	waitFor(t, func() bool {
		return strings.Contains(log.String(), `mac=`+stranger) && strings.Contains(log.String(), "not in the cluster document")
	})
}

func (c *host) dhclient6(words ...string) (stop func()) {
	c.t.Helper()
	if _, err := os.Stat("/usr/sbin/dhclient"); err != nil {
		c.t.Skip("dhclient is not installed (make deps)")
	}
	arguments := []string{"dhclient", "-6", "-d", "-1", "-D", "LL", "-e", "RESULT=" + c.dir, "-cf", "/dev/null", "-sf", c.hook(),
		"-lf", filepath.Join(c.dir, "leases6"), "-pf", filepath.Join(c.dir, "pid6")}
	return c.start(append(append(arguments, words...), "eth0")...)
}

// TestCannotServe6: what keeps IPv6 from being served is said with what to do.
func TestCannotServe6(t *testing.T) {
	config := network6(t, &journal{})
	config.Site.IPv6.Server = netip.MustParseAddr("fd00:1::2")
	if _, err := New(config); err == nil || !strings.Contains(err.Error(), "ip address add fd00:1::2/64 dev br0") {
		t.Errorf("without its address: %v", err)
	}
	config = configFor(t, &journal{})
	config.Site = lab6(t)
	other, err := net.ListenUDP("udp6", &net.UDPAddr{Port: portDHCP6})
	must(t, err)
	defer other.Close()
	if _, err := New(config); err == nil || !strings.Contains(err.Error(), "cannot serve DHCPv6") || !strings.Contains(err.Error(), "udp port 547") {
		t.Errorf("with its port taken: %v", err)
	}
}
