package netboot

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestLeases: who gets which address of the pool, step by step. The pool has two addresses.
func TestLeases(t *testing.T) {
	site, clock := lab(t), &clock{someTime()}
	site.Pool.Last = netip.MustParseAddr("10.1.0.101")
	store := newStore(t, t.TempDir())
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
		if err := l.hold(mac, netip.MustParseAddr(address), how); err != nil {
			t.Fatal(err)
		}
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
	if err := l.decline(b, netip.MustParseAddr("10.1.0.100")); err != nil {
		t.Fatal(err)
	}
	expect("only who holds it may decline", a, none, none)
	if err := l.decline(c, netip.MustParseAddr("10.1.0.100")); err != nil {
		t.Fatal(err)
	}
	expect("a declined one is in quarantine", c, none, none)
	if err := l.release(a, netip.MustParseAddr("10.1.0.101")); err != nil {
		t.Fatal(err)
	}
	expect("only who holds it may release", a, none, none)
	if err := l.release(b, netip.MustParseAddr("10.1.0.101")); err != nil {
		t.Fatal(err)
	}
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
			if err := l.hold(mac, address, LeaseTime); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := strings.Join(given, " "); got != "4 5 6 7 8 9 10 12 13 14" {
		t.Errorf("given were %s", got)
	}
}

// TestLeaseOnFullDisk: an address that can't be kept isn't acknowledged; offers go on.
func TestLeaseOnFullDisk(t *testing.T) {
	store := smallDisk(t)
	l, err := openLeases(store, lab(t), someTime)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, store)
	address := netip.MustParseAddr("10.1.0.100")
	if err := l.hold("02:00:00:00:00:0a", address, offerTime); err != nil {
		t.Error(err)
	}
	if err := l.hold("02:00:00:00:00:0a", address, LeaseTime); err == nil || !strings.Contains(err.Error(), "leases.json: ") || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("got %v", err)
	}
}
