package netboot

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/kv/etcdkv/etcdtest"
)

// TestKilledInEveryPhase: a boot goes on whatever phase its server is killed in, when that is started again.
func TestKilledInEveryPhase(t *testing.T) {
	network(t)
	bootThroughFaults(t, newFleet(t, 1, nil))
}

// TestTwoServers: two servers of one site give no address and no configuration twice, take each other for no rival, and a boot goes on
// with the one when the other is killed, whatever phase it is in.
func TestTwoServers(t *testing.T) {
	network(t)
	etcd := etcdtest.StartAt(t, "10.1.0.1")
	f := newFleet(t, 2, etcd)
	for _, s := range f.servers {
		someoneWaits(t, func() bool { return strings.Contains(s.said(), "another boot server shares the store") })
	}
	t.Run("the pool", func(t *testing.T) { poolOfTwo(t, f) })
	t.Run("one claim", func(t *testing.T) { oneClaim(t, f) })
	t.Run("a boot through faults", func(t *testing.T) { bootThroughFaults(t, f) })
	f.heal()
	t.Run("the store goes away", func(t *testing.T) { storeAway(t, f, etcd) })
	for _, s := range f.servers {
		s.quiet("ANOTHER DHCP SERVER", "ANOTHER BOOT SERVER", "WARNING: DATA RACE", "panic")
	}
}

const pxe = "-V PXEClient:Arch:00007:UNDI:003016 -x 0x5d:0007 -O bootfile -O tftp"

// bootThroughFaults boots a machine with programs anyone has, with a fault in each phase.
func bootThroughFaults(t *testing.T, f *fleet) {
	node := plug(t, worker1)

	// Offered: the server that has made the offer is gone before it is taken.
	node.has("10.1.0.200/24")
	offers := node.discover("DISCOVER from="+worker1+" broadcast 60=PXEClient:Arch:00007:UNDI:003016 93=0007", len(f.servers))
	if len(offers) != len(f.servers) {
		t.Errorf("offers: %v", offers)
	}
	for from, address := range offers {
		if address != "10.1.0.21" {
			t.Errorf("%s offers %s", from, address)
		}
	}
	f.fault()
	must(t, node.lease(strings.Fields(pxe)...))
	if got, want := node.told("bound", "ip", "serverid", "bootfile"), "ip=10.1.0.21 serverid="+f.now().config.Address+" bootfile="+workerUKI; got != want {
		t.Errorf("after a fault at the offer firmware was told %s, want %s", got, want)
	}

	// Loading by TFTP: firmware begins anew.
	node.firstBlock(f.now().config.Address, workerUKI)
	f.fault()
	kernel := filepath.Join(node.dir, "kernel")
	if said, err := node.run("atftp", "-g", "-r", workerUKI, "-l", kernel, "--option", "blksize 1428", f.now().config.Address); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	artifacts := f.now().config.Artifacts
	sameFile(t, kernel, filepath.Join(artifacts, workerUKI))

	// Agent up: what was acknowledged is known after the fault.
	must(t, node.lease("-V", "slipway-agent", "-O", "bootfile"))
	if got := node.told("bound", "ip"); got != "ip=10.1.0.21" {
		t.Errorf("the agent was told %s", got)
	}
	if got := f.report(node, worker1, "agent up", 1000); got != "204" {
		t.Errorf("report: %s", got)
	}
	f.fault()

	// Loading by HTTP: the rest comes from where it is had.
	image, path := filepath.Join(node.dir, "root"), "/artifacts/slipway-worker-0.1.0-amd64.root"
	if got := node.curl("-o", image, "-r", "0-9999", f.now().base()+path); got != "206" {
		t.Errorf("the first part: %s", got)
	}
	f.fault()
	if got := node.curl("-o", image, "-C", "-", f.now().base()+path); got != "206" {
		t.Errorf("the rest: %s", got)
	}
	sameFile(t, image, filepath.Join(artifacts, "slipway-worker-0.1.0-amd64.root"))

	// Claimed: the answer didn't arrive, and the same boot asks again; another machine gets nothing.
	own, thief := claimantFile(t), claimantFile(t)
	if got := f.claim(f.now(), node, worker1, own, "s"); got != secret+" of worker-1200" {
		t.Errorf("claim: %s", got)
	}
	f.fault()
	if got := f.claim(f.now(), node, worker1, thief, "another"); !strings.HasSuffix(got, "403") || strings.Contains(got, secret) {
		t.Errorf("another machine's claim after a fault: %s", got)
	}
	if got := f.claim(f.now(), node, worker1, own, "s"); got != secret+" of worker-1200" {
		t.Errorf("the same claim after a fault: %s", got)
	}

	// Reports to the end.
	for i, event := range []string{"network up", "units started", "ready"} {
		if got := f.report(node, worker1, event, 2000+i); got != "204" {
			t.Errorf("report of %s: %s", event, got)
		}
		f.fault()
	}
	waitFor(t, func() bool {
		for _, n := range f.nodes(node) {
			if n.Name == "worker-1" {
				return n.State == "ready"
			}
		}
		return false
	})
	for _, n := range f.nodes(node) {
		if n.Name != "worker-1" {
			continue
		}
		events := ""
		for _, e := range n.Boot().Events {
			events += string(e.Event) + ", "
		}
		if len(n.Boots) != 1 || events != "offer, kernel sent, agent up, config claimed, network up, units started, ready, " || n.Claim == nil || n.Claim.Refused != 1 {
			t.Errorf("%d boots, %+v, the newest: %s", len(n.Boots), n.Claim, events)
		}
	}
	poolThroughFaults(t, f)
}

// poolThroughFaults: an address of the pool stays its machine's, and is given to nobody else.
func poolThroughFaults(t *testing.T, f *fleet) {
	other := plug(t, stranger)
	must(t, other.lease())
	first := other.told("bound", "ip")
	f.fault()
	for i := range 3 {
		another := plug(t, fmt.Sprintf("52:54:00:00:02:%02x", i))
		must(t, another.lease("-r", strings.TrimPrefix(first, "ip=")))
		if got := another.told("bound", "ip"); got == first || !strings.HasPrefix(got, "ip=10.1.0.1") {
			t.Errorf("another machine gets %s, which is %s of the first", got, first)
		}
	}
	must(t, other.lease())
	if got := other.told("bound", "ip"); got != first {
		t.Errorf("after a fault it is at %s, before it was at %s", got, first)
	}
}

// poolOfTwo: machines that ask both servers at once each get an address of their own.
func poolOfTwo(t *testing.T, f *fleet) {
	const machines = 8
	var mu sync.Mutex
	had := map[string]string{}
	hosts := make([]*host, machines)
	for i := range hosts {
		hosts[i] = plug(t, fmt.Sprintf("52:54:00:00:03:%02x", i))
		hosts[i].hook()
	}
	var group sync.WaitGroup
	for i, h := range hosts {
		group.Go(func() {
			if err := h.lease(); err != nil {
				t.Error(err)
				return
			}
			ip := h.told("bound", "ip")
			mu.Lock()
			defer mu.Unlock()
			if other := had[ip]; other != "" {
				t.Errorf("%s was given to machines %s and %d", ip, other, i)
			}
			had[ip] = fmt.Sprint(i)
		})
	}
	group.Wait()
	// Both offer a machine the same address.
	asks := plug(t, "52:54:00:00:03:99")
	asks.has("10.1.0.201/24")
	offers := asks.discover("DISCOVER from=52:54:00:00:03:99 broadcast", 2)
	if len(offers) != 2 || offers["10.1.0.2"] != offers["10.1.0.3"] || had["ip="+offers["10.1.0.2"]] != "" {
		t.Errorf("offers: %v", offers)
	}
}

// oneClaim: of two machines that claim a node of both servers at the same time one gets it.
func oneClaim(t *testing.T, f *fleet) {
	node := plug(t, cpMAC)
	node.has("10.1.0.11/24")
	got := make([]string, 2)
	var group sync.WaitGroup
	for i, s := range f.servers {
		own := claimantFile(t)
		group.Go(func() { got[i] = f.claim(s, node, cpMAC, own, fmt.Sprint("machine ", i)) })
	}
	group.Wait()
	granted := 0
	for _, answer := range got {
		switch {
		case answer == secret+" of cp-1200":
			granted++
		case !strings.HasSuffix(answer, "403") || strings.Contains(answer, secret):
			t.Errorf("a claim: %s", answer)
		}
	}
	if granted != 1 {
		t.Errorf("%d claims were granted: %q", granted, got)
	}
}

// storeAway: without the store nodes get their addresses and what they boot, and nobody gets what could be given twice.
func storeAway(t *testing.T, f *fleet, etcd *etcdtest.Server) {
	node, late := plug(t, worker1), plug(t, "52:54:00:00:04:01")
	etcd.Kill()
	for _, s := range f.servers {
		someoneWaits(t, func() bool { return strings.Contains(s.said(), "THE STORE IS AWAY") })
	}
	must(t, node.lease(strings.Fields(pxe)...))
	if got := node.told("bound", "ip", "bootfile"); got != "ip=10.1.0.21 bootfile="+workerUKI {
		t.Errorf("firmware was told %s", got)
	}
	if err := late.udhcpc(); err == nil {
		t.Error("a machine outside the document got an address")
	}
	if got := f.claim(f.now(), node, worker1, claimantFile(t), "s"); !strings.HasSuffix(got, "500") || strings.Contains(got, secret) {
		t.Errorf("a claim: %s", got)
	}
	if got := f.report(node, worker1, "agent up", 1); !strings.HasSuffix(got, "503") {
		t.Errorf("a report: %s", got)
	}
	if got := node.curl(f.now().base() + "/v1/warnings"); !strings.Contains(got, "the store that boot servers share is away") {
		t.Errorf("warnings: %s", got)
	}
	etcd.Run()
	for _, s := range f.servers {
		someoneWaits(t, func() bool { return strings.Contains(s.said(), "the store is back") })
	}
	someoneWaits(t, func() bool { return strings.Contains(f.now().said(), "node states are kept on disk again") })
	if got := f.report(node, worker1, "agent up", 1); got != "204" {
		t.Errorf("a report: %s", got)
	}
	must(t, late.lease())
	if got := f.claim(f.now(), node, worker1, claimantFile(t), "s"); got != secret+" of worker-1200" {
		t.Errorf("a claim: %s", got)
	}
}

// discover sends a DISCOVER from a machine that has an address, and returns what each server offers.
func (c *host) discover(words string, servers int) map[string]string {
	c.t.Helper()
	out := map[string]string{}
	must(c.t, c.in(func() error {
		conn, err := listenUDP("eth0", netip.AddrPortFrom(netip.IPv4Unspecified(), 68))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.WriteToUDP(request(c.t, words), &net.UDPAddr{IP: net.IPv4bcast, Port: portDHCP}); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		buffer := make([]byte, 2000)
		for len(out) < servers {
			n, from, err := conn.ReadFromUDP(buffer)
			if err != nil {
				return fmt.Errorf("%d of %d offers came: %w", len(out), servers, err)
			}
			if n > 20 {
				out[from.IP.String()] = net.IP(buffer[16:20]).String()
			}
		}
		return nil
	}))
	return out
}

// firstBlock asks a server for a file by TFTP and takes its first block.
func (c *host) firstBlock(server, name string) {
	c.t.Helper()
	must(c.t, c.in(func() error {
		conn, err := net.ListenUDP("udp4", nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		ask := append(binary.BigEndian.AppendUint16(nil, 1), name+"\x00octet\x00"...)
		if _, err := conn.WriteToUDP(ask, &net.UDPAddr{IP: net.ParseIP(server), Port: portTFTP}); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		buffer := make([]byte, 600)
		n, _, err := conn.ReadFromUDP(buffer)
		if err == nil && (n < 4 || binary.BigEndian.Uint16(buffer) != 3) {
			err = fmt.Errorf("no data: % x", buffer[:n])
		}
		return err
	}))
}
