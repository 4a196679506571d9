package netboot

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// dnsmasq gives addresses, and nothing else unless the words say so, on a machine of its own.
func (c *host) dnsmasq(address string, words ...string) {
	c.t.Helper()
	if _, err := exec.LookPath("dnsmasq"); err != nil {
		c.t.Skip("dnsmasq is not installed (make deps)")
	}
	if said, err := c.run("ip", "address", "add", address+"/24", "dev", "eth0"); err != nil {
		c.t.Fatalf("%v: %s", err, said)
	}
	c.start(append([]string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--bind-interfaces", "--user=root",
		"--pid-file=", "--dhcp-leasefile=" + filepath.Join(c.dir, "leases"), "--dhcp-authoritative", "--no-ping", "--dhcp-range=10.1.0.150,10.1.0.160"}, words...)...)
}

// TestProxyBesideDnsmasq: addresses from dnsmasq, what to boot from us, for firmware that asks as PXE clients do; what the
// machine then fetches is its own.
func TestProxyBesideDnsmasq(t *testing.T) {
	network(t)
	other := plug(t, "52:54:00:00:00:02")
	other.dnsmasq("10.1.0.2", "--dhcp-host=52:54:00:00:00:21,10.1.0.155", "--dhcp-boot=wrong.efi,wrong,10.1.0.2")
	config := configFor(t, &journal{})
	config.Site.Proxy = true
	s, _ := run(t, config)
	node := plug(t, worker1)
	waitFor(t, func() bool { return node.udhcpc() == nil })
	if got := node.told("bound", "ip", "serverid", "bootfile"); got != "ip=10.1.0.155 serverid=10.1.0.2" {
		t.Errorf("a plain client was told %s", got)
	}
	for _, c := range []struct{ name, at, words, want string }{
		{"UEFI PXE, the offer", "10.1.0.1:67", "DISCOVER from=" + worker1 + " broadcast 93=0007 60=PXEClient:Arch:00007:UNDI:003016 55=60,67",
			"53=OFFER 54=10.1.0.1 60=PXEClient 67=" + workerUKI},
		{"UEFI PXE, port 4011", "10.1.0.1:4011", "REQUEST from=" + worker1 + " ciaddr=10.1.0.155 93=0007 60=PXEClient:Arch:00007:UNDI:003016 55=60,67",
			"53=ACK 54=10.1.0.1 60=PXEClient 67=" + workerUKI},
	} {
		if got := node.ask(c.at, c.words); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
	// What it fetches from the other server's address is known as its own, and another machine's isn't.
	if said, err := node.run("curl", "-sS", "-o", "/dev/null", serverBase+bootspec.RouteArtifacts+workerUKI); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	waitFor(t, func() bool { n := s.Nodes()[1]; return n.State == "kernel sent" && n.Address == "10.1.0.155" })
	report := `{"mac":"` + worker1 + `","boot":"b","event":"agent up","uptime":1}`
	for from, want := range map[*host]string{node: "204", other: "403"} {
		if got, err := from.run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-d", report, serverBase+bootspec.RouteReport); got != want || err != nil {
			t.Errorf("a report from %s: %s, %v", from.dir, got, err)
		}
	}
	stranger := plug(t, stranger)
	must(t, stranger.udhcpc("-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "0x5d:0007"))
	if got := stranger.told("bound", "serverid"); got != "serverid=10.1.0.2" {
		t.Errorf("a machine that isn't in the document was told %s", got)
	}
	if listed := s.Nodes(); len(listed) < 3 || listed[len(listed)-1].Last != "not in the cluster document" {
		t.Errorf("it is listed as %+v", listed[len(listed)-1])
	}
}

// ask sends a packet from port 68 and returns the options of this server's answer.
func (c *host) ask(to, packet string) (words string) {
	c.t.Helper()
	must(c.t, c.in(func() error {
		conn, err := listenUDP("eth0", netip.MustParseAddrPort("0.0.0.0:68"))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.WriteToUDPAddrPort(request(c.t, packet), netip.MustParseAddrPort(to)); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		buffer := make([]byte, 2000)
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return err
		}
		if from.String() != to {
			return fmt.Errorf("the answer is from %s", from)
		}
		codes, values, err := walk(buffer[:n])
		words = optionWords(codes, values)
		return err
	}))
	return words
}
