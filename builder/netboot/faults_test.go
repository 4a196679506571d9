package netboot

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
)

// load is a relay at 10.1.0.2 that asks for many machines.
type load struct {
	t    testing.TB
	conn *net.UDPConn
}

func newLoad(t testing.TB) *load {
	t.Helper()
	relay := plug(t, "52:54:00:00:00:02")
	if said, err := relay.run("ip", "address", "add", "10.1.0.2/24", "dev", "eth0"); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	l := &load{t: t}
	must(t, relay.in(func() (err error) {
		l.conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 1, 0, 2), Port: portDHCP})
		return err
	}))
	t.Cleanup(func() { l.conn.Close() })
	return l
}

var loadServer = netip.MustParseAddrPort("10.1.0.1:67")

func (l *load) send(packet []byte) {
	l.t.Helper()
	if _, err := l.conn.WriteToUDPAddrPort(packet, loadServer); err != nil {
		l.t.Fatal(err)
	}
}

// answer is the next one to a machine: message type and address. It is 0 when none comes in time.
func (l *load) answer(mac string, patience time.Duration) (kind byte, address netip.Addr) {
	l.t.Helper()
	must(l.t, l.conn.SetReadDeadline(time.Now().Add(patience)))
	buffer := make([]byte, 1500)
	for {
		n, err := l.conn.Read(buffer)
		if err != nil {
			return 0, netip.Addr{}
		}
		if n > 242 && net.HardwareAddr(buffer[28:34]).String() == mac {
			return buffer[242], netip.AddrFrom4([4]byte(buffer[16:20]))
		}
	}
}

// lease is a whole exchange, tried again until it succeeds or ctx ends; ok: it was acknowledged.
func (l *load) lease(ctx context.Context, mac string) (address netip.Addr, ok bool) {
	l.t.Helper()
	for ctx.Err() == nil {
		l.send(request(l.t, "DISCOVER from="+mac+" giaddr=10.1.0.2"))
		kind, offered := l.answer(mac, time.Second)
		if kind != 2 {
			continue
		}
		l.send(request(l.t, fmt.Sprintf("REQUEST from=%s giaddr=10.1.0.2 54=10.1.0.1 50=%s", mac, offered)))
		if kind, address := l.answer(mac, time.Second); kind == 5 {
			return address, true
		}
	}
	return netip.Addr{}, false
}

func macOf(i int) string { return fmt.Sprintf("02:00:00:00:%02x:%02x", i/256, i%256) }

// TestNeverAcked: machines that ask and take nothing use the pool up for a minute and no longer; nodes don't notice.
func TestNeverAcked(t *testing.T) {
	network(t)
	config := configFor(t, &journal{})
	config.Site.ServeUnknown = true
	config.Site.Pool.Last = netip.MustParseAddr("10.1.0.109")
	var mu sync.Mutex
	at := time.Now()
	config.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return at }
	s, _ := run(t, config)
	l := newLoad(t)
	for i := range 300 {
		l.send(request(t, "DISCOVER from="+macOf(i)+" giaddr=10.1.0.2"))
	}
	free := func() int {
		return len(s.leases.candidates(netip.MustParseAddr("10.1.0.100"), netip.Addr{}, 100, func(netip.Addr) bool { return false }))
	}
	waitFor(t, func() bool { return free() == 0 })
	must(t, plug(t, worker1).udhcpc())
	l.send(request(t, "DISCOVER from="+stranger+" giaddr=10.1.0.2"))
	if kind, _ := l.answer(stranger, 500*time.Millisecond); kind != 0 {
		t.Errorf("the pool is used up, and a machine is answered %d", kind)
	}
	mu.Lock()
	at = at.Add(2 * offerTime)
	mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if a, ok := l.lease(ctx, stranger); !ok || !config.Site.Pool.Contains(a) {
		t.Errorf("later a machine gets %s", a)
	}
}

// TestMalformedPackets: what is cut, bent or full of noise, into the real socket; afterwards the server answers as before.
func TestMalformedPackets(t *testing.T) {
	network(t)
	config := configFor(t, &journal{})
	config.Site.ServeUnknown = true
	_, stop := run(t, config)
	l := newLoad(t)
	text, err := os.ReadFile("testdata/decide.txt")
	must(t, err)
	sent := 0
	send := func(packet []byte) { l.send(packet); sent++ }
	for line := range strings.Lines(string(text)) {
		words, found := strings.CutPrefix(line, "> ")
		if !found {
			continue
		}
		whole := request(t, words)
		for _, cut := range []int{0, 1, 235, 239, 240, 241, len(whole) / 2, len(whole) - 1} {
			send(whole[:min(cut, len(whole))])
		}
		for i := 236; i < len(whole); i += 3 {
			bent := append([]byte(nil), whole...)
			bent[i] ^= 0xff
			send(bent)
		}
		send(append(whole[:len(whole)-1:len(whole)-1], make([]byte, maxDHCP)...)) // longer than is read
	}
	corpus, err := filepath.Glob("testdata/fuzz/FuzzDecide/*")
	must(t, err)
	for _, file := range corpus {
		text, err := os.ReadFile(file)
		must(t, err)
		send(text)
	}
	node := plug(t, worker1)
	waitFor(t, func() bool { return node.udhcpc() == nil }) // behind all of them
	stop()
	t.Logf("%d packets", sent)
}

// TestLeasesOnAFullDisk: no lease is promised that can't be kept; nodes don't need one; it goes on when there is room again.
func TestLeasesOnAFullDisk(t *testing.T) {
	network(t)
	small := smallDisk(t)
	log := &journal{}
	config := configFor(t, log)
	config.Site.ServeUnknown = true
	s, stop := run(t, config)
	defer stop()
	must(t, s.entries.Close())
	entries := newEntries(t, small)
	free := fill(t, small)
	for _, l := range s.leases {
		l.mu.Lock()
		l.store = entries
		l.mu.Unlock()
	}
	l := newLoad(t)
	refused := func() bool { return strings.Contains(log.String(), "cannot keep a lease, so none is given") }
	for i := 0; i < 1000 && kv.Commit(entries, kv.Put(fmt.Sprintf("ballast/%d", i), make([]byte, 256))) == nil; i++ {
	} // the file has some room of its own
	for i, ok := 0, true; ok; i++ { // and what it has may do for some leases more
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		if _, ok = l.lease(ctx, macOf(i)); i > 80 || !ok && !refused() {
			t.Fatalf("the disk is full, and leases go on or nobody says why they don't:\n%s", log)
		}
		cancel()
	}
	must(t, plug(t, worker1).udhcpc())
	free()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, ok := l.lease(ctx, stranger); !ok {
		t.Error("there is room again, and no lease is given")
	}
}

// TestTruncatedLeases: a store that was cut is said at the start and keeps the server from starting; without it the machines keep
// the addresses that they have.
func TestTruncatedLeases(t *testing.T) {
	network(t)
	config := configFor(t, &journal{})
	config.Site.ServeUnknown = true
	_, stop := run(t, config)
	l := newLoad(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, ok := l.lease(ctx, macOf(1))
	second, ok2 := l.lease(ctx, macOf(2))
	if !ok || !ok2 {
		t.Fatal("no leases")
	}
	stop()
	file := filepath.Join(config.StateDir, entriesFile)
	whole, err := os.ReadFile(file)
	must(t, err)
	for _, size := range []int{0, 1000, 4096, len(whole) / 2, len(whole) - 1} {
		must(t, os.WriteFile(file, whole[:size], 0o600))
		s, err := New(config)
		if err == nil { // bbolt's file may have room at its end that says nothing
			s.Close()
			if size < len(whole)/2 {
				t.Errorf("cut to %d of %d bytes: it starts", size, len(whole))
			}
			continue
		}
		if !strings.Contains(err.Error(), entriesFile) || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("cut to %d bytes: %v", size, err)
		}
	}
	must(t, os.Remove(file))
	run(t, config)
	l.send(request(t, fmt.Sprintf("REQUEST from=%s giaddr=10.1.0.2 50=%s", macOf(2), second))) // as after its own restart
	if kind, address := l.answer(macOf(2), 20*time.Second); kind != 5 || address != second {
		t.Errorf("the second machine asks for %s and is answered %d, %s", second, kind, address)
	}
}

// serveFor marks the process that TestKilled kills: it serves with its state in this folder.
const serveFor = "SLIPWAY_TEST_SERVE"

// TestKilled: the server is killed at any moment, between a lease and its acknowledgement too; no address that was acknowledged to
// a machine is ever given to another.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(serveFor); dir != "" {
		config := configFor(t, &journal{})
		config.Site.ServeUnknown, config.StateDir = true, dir
		s, err := New(config)
		must(t, err)
		must(t, s.Run(t.Context()))
		return
	}
	network(t)
	l := newLoad(t)
	dir := filepath.Join(t.TempDir(), "state")
	owner, machine := map[netip.Addr]string{}, 0
	for round := range 4 {
		server := exec.Command("/proc/self/exe", "-test.run", "^TestKilled$", "-test.timeout", "120s")
		server.Env = append(os.Environ(), serveFor+"="+dir)
		must(t, server.Start())
		for kill := 5 + 3*round; kill > 0; kill-- { // leases until it is killed
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			mac := macOf(machine)
			machine++
			address, ok := l.lease(ctx, mac)
			cancel()
			if !ok {
				t.Fatalf("round %d: no lease", round)
			}
			if other, given := owner[address]; given {
				t.Errorf("%s was acknowledged to %s and now to %s", address, other, mac)
			}
			owner[address] = mac
		}
		// One more is on its way when it dies.
		mac := macOf(machine)
		machine++
		l.send(request(t, "DISCOVER from="+mac+" giaddr=10.1.0.2"))
		if kind, offered := l.answer(mac, 5*time.Second); kind == 2 {
			l.send(request(t, fmt.Sprintf("REQUEST from=%s giaddr=10.1.0.2 54=10.1.0.1 50=%s", mac, offered)))
			time.Sleep(time.Duration(round) * 500 * time.Microsecond)
		}
		must(t, server.Process.Kill())
		_ = server.Wait()
		if kind, address := l.answer(mac, 50*time.Millisecond); kind == 5 {
			owner[address] = mac
		}
	}
}
