package netboot

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
)

// TestLeases: who gets which address of the pool, step by step. The pool has two addresses.
func TestLeases(t *testing.T) {
	site, clock := lab(t), &clock{someTime()}
	site.Pool.Last = netip.MustParseAddr("10.1.0.101")
	store := newEntries(t, newStore(t, t.TempDir()))
	l, err := openLeases(store, site, clock.now)
	if err != nil {
		t.Fatal(err)
	}
	const a, b, c, none = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c", ""
	expect := func(why, mac, wish, want string) {
		t.Helper()
		wished, _ := netip.ParseAddr(wish)
		wanted, _ := netip.ParseAddr(want)
		if got := l.propose(mac, wished); got != wanted {
			t.Errorf("%s: got %s, want %s", why, got, wanted)
		}
	}
	hold := func(mac, address string, how time.Duration) {
		t.Helper()
		must(t, settle(l.hold(mac, netip.MustParseAddr(address), how)))
	}
	expect("the first free one", a, none, "10.1.0.100")
	expect("its wish", a, "10.1.0.101", "10.1.0.101")
	expect("a wish for a node's address", a, "10.1.0.11", "10.1.0.100")
	hold(a, "10.1.0.100", offerTime)
	expect("one is offered to another", b, "10.1.0.100", "10.1.0.101")
	hold(b, "10.1.0.101", LeaseTime)
	expect("all are taken", c, none, none)
	expect("one's own", b, none, "10.1.0.101")
	clock.at = clock.at.Add(2 * offerTime)
	expect("an offer that wasn't taken up", c, none, "10.1.0.100")
	hold(c, "10.1.0.100", LeaseTime)
	expect("lost to another", a, none, none)

	l, err = openLeases(store, site, clock.now)
	if err != nil {
		t.Fatal(err)
	}
	expect("all are taken after a restart too", a, none, none)
	must(t, settle(l.decline(b, netip.MustParseAddr("10.1.0.100"))))
	expect("only who holds it may decline", a, none, none)
	must(t, settle(l.decline(c, netip.MustParseAddr("10.1.0.100"))))
	expect("a declined one is in quarantine", c, none, none)
	must(t, settle(l.release(a, netip.MustParseAddr("10.1.0.101"))))
	expect("only who holds it may release", a, none, none)
	must(t, settle(l.release(b, netip.MustParseAddr("10.1.0.101"))))
	expect("a released one", a, none, "10.1.0.101")
	hold(a, "10.1.0.101", LeaseTime)
	hold(a, "10.1.0.101", offerTime)
	clock.at = clock.at.Add(quarantine + time.Minute)
	expect("quarantine ends", b, none, "10.1.0.100")
	expect("an offer doesn't shorten a lease", b, "10.1.0.101", "10.1.0.100")

	site.Machines[0].Address = netip.MustParseAddr("10.1.0.101")
	if l, err = openLeases(store, site, clock.now); err != nil {
		t.Fatal(err)
	}
	expect("the document gave its address to a node", a, none, "10.1.0.100")
}

// TestReservedAddresses: a pool over the whole subnet never gives the server's, the gateway's, a name server's, a node's,
// the network's or the broadcast address.
func TestReservedAddresses(t *testing.T) {
	site := lab(t)
	site.Subnet = netip.MustParsePrefix("10.1.0.0/28")
	site.Pool = Pool{netip.MustParseAddr("10.1.0.0"), netip.MustParseAddr("10.1.0.15")}
	site.Gateway, site.DNS = netip.MustParseAddr("10.1.0.2"), []netip.Addr{netip.MustParseAddr("10.1.0.3")}
	l, err := openLeases(nil, site, someTime)
	if err != nil {
		t.Fatal(err)
	}
	var given []string
	for i := range 20 {
		mac := string(rune('a' + i))
		if address := l.propose(mac, netip.Addr{}); address.IsValid() {
			given = append(given, strings.TrimPrefix(address.String(), "10.1.0."))
			must(t, settle(l.hold(mac, address, LeaseTime)))
		}
	}
	if got := strings.Join(given, " "); got != "4 5 6 7 8 9 10 12 13 14" {
		t.Errorf("given were %s", got)
	}
}

// TestLeaseOnFullDisk: an address that can't be kept isn't acknowledged; offers go on.
func TestLeaseOnFullDisk(t *testing.T) {
	store := smallDisk(t)
	entries := newEntries(t, store)
	l, err := openLeases(entries, lab(t), someTime)
	must(t, err)
	fill(t, store)
	address := netip.MustParseAddr("10.1.0.100")
	must(t, settle(l.hold("02:00:00:00:00:0a", address, offerTime)))
	failed := error(nil)
	for i := 0; failed == nil && i < 1000; i++ { // the file has some room of its own
		failed = settle(l.hold(fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255), netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), LeaseTime))
	}
	if failed == nil || !strings.Contains(failed.Error(), entriesFile+": ") || !strings.Contains(failed.Error(), "no space left") {
		t.Errorf("got %v", failed)
	}
}

// TestLeasesOfEarlierVersions: the leases of the file that earlier versions wrote are kept, and the file goes.
func TestLeasesOfEarlierVersions(t *testing.T) {
	store := newStore(t, t.TempDir())
	const theirs = `[{"mac":"02:00:00:00:00:0a","address":"10.1.0.107","until":"2026-02-03T05:00:00Z"},{"mac":"","address":"10.1.0.108","until":"2026-02-03T05:00:00Z"},{}]`
	must(t, store.create(leasesFile, []byte(theirs)))
	entries := newEntries(t, store)
	clock := &clock{time.Date(2026, 2, 3, 4, 30, 0, 0, time.UTC)}
	for range 2 {
		l, err := openLeases(entries, lab(t), clock.now)
		must(t, err)
		wish := netip.MustParseAddr("10.1.0.108")
		if a, b := l.propose("02:00:00:00:00:0a", wish), l.propose("02:00:00:00:00:0b", wish); a.String() != "10.1.0.107" || b.String() != "10.1.0.100" {
			t.Errorf("the old machine gets %s, a new one that wishes for a declined address %s", a, b)
		}
	}
	if _, err := store.root.Stat(leasesFile); err == nil {
		t.Error("the old file is still there")
	}
	must(t, store.create(leasesFile, []byte("[{")))
	if err := store.takeOver(entries); err == nil || !strings.Contains(err.Error(), "leases.json") || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("a damaged file: %v", err)
	}
}

// TestLeasesWithAnotherClock: a clock that was set while the server was off makes no lease endless; one that is set while it
// runs is not what leases are measured by.
func TestLeasesWithAnotherClock(t *testing.T) {
	store := newEntries(t, newStore(t, t.TempDir()))
	clock := &clock{someTime()}
	l, err := openLeases(store, lab(t), clock.now)
	must(t, err)
	must(t, settle(l.hold("02:00:00:00:00:0a", netip.MustParseAddr("10.1.0.100"), LeaseTime)))
	clock.at = clock.at.AddDate(-10, 0, 0)
	l, err = openLeases(store, lab(t), clock.now)
	must(t, err)
	if a := l.propose("02:00:00:00:00:0b", netip.Addr{}); a.String() != "10.1.0.101" {
		t.Errorf("the clock was set back ten years: another machine gets %s", a)
	}
	clock.at = clock.at.Add(LeaseTime + time.Second)
	if a := l.propose("02:00:00:00:00:0b", netip.Addr{}); a.String() != "10.1.0.100" {
		t.Errorf("and the lease lasts longer than it was given for: %s", a)
	}
}

// newEntries are the entries of a state folder.
func newEntries(t testing.TB, s *store) kv.Store {
	t.Helper()
	entries, err := s.entries()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { entries.Close() })
	return entries
}

// settle waits until a change of the leases is on disk.
func settle(saved <-chan error) error {
	if saved == nil {
		return nil
	}
	return <-saved
}

// BenchmarkPropose is a new machine's search for an address in a pool that is almost full, and its lease in memory.
func BenchmarkPropose(b *testing.B) {
	site := lab(b)
	site.Subnet = netip.MustParsePrefix("10.0.0.0/14")
	site.Pool = Pool{netip.MustParseAddr("10.1.0.100"), netip.MustParseAddr("10.1.255.255")}
	l, err := openLeases(nil, site, time.Now)
	if err != nil {
		b.Fatal(err)
	}
	i := 0
	lease := func() {
		mac := fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", i>>24&255, i>>16&255, i>>8&255, i&255)
		i++
		a := l.propose(mac, netip.Addr{})
		if !a.IsValid() {
			for mac, held := range l.byMAC {
				l.release(mac, held)
				a = held
				break
			}
		}
		l.hold(mac, a, LeaseTime)
	}
	for range 60_000 {
		lease()
	}
	for b.Loop() {
		lease()
	}
}
