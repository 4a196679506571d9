package netboot

import (
	"log/slog"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
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
		arp: func(a netip.Addr) error { asked[a]++; return nil },
	}
	a := netip.MustParseAddr
	ran := 0
	then := func() { ran++ }
	if !p.park(a("10.1.0.100"), "m", true, false, then) || len(asked) != probeFewest {
		t.Errorf("%d addresses are asked about", len(asked))
	}
	if !p.park(a("10.1.0.100"), "m", true, true, then) || asked[a("10.1.0.100")] != 1 {
		t.Error("a client that asks again meanwhile is answered, or asked about again")
	}
	p.answered(a("10.1.0.101"), "52:54:00:00:00:77")
	if taken != "10.1.0.101 52:54:00:00:00:77" || ran != 0 {
		t.Errorf("taken: %q, %d ran", taken, ran)
	}
	all := l.candidates(a("10.1.0.100"), 1000)
	p.silent(all)
	if ran != 1 {
		t.Errorf("%d ran", ran)
	}
	for _, address := range all[1:4] {
		if waits := p.park(address, "n", true, false, then); waits != (address == a("10.1.0.101")) {
			t.Errorf("%s waits: %v", address, waits)
		}
	}
	p.answered(a("10.1.0.198"), "52:54:00:00:00:78") // nobody has asked about it
	if strings.Contains(taken, "198") {
		t.Error("somebody was believed who wasn't asked")
	}
	p.park(a("10.1.0.199"), "52:54:00:00:00:79", true, false, then)
	if p.answered(a("10.1.0.199"), "52:54:00:00:00:79"); strings.Contains(taken, "199") || ran != 2 {
		t.Errorf("a client's own answer counts against it: %s, %d ran", taken, ran)
	}
	clock.at = clock.at.Add(2 * probeLasts)
	if !p.park(a("10.1.0.102"), "n", true, false, then) {
		t.Error("what was asked about long ago is offered at once")
	}
	if p.park(a("10.3.0.102"), "n", false, false, then) {
		t.Error("without a way to ask, it waits")
	}
	p.stop()
	p.silent(all)
	if ran != 2 {
		t.Error("something ran after the end")
	}
}
