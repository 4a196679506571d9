package netboot

import (
	"net"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

const (
	worker2 = "52:54:00:00:00:22" // on an interface of the server's own
	worker3 = "52:54:00:00:00:23" // behind a relay
)

// TestSubnets: on a second interface a machine gets that subnet's address, server and URLs, and fetches from there.
func TestSubnets(t *testing.T) {
	network(t)
	addBridge(t, "br1", "10.2.0.1/24")
	t.Cleanup(func() { removeBridge(t, "br1") })
	config := configFor(t, &journal{})
	furtherSubnets(config.Site)
	config.Site.ServeUnknown = true
	config.Interfaces = []string{serverLink, "br1"}
	run(t, config)
	node, other, first := plugInto(t, "br1", worker2), plugInto(t, "br1", stranger), plug(t, worker1)
	pxe := []string{"-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "0x5d:0007", "-O", "bootfile", "-O", "tftp"}
	for from, want := range map[*host]string{
		node:  "ip=10.2.0.22 serverid=10.2.0.1 siaddr=10.2.0.1 tftp=10.2.0.1",
		other: "ip=10.2.0.100 serverid=10.2.0.1",
		first: "ip=10.1.0.21 router=10.1.0.1 serverid=10.1.0.1 siaddr=10.1.0.1 tftp=10.1.0.1",
	} {
		must(t, from.udhcpc(pxe...))
		if got := from.told("bound", "ip", "router", "serverid", "siaddr", "tftp"); got != want {
			t.Errorf("it was told %s, want %s", got, want)
		}
	}
	if said, err := node.run("atftp", "-g", "-r", workerUKI, "-l", node.dir+"/kernel", "10.2.0.1"); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	sameFile(t, node.dir+"/kernel", config.Artifacts+"/"+workerUKI)
	if said, err := node.run("curl", "-sSf", "http://10.2.0.1:8080/v1/secure"); err != nil || !strings.Contains(said, "https://10.2.0.1:7446") {
		t.Errorf("%v: %s", err, said)
	}
}

// relayHost is a router between the server's network and another one, br3, with ISC's relay.
func relayHost(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("dhcrelay"); err != nil {
		t.Skip("dhcrelay is not installed (make deps)")
	}
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br3"}}))
	t.Cleanup(func() { removeBridge(t, "br3") })
	far, err := netlink.LinkByName("br3")
	must(t, err)
	must(t, netlink.LinkSetUp(far))
	relay := plug(t, "52:54:00:00:00:03")
	port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "far"}, PeerName: "eth1", PeerNamespace: netlink.NsFd(relay.space)}
	must(t, netlink.LinkAdd(port))
	t.Cleanup(func() { must(t, netlink.LinkDel(port)) })
	must(t, netlink.LinkSetMaster(port, far))
	must(t, netlink.LinkSetUp(port))
	for _, words := range []string{
		"ip link set eth1 up", "ip address add 10.1.0.2/24 dev eth0", "ip address add 10.3.0.1/24 dev eth1", "sysctl -qw net.ipv4.ip_forward=1",
	} {
		if said, err := relay.run(strings.Fields(words)...); err != nil {
			t.Fatalf("%s: %v: %s", words, err, said)
		}
	}
	near, err := netlink.LinkByName(serverLink)
	must(t, err)
	_, behind, _ := net.ParseCIDR("10.3.0.0/24")
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: near.Attrs().Index, Dst: behind, Gw: net.IPv4(10, 1, 0, 2)}))
	relay.start("dhcrelay", "-d", "-4", "-a", "-id", "eth1", "-iu", "eth0", "10.1.0.1")
}

// TestForeignRelay: a machine behind a real relay of a network that the server has no interface in gets its address there, what it
// boots, can fetch that through the router, and renews at the server itself.
func TestForeignRelay(t *testing.T) {
	network(t)
	relayHost(t)
	config := configFor(t, &journal{})
	furtherSubnets(config.Site)
	config.Site.Further = config.Site.Further[1:]
	config.Site.Machines = append(config.Site.Machines[:2:2], config.Site.Machines[3])
	s, _ := run(t, config)
	node := plugInto(t, "br3", worker3)
	waitFor(t, func() bool { // the relay comes up
		return node.udhcpc("-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "0x5d:0007", "-O", "tftp") == nil
	})
	if got := node.told("bound", "ip", "mask", "router", "serverid", "siaddr", "boot_file"); got !=
		"ip=10.3.0.23 mask=24 router=10.3.0.1 serverid=10.1.0.1 siaddr=10.1.0.1 boot_file="+workerUKI {
		t.Errorf("it was told %s", got)
	}
	path := s.past.explain(worker3)
	if words := strings.Join(path[len(path)-1].Path, "\n"); !strings.Contains(words, "through relay 10.3.0.1, circuit \"eth1\"") ||
		!strings.Contains(words, "heard on br0") || !strings.Contains(words, "subnet: 10.3.0.0/24") {
		t.Errorf("it is explained as\n%s", words)
	}
	route := func() {
		t.Helper()
		if said, err := node.run("ip", "route", "replace", "default", "via", "10.3.0.1"); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
	}
	route()
	if said, err := node.run("atftp", "-g", "-r", workerUKI, "-l", node.dir+"/kernel", "10.1.0.1"); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	client := exec.Command("udhcpc", "-i", "eth0", "-f", "-s", node.hook())
	client.Env = append(client.Environ(), "RESULT="+node.dir)
	must(t, node.in(client.Start))
	t.Cleanup(func() { _ = client.Process.Kill(); _ = client.Wait() })
	node.told("bound", "ip")
	route()
	must(t, client.Process.Signal(syscall.SIGUSR1))
	if got := node.told("renew", "ip", "serverid"); got != "ip=10.3.0.23 serverid=10.1.0.1" {
		t.Errorf("renewed: %s", got)
	}
	direct := func(e Exchange) bool {
		return strings.Contains(strings.Join(e.Path, "\n"), "way: from its own network") && e.Answer != ""
	}
	if past := s.past.explain(worker3); !slices.ContainsFunc(past, direct) { // the relay overhears it and passes it on besides
		t.Errorf("no renewal came past the relay: %+v", past)
	}
}

// TestInterfaceComesBack: the interface is taken away while the server runs, and made again: the server goes on there.
func TestInterfaceComesBack(t *testing.T) {
	network(t)
	log := &journal{}
	config := configFor(t, log)
	config.Site.ServeUnknown = true
	run(t, config)
	must(t, plug(t, worker1).udhcpc())
	removeBridge(t, serverLink)
	waitFor(t, func() bool { return strings.Contains(log.String(), "THE INTERFACE IS GONE") })
	addBridge(t, serverLink, "10.1.0.1/24")
	waitFor(t, func() bool { return strings.Contains(log.String(), "the interface is back") })
	node := plug(t, stranger) // the first one's cable was in the old bridge
	must(t, node.udhcpc())
	if got := node.told("bound", "ip"); got != "ip=10.1.0.100" {
		t.Errorf("it was told %s", got)
	}
	if said, err := node.run("atftp", "-g", "-r", workerUKI, "-l", node.dir+"/kernel", "10.1.0.1"); err != nil {
		t.Errorf("%v: %s", err, said)
	}
	if said, err := node.run("curl", "-sSf", "http://10.1.0.1:8080/healthz"); err != nil {
		t.Errorf("%v: %s", err, said)
	}
}
