package netboot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
	"github.com/slipway-os/slipway/images/bootspec"
)

const strangerMAC = "02:00:00:00:00:07"

func hardwareOf(mac string) bootspec.Hardware {
	return bootspec.Hardware{
		Version: bootspec.HardwareVersion, MAC: mac, System: bootspec.System{Product: "Board", Serial: "SERIAL-OF-THE-MACHINE", UUID: cpUUID},
		CPU: bootspec.CPU{Model: "Processor", Sockets: 1, Cores: 2, Threads: 2, Flags: []string{}}, Memory: 4 << 30,
		Disks: []bootspec.HardwareDisk{{Name: "sda", Serial: "DISK-1", Size: 480e9}}, NICs: []bootspec.HardwareNIC{{Name: "eth0", MAC: mac}},
	}
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestHardwareIsTakenFromWhoHasTheLease: a machine tells of itself, from the address that it was given, and of nobody else; what it
// tells is bounded; a machine that has become a node is told so.
func TestHardwareIsTakenFromWhoHasTheLease(t *testing.T) {
	s := serveLoopback(t)
	tell := s.secureLoopbackAt(bootspec.RouteHardware)
	s.site.Discover = true
	s.site.Subnet = netip.MustParsePrefix("127.0.0.0/8")
	s.site.Pool = Pool{netip.MustParseAddr("127.0.0.99"), netip.MustParseAddr("127.0.0.110")}
	var err error
	s.handler.leases, err = openPools(nil, s.site, time.Now)
	must(t, err)
	store := &memory{}
	s.handler.machines, err = openMachines(store, time.Now, discard())
	must(t, err)
	asking := httptest.NewRequest("GET", bootspec.RouteSecure, nil)
	asking.RemoteAddr = strangerAddress + ":1024"
	if s.discovers(asking) {
		t.Error("a machine without a lease is discovered")
	}
	s.handler.leases.hold(strangerMAC, netip.MustParseAddr(strangerAddress), LeaseTime)
	s.states.seen(strangerMAC, strangerAddress, "")
	good := asJSON(t, hardwareOf(strangerMAC))
	for _, c := range []struct {
		what, from, body string
		status           int
		says             string
	}{
		{"no lease", "127.0.0.98", good, 403, "has given no machine that address"},
		{"a node's address", cpAddress, good, 403, "has given no machine that address"},
		{"another's MAC address", strangerAddress, asJSON(t, hardwareOf(cpMAC)), 403, "that of another machine"},
		{"no JSON", strangerAddress, "x", 400, "cannot read a machine's hardware"},
		{"words for a terminal", strangerAddress, strings.Replace(good, "DISK-1", `\u001b[2J`, 1), 400, "no printable text"},
		{"too much", strangerAddress, strings.Replace(good, "DISK-1", strings.Repeat("x", bootspec.MaxHardware), 1), 400, "cannot read"},
		{"the machine", strangerAddress, good, 200, `{"seconds":10}`},
		{"the machine again", strangerAddress, good, 200, `{"seconds":10}`},
	} {
		if status, text := tell(c.from, claimant(t), c.body); status != c.status || !strings.Contains(text, c.says) {
			t.Errorf("%s: %d %s", c.what, status, text)
		}
	}
	n := s.states.all()[2]
	if n.State != "discovered" || n.MAC != strangerMAC || !strings.Contains(n.Hardware, "Board, 1 x Processor (2 cores, 2 threads), 4.0 GiB, 1 disk (480.0 GB), 1 NIC") || len(n.Boot().Events) != 1 {
		t.Errorf("its state: %+v", n)
	}
	if !n.Stuck(time.Now().Add(100 * time.Hour)).IsZero() {
		t.Error("a machine that waits for its adoption is stuck")
	}
	_, _, nodes := s.ask(strangerAddress, "GET /v1/nodes")
	if all := nodes + s.log.String(); strings.Contains(all, "SERIAL-OF") || strings.Contains(strings.ToLower(all), cpUUID) {
		t.Errorf("what binds a claim can be had by anyone:\n%s", all)
	}
	if !s.discovers(asking) {
		t.Error("the machine isn't told that it is discovered")
	}
	if status, _, _ := s.ask(strangerAddress, "POST /v1/hardware\n"+good); status != 404 && status != 405 {
		t.Errorf("hardware is taken without TLS: %d", status)
	}
	again, err := openMachines(store, time.Now, discard())
	must(t, err)
	if d, ok := again.get(strangerMAC); !ok || d.Hardware.System.Serial != "SERIAL-OF-THE-MACHINE" {
		t.Errorf("after a restart: %+v", d)
	}
	s.site.Machines = append(s.site.Machines, Machine{Name: "worker-2", Role: "worker", MAC: mustMAC(t, strangerMAC), Address: netip.MustParseAddr("127.0.0.22")})
	if status, text := tell(strangerAddress, claimant(t), good); status != 200 || !strings.Contains(text, `"node":"worker-2"`) {
		t.Errorf("adopted: %d %s", status, text)
	}
}

// TestMachinesAreBounded: who floods the server with machines drives out others of his kind, not the nodes, and never gets more room.
func TestMachinesAreBounded(t *testing.T) {
	store := &memory{}
	now := someTime()
	m, err := openMachines(store, func() time.Time { now = now.Add(time.Second); return now }, discard())
	must(t, err)
	node := func(mac string) bool { return mac == cpMAC }
	take := func(mac string, size int) {
		t.Helper()
		h := hardwareOf(mac)
		for range size {
			h.Disks = append(h.Disks, bootspec.HardwareDisk{Serial: strings.Repeat("x", 128), Model: strings.Repeat("y", 128)})
		}
		_, err := m.take(h, node)
		must(t, err)
	}
	take(cpMAC, 1)
	for i := range maxHardware + 50 {
		take(fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255), 0)
	}
	if n := len(m.all()); n != maxHardware {
		t.Errorf("%d machines", n)
	}
	for i := range 400 {
		take(fmt.Sprintf("02:00:00:01:%02x:%02x", i>>8, i&255), 80)
	}
	entries, _ := store.List("")
	total := 0
	for _, e := range entries {
		total += len(e.Value)
	}
	if m.bytes > maxHardwareBytes || total > maxHardwareBytes+200*len(entries) || len(entries) != len(m.all()) {
		t.Errorf("%d bytes in memory, %d in %d entries of the store, %d machines", m.bytes, total, len(entries), len(m.all()))
	}
	if _, ok := m.get(cpMAC); !ok {
		t.Error("the node was driven out")
	}
	if _, ok := m.get("02:00:00:01:01:8f"); !ok {
		t.Error("the newest was driven out")
	}
	full, _ := openMachines(&brokenStore{}, time.Now, discard())
	if _, err := full.take(hardwareOf(strangerMAC), node); err == nil {
		t.Error("what couldn't be kept was taken")
	}
	must(t, kv.Commit(store, kv.Put(hardwareKey+"x", []byte("{"))))
	if m, err := openMachines(store, time.Now, discard()); err != nil || len(m.all()) != len(entries) {
		t.Errorf("an entry that can't be read: %v", err)
	}
}

// TestLeaseOfWhoWaits: a machine that waits keeps its address without asking for it.
func TestLeaseOfWhoWaits(t *testing.T) {
	now := someTime()
	l, err := openLeases(nil, lab(t), func() time.Time { return now })
	must(t, err)
	a := netip.MustParseAddr("10.1.0.100")
	l.hold(strangerMAC, a, LeaseTime)
	for range 20 {
		now = now.Add(LeaseTime / 3)
		if l.holder(a) != strangerMAC {
			t.Fatal("it has lost its address")
		}
		l.prolong(strangerMAC, a)
		l.prolong(cpMAC, a)
	}
	now = now.Add(2 * LeaseTime)
	if l.holder(a) != "" {
		t.Error("a lease that has ended has a holder")
	}
}

// TestDocumentChangesWhileItIsServed: nodes come and go, a pool shrinks, and what is wrong changes nothing.
func TestDocumentChangesWhileItIsServed(t *testing.T) {
	network(t)
	log := &journal{}
	config := configFor(t, log)
	config.Site.ServeUnknown = true
	var next *Site
	var wrong error
	config.Reload = func(ctx context.Context, s *Server) error {
		if wrong != nil {
			return wrong
		}
		return s.Change(ctx, Change{Site: next, NodeConfig: func(node string) ([]byte, error) { return []byte("new " + node), nil }})
	}
	s, _ := run(t, config)
	stranger := plug(t, strangerMAC)
	must(t, stranger.udhcpc())
	if got := stranger.told("bound", "ip", "hostname"); got != "ip=10.1.0.100" {
		t.Fatal(got)
	}

	next = lab(t)
	next.Machines[1].Name = "worker-7"
	next.Machines = append(next.Machines, Machine{Name: "worker-2", Role: "worker", MAC: mustMAC(t, strangerMAC), Address: netip.MustParseAddr("10.1.0.22")})
	next.Pool.First = netip.MustParseAddr("10.1.0.150")
	must(t, Reload(t.Context(), config.StateDir))
	must(t, stranger.udhcpc("-r", "10.1.0.100"))
	if got := stranger.told("bound", "ip", "hostname"); got != "ip=10.1.0.22 hostname=worker-2" {
		t.Error(got)
	}
	names := ""
	for _, n := range s.Nodes() {
		names += n.Name + "=" + n.Address + " "
	}
	if names != "cp-1=10.1.0.11 worker-2=10.1.0.22 worker-7=10.1.0.21 " {
		t.Errorf("nodes: %s", names)
	}

	before := s.live.Load()
	for want, spoil := range map[string]func(){
		"line 3 is wrong":                    func() { wrong = errors.New("line 3 is wrong\x1b[2J") },
		"restart of `slipway serve`":         func() { next.Server = netip.MustParseAddr("10.1.0.2") },
		"10.1.0.11 is also that of":          func() { next.Machines[1].Address = next.Machines[0].Address },
		"there is no image":                  func() { next.Machines[1].Role = "storage" },
		"cannot discover machines without p": func() { next.Discover, next.Pool = true, Pool{} },
	} {
		next, wrong = lab(t), nil
		spoil()
		if err := Reload(t.Context(), config.StateDir); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("got %v, want: %s", err, want)
		}
		if w := s.Warnings(); len(w) != 1 || !strings.Contains(w[0].Text, "the changed cluster document or identity is not served") || !strings.Contains(w[0].Text, want) || strings.Contains(w[0].Text, "\x1b") {
			t.Errorf("warnings: %+v", w)
		}
		if s.live.Load() != before || len(s.Nodes()) != 3 {
			t.Errorf("after %s something else is served", want)
		}
	}
	next, wrong = lab(t), nil
	must(t, Reload(t.Context(), config.StateDir))
	if w := s.Warnings(); len(w) != 0 || len(s.Nodes()) != 3 || s.Nodes()[2].Name != "" {
		t.Errorf("mended: %+v, %+v", w, s.Nodes())
	}
}

// TestReloadServesNewImages: and doesn't read again what it has compared.
func TestReloadServesNewImages(t *testing.T) {
	dir := t.TempDir()
	bake(t, dir, "worker", "0.1.0", "amd64")
	a, err := openArtifacts(t.Context(), dir, "", []string{"worker"}, nil)
	must(t, err)
	defer a.close()
	bake(t, dir, "worker", "0.2.0", "amd64")
	b, err := reopenArtifacts(t.Context(), dir, "", []string{"worker"}, nil, a)
	must(t, err)
	defer b.close()
	if got := b.uki[imageKey{"worker", "amd64"}]; got != "slipway-worker-0.2.0-amd64.efi" {
		t.Error(got)
	}
	c, err := reopenArtifacts(t.Context(), dir, "0.1.0", []string{"worker"}, nil, a)
	must(t, err)
	defer c.close()
	const root = "slipway-worker-0.1.0-amd64.root"
	if !c.files[root].compared(a) || c.files[root].compared(b) {
		t.Error("what is the same file isn't known to be it")
	}
	bake(t, dir, "worker", "0.1.0", "amd64")
	must(t, os.WriteFile(filepath.Join(dir, root), []byte("damaged"), 0o600))
	if _, err := reopenArtifacts(t.Context(), dir, "0.1.0", []string{"worker"}, nil, a); err == nil {
		t.Error("a damaged file is served")
	}
}

func TestReloadWithoutAServer(t *testing.T) {
	dir := t.TempDir()
	if err := Reload(t.Context(), dir); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
	store, err := openStore(dir)
	must(t, err)
	entries, err := store.entries()
	must(t, err)
	m, err := openMachines(entries, time.Now, slog.New(slog.DiscardHandler))
	must(t, err)
	_, err = m.take(hardwareOf(strangerMAC), func(string) bool { return false })
	must(t, err)
	must(t, entries.Close())
	store.close()
	list, err := Machines(t.Context(), dir)
	if err != nil || len(list) != 1 || list[0].Hardware.MAC != strangerMAC {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := Machines(t.Context(), filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "--state") {
		t.Error(err)
	}
}

func mustMAC(t testing.TB, text string) net.HardwareAddr {
	t.Helper()
	mac, err := net.ParseMAC(text)
	if err != nil {
		t.Fatal(err)
	}
	return mac
}
