package netboot

import (
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestAddressInUse: before an address of the pool is offered its user is asked for. One that is in use goes to nobody else, also
// after a restart; a machine that has its lease already gets it without being asked about.
func TestAddressInUse(t *testing.T) {
	network(t)
	log := &journal{}
	config := configFor(t, log)
	config.Site.ServeUnknown = true
	squatter := plug(t, "52:54:00:00:00:77")
	if said, err := squatter.run("ip", "address", "add", "10.1.0.100/24", "dev", "eth0"); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	s, stop := run(t, config)
	client := plug(t, stranger)
	must(t, client.udhcpc())
	if got := client.told("bound", "ip"); got != "ip=10.1.0.101" {
		t.Errorf("it was told %s", got)
	}
	if !strings.Contains(log.String(), "an address of the pool is in use") || !strings.Contains(log.String(), "mac=52:54:00:00:00:77") {
		t.Errorf("nobody is told:\n%s", log)
	}
	stop()
	s, _ = run(t, config)
	if !s.leases.holds(stranger, netip.MustParseAddr("10.1.0.101")) || !s.leases.holds("52:54:00:00:00:77", netip.MustParseAddr("10.1.0.100")) {
		t.Error("it is not remembered who has what")
	}
	must(t, squatter.udhcpc("-C"))
	if got := squatter.told("bound", "ip"); got != "ip=10.1.0.100" {
		t.Errorf("the one that uses the address was told %s", got)
	}
}

// TestDecline: a client that finds its address in use says so, and the log does.
func TestDecline(t *testing.T) {
	network(t)
	log := &journal{}
	config := configFor(t, log)
	run(t, config)
	squatter, client := plug(t, "52:54:00:00:00:77"), plug(t, worker1)
	if said, err := squatter.run("ip", "address", "add", "10.1.0.21/24", "dev", "eth0"); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	client.start("udhcpc", "-i", "eth0", "-f", "-a", "-s", client.hook())
	waitFor(t, func() bool {
		return strings.Contains(log.String(), "something else uses a node's address") && strings.Contains(log.String(), "client declines 10.1.0.21")
	})
}

// TestDhcpcd: it gets a lease, asks for options with an address of its own (INFORM), and gives its lease back.
func TestDhcpcd(t *testing.T) {
	if _, err := exec.LookPath("dhcpcd"); err != nil {
		t.Skip("dhcpcd is not installed (make deps)")
	}
	network(t)
	log := &journal{}
	config := configFor(t, log)
	config.Site.ServeUnknown = true
	s, _ := run(t, config)
	client := plug(t, stranger)
	hook := client.hook()
	dhcpcd := func(words ...string) (stop func()) {
		return client.start(append([]string{"unshare", "--mount", "sh", "-c", // its files lie in fixed places
			`mount -t tmpfs none /run && mount -t tmpfs none /var/lib && mkdir -p /var/lib/dhcpcd && exec dhcpcd "$@"`, "dhcpcd"}, words...)...)
	}
	stop := dhcpcd("-4", "-A", "-B", "--nodelay", "-f", "/dev/null", "-c", hook, "-e", "RESULT="+client.dir, "eth0")
	if got := client.told("BOUND", "new_ip_address", "new_dhcp_server_identifier", "new_dhcp_lease_time"); got !=
		"new_ip_address=10.1.0.100 new_dhcp_server_identifier=10.1.0.1 new_dhcp_lease_time=3600" {
		t.Errorf("it was told %s", got)
	}
	stop()
	stop = dhcpcd("-4", "-A", "-B", "--nodelay", "-f", "/dev/null", "-c", hook, "-e", "RESULT="+client.dir, "--inform=10.1.0.100/24", "eth0")
	waitFor(t, func() bool {
		past := s.past.explain(stranger)
		last := past[len(past)-1]
		return strings.HasPrefix(last.Asked, "INFORM") && strings.HasPrefix(last.Answer, "ACK to 10.1.0.100:68, ciaddr 10.1.0.100,")
	})
	stop()
}

// TestProbesAhead: the first of a burst waits, the others find their addresses asked about already; what answers is told.
func TestProbesAhead(t *testing.T) {
	site, clock := lab(t), &clock{someTime()}
	site.ServeUnknown = true
	l, err := openPools(nil, site, clock.now)
	must(t, err)
	asked, taken := map[netip.Addr]int{}, ""
	p := &prober{
		now: clock.now, log: slog.New(slog.DiscardHandler), next: l.candidates, taken: func(a netip.Addr, mac string) { taken = a.String() + " " + mac },
		arp: func(a netip.Addr) error { asked[a]++; return nil }, after: func(time.Duration, func()) {},
	}
	a := netip.MustParseAddr
	discover := func(address, mac string) wanted { return wanted{address: a(address), mac: mac, direct: true} }
	ran := 0
	then := func() { ran++ }
	if !p.park(discover("10.1.0.100", "m"), then) || len(asked) != 1+probeFewest+probeStep {
		t.Errorf("%d addresses are asked about", len(asked))
	}
	if w := discover("10.1.0.100", "m"); !p.park(wanted{w.address, w.mac, true, true, false}, then) || asked[a("10.1.0.100")] != 1 {
		t.Error("a client that asks again meanwhile is answered, or asked about again")
	}
	p.answered(a("10.1.0.101"), "52:54:00:00:00:77")
	if taken != "10.1.0.101 52:54:00:00:00:77" || ran != 0 {
		t.Errorf("taken: %q, %d ran", taken, ran)
	}
	all := l.candidates(a("10.1.0.100"), netip.Addr{}, 1000, func(netip.Addr) bool { return false })
	p.silent(all)
	if ran != 1 {
		t.Errorf("%d ran", ran)
	}
	for _, address := range all[1:4] {
		if waits := p.park(wanted{address: address, mac: "n", direct: true}, then); waits != (address == a("10.1.0.101")) {
			t.Errorf("%s waits: %v", address, waits)
		}
	}
	p.answered(a("10.1.0.198"), "52:54:00:00:00:78") // nobody has asked about it
	if strings.Contains(taken, "198") {
		t.Error("somebody was believed who wasn't asked")
	}
	p.park(discover("10.1.0.199", "52:54:00:00:00:79"), then)
	if p.answered(a("10.1.0.199"), "52:54:00:00:00:79"); strings.Contains(taken, "199") || ran != 2 {
		t.Errorf("a client's own answer counts against it: %s, %d ran", taken, ran)
	}
	clock.at = clock.at.Add(2 * probeLasts)
	if !p.park(discover("10.1.0.104", "n"), then) {
		t.Error("what was asked about long ago is offered at once")
	}
	if p.park(wanted{address: a("10.3.0.102"), mac: "n"}, then) {
		t.Error("without a way to ask, it waits")
	}
	p.stop()
	p.silent(all)
	if ran != 2 {
		t.Error("something ran after the end")
	}
}

// TestProbesInABurst: of clients that come faster than addresses can be asked about a few wait for their offer, and the others for their
// acknowledgement; once it is seen how many come, nobody waits. Nobody is acknowledged an address whose question is open.
func TestProbesInABurst(t *testing.T) {
	site, clock := lab(t), &clock{someTime()}
	site.ServeUnknown = true
	site.Pool = Pool{netip.MustParseAddr("10.1.0.100"), netip.MustParseAddr("10.1.63.254")}
	site.Subnet = netip.MustParsePrefix("10.1.0.0/16")
	l, err := openPools(nil, site, clock.now)
	must(t, err)
	type timer struct {
		at time.Time
		do func()
	}
	var timers []timer
	most := 0
	p := &prober{
		now: clock.now, log: slog.New(slog.DiscardHandler), taken: func(netip.Addr, string) { t.Error("taken") }, next: l.candidates,
		after: func(d time.Duration, do func()) { timers = append(timers, timer{clock.at.Add(d), do}) },
	}
	p.arp = func(a netip.Addr) error {
		if p.pending[a] != nil {
			t.Errorf("%s is asked about twice", a)
		}
		most = max(most, len(p.asked)+p.idle)
		return nil
	}
	const rate, seconds = 2000, 5
	offers, acks, late, answered := 0, 0, 0, 0
	for i := range rate * seconds {
		clock.at = clock.at.Add(time.Second / rate)
		for len(timers) > 0 && !timers[0].at.After(clock.at) {
			timers[0].do()
			timers = timers[1:]
		}
		mac := net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)}.String()
		w := wanted{address: l.propose(site.Subnet, mac, netip.Addr{}), mac: mac, direct: true}
		waits := p.park(w, func() { answered++ })
		l.hold(mac, w.address, offerTime)
		if waits {
			offers++
		} else {
			isOpen := p.pending[w.address] != nil
			if isOpen {
				acks++
			}
			w.has, w.ack = true, true
			if p.park(w, func() { answered++ }) != isOpen {
				t.Fatalf("%s is acknowledged although its question is open, or waits although it isn't", w.address)
			}
		}
		if i > rate && (p.waiting > 0 || offers+acks > answered) {
			late++
		}
	}
	if offers == 0 || offers > 4*probeWaiting || acks == 0 || acks > rate || late > 0 {
		t.Errorf("%d clients waited for an offer, %d for an acknowledgement; %d times somebody waited after the first second", offers, acks, late)
	}
	if answered != offers+acks {
		t.Errorf("%d of them have their answer", answered)
	}
	if most > 2*rate {
		t.Errorf("%d addresses are asked about ahead", most)
	}
}

// TestLowestFreed: what is asked about ahead are the addresses that are given out next, also where they were given before.
func TestLowestFreed(t *testing.T) {
	var f freed
	for i := range 200 {
		f.add(netip.AddrFrom4([4]byte{10, 1, 0, byte(i * 77)}))
	}
	want := slices.SortedFunc(slices.Values(f.heap), netip.Addr.Compare)
	if got := slices.Collect(f.ascending); !slices.Equal(got, want) {
		t.Errorf("the order is %v", got)
	}
	for range f.ascending {
		break
	}
}
