package netboot

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Before an address of the pool is offered, whoever may use it without a lease is asked (RFC 2131 section 2.2 and 4.3.1): by ARP
// on the interface, by an ICMP echo behind a relay. An address that was asked about a moment ago, or that the client has already, is
// offered at once. The more machines come, the more addresses are asked about ahead of them, so that nobody in a burst waits
// but the first.

// Times and bounds of probing.
const (
	probeWait   = 200 * time.Millisecond // how long an answer is waited for
	probeLasts  = time.Minute            // how long an address that nobody answered for counts as unused
	probeFewest = 16                     // addresses that are asked about ahead
	probeStep   = 32                     // more whenever somebody has to wait, and asked at once: hundreds would crowd out answers
	probeMost   = 1024
	probeKept   = 4 * probeMost // addresses of which it is remembered when they were asked about
)

// prober asks about addresses of the pools, on one interface.
type prober struct {
	now func() time.Time
	log *slog.Logger
	// arp and echo send a question; nil: they can't.
	arp, echo func(netip.Addr) error
	// taken is told that somebody uses an address; mac is empty where it isn't known.
	taken func(a netip.Addr, mac string)
	// next are the addresses of the pool that may be offered soon.
	next func(in netip.Addr, count int) []netip.Addr

	mu      sync.Mutex
	asked   map[netip.Addr]time.Time
	pending map[netip.Addr]*parked
	ahead   int
	used    int       // addresses offered since the last were asked about ahead
	waited  time.Time // when a client had to wait last
	stopped bool
	running sync.WaitGroup
}

// parked is a client that waits for the address to be found unused; nil then: nobody waits.
type parked struct {
	mac  string
	then func()
}

// park says whether an offer must wait, and then has it made again once it is known whether the address is in use. direct: the address
// is in a subnet of the interface; has: the client has it already.
func (p *prober) park(a netip.Addr, mac string, direct, has bool, then func()) bool {
	send := p.echo
	if direct {
		send = p.arp
	}
	if send == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if waits, pending := p.pending[a]; pending {
		waits.mac, waits.then = mac, then // the newest packet counts
		return true
	}
	now := p.now()
	if has {
		return false
	}
	at, asked := p.asked[a]
	fresh := asked && now.Sub(at) < probeLasts
	if fresh {
		if p.used++; direct && p.used >= min(p.ahead/2, probeStep) {
			p.ask(send, p.next(a, p.ahead), now)
		}
		return false
	}
	if now.Sub(p.waited) > probeLasts {
		p.ahead = probeFewest
	} else {
		p.ahead = min(p.ahead+probeStep, probeMost)
	}
	p.waited = now
	p.ask(send, []netip.Addr{a}, now)
	p.pending[a].mac, p.pending[a].then = mac, then
	if direct {
		p.ask(send, p.next(a, p.ahead), now)
	}
	return true
}

// ask asks about addresses that nobody was asked about lately. The lock is held.
func (p *prober) ask(send func(netip.Addr) error, addresses []netip.Addr, now time.Time) {
	if p.asked == nil || len(p.asked) > probeKept {
		p.asked = map[netip.Addr]time.Time{}
	}
	if p.pending == nil {
		p.pending = map[netip.Addr]*parked{}
	}
	p.used = 0
	var begun []netip.Addr
	for _, a := range addresses {
		if at, asked := p.asked[a]; asked && now.Sub(at) < probeLasts/2 || p.pending[a] != nil {
			continue
		}
		if err := send(a); err != nil {
			p.log.Debug("dhcp: cannot ask whether an address is in use", "address", a, "error", err)
		}
		p.pending[a] = &parked{}
		begun = append(begun, a)
	}
	if len(begun) > 0 {
		time.AfterFunc(probeWait, func() { p.silent(begun) })
	}
}

// silent goes on with addresses that nobody has answered for.
func (p *prober) silent(addresses []netip.Addr) {
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return
	}
	p.running.Add(1)
	defer p.running.Done()
	now := p.now()
	var waiting []func()
	for _, a := range addresses {
		if waits := p.pending[a]; waits != nil {
			delete(p.pending, a)
			p.asked[a] = now
			if waits.then != nil {
				waiting = append(waiting, waits.then)
			}
		}
	}
	p.mu.Unlock()
	for _, then := range waiting {
		then()
	}
}

// answered notes that somebody uses an address. Only what was asked about counts: anyone may send an ARP packet.
func (p *prober) answered(a netip.Addr, mac string) {
	p.mu.Lock()
	waits := p.pending[a]
	if waits == nil || p.stopped {
		p.mu.Unlock()
		return
	}
	p.running.Add(1)
	defer p.running.Done()
	delete(p.pending, a)
	own := waits.mac != "" && waits.mac == mac // the client itself has kept it
	if own {
		p.asked[a] = p.now()
	} else {
		delete(p.asked, a)
	}
	p.mu.Unlock()
	if !own {
		p.taken(a, mac)
	}
	if waits.then != nil {
		waits.then()
	}
}

// stop has nobody wait any more; none of what has waited runs after it.
func (p *prober) stop() {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	p.running.Wait()
}

// probed says whether an offer waits for a probe.
func (s *dhcp) probed(packet []byte, request *dhcpv4.DHCPv4, d Decision, unicast bool) bool {
	if s.probes == nil || d.Hold != offerTime {
		return false
	}
	mac := request.ClientHWAddr.String()
	direct := slices.Contains(s.policy.at(), d.Subnet.Server)
	packet = slices.Clone(packet)
	again := func() {
		if request, err := decode(packet); err == nil {
			s.handle(packet, request, unicast)
		}
	}
	if !s.probes.park(d.Address, mac, direct, s.leases.holds(mac, d.Address), again) {
		return false
	}
	s.leases.hold(mac, d.Address, offerTime) // nobody else is to get it meanwhile
	return true
}

// inUse notes that something uses an address of the pool without a lease: it gets none of others for a while, as if a client had
// declined it.
func (s *dhcp) inUse(a netip.Addr, mac string) {
	s.log.Warn("dhcp: an address of the pool is in use by something that has no lease for it; it isn't given out", "address", a, "mac", mac,
		"for", quarantine.String())
	if saved := s.leases.taken(a, mac); saved != nil {
		if err := <-saved; err != nil && !errors.Is(err, errTaken) {
			s.log.Error("dhcp: cannot keep that an address is in use", "address", a, "error", err)
		}
	}
}

// openProbes opens what asks about addresses on an interface.
func (s *dhcp) openProbes(link *net.Interface, server netip.Addr, now func() time.Time) (*prober, func()) {
	p := &prober{now: now, log: s.log, taken: s.inUse, next: s.leases.candidates}
	arp, err := listenARP(link, server, p.answered)
	if err == nil {
		p.arp = arp.ask
	}
	echo, err2 := listenEcho(server, func(a netip.Addr) { p.answered(a, "") })
	if err2 == nil {
		p.echo = echo.ask
	}
	for _, err := range []error{err, err2} {
		if err != nil {
			s.log.Warn("dhcp: addresses of the pool are offered without asking whether something uses them (that takes CAP_NET_RAW)", "error", fmt.Sprint(err))
			break
		}
	}
	return p, func() {
		p.stop()
		arp.close()
		echo.close()
	}
}
