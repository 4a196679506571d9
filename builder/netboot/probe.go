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

// Before an address of the pool is given, whoever may use it without a lease is asked (RFC 2131 section 2.2 and 4.3.1): by ARP
// on the interface, by an ICMP echo behind a relay. An address that was asked about a moment ago, or that the client has already, is
// offered at once. The more machines come, the more addresses are asked about ahead of them. Of a burst that nobody could foresee a
// few clients wait for their offer; the others get one while the question is still open, and it is their acknowledgement that waits for
// its end. No address is acknowledged whose question is open.

// Times and bounds of probing.
const (
	probeWait    = 200 * time.Millisecond // how long an answer is waited for
	probeLasts   = time.Minute            // how long an address that nobody answered for counts as unused
	probeFewest  = 16                     // addresses that are asked about ahead
	probeStep    = 4                      // more for each client that found none
	probeMost    = 4096
	probeBatch   = 64          // asked at once: hundreds would crowd out answers
	probeWindow  = time.Second // of so many clients the next ones are foreseen
	probeQuiet   = 10 * time.Second
	probeWaiting = 16 // clients that wait for an offer: they are all answered together, and a relay's socket has room for some
)

// prober asks about addresses of the pools, on one interface.
type prober struct {
	now func() time.Time
	log *slog.Logger
	// arp and echo send a question; nil: they can't.
	arp, echo func(netip.Addr) error
	// taken is told that somebody uses an address; mac is empty where it isn't known.
	taken func(a netip.Addr, mac string)
	// next are the addresses of the pool that may be offered soon (pools.candidates).
	next func(in, from netip.Addr, count int, looked func(netip.Addr) bool) []netip.Addr
	// after calls a function later.
	after func(time.Duration, func())

	mu      sync.Mutex
	asked   map[netip.Addr]time.Time // addresses that nobody answered for, since when, and that nobody was offered since
	pending map[netip.Addr]*parked   // addresses whose question is open
	idle    int                      // of these, those that no client is to get yet
	waiting int                      // clients that wait for an offer
	ahead   int                      // as many as there should be that were asked about and that nobody was offered
	from    netip.Addr               // before it all that were never given were asked about
	used    int                      // addresses that were needed in this window
	window  time.Time                // its begin
	stopped bool
	running sync.WaitGroup
}

// parked is an address whose question is open.
type parked struct {
	mac   string // of the client that it is for; empty: it was asked about ahead
	offer bool   // an offer waits, else an acknowledgement
	then  func() // nil: nothing waits
}

// wanted is an address that a client is to get.
type wanted struct {
	address netip.Addr
	mac     string
	direct  bool // it is in a subnet of the interface
	has     bool // the client has it already, or was offered it
	ack     bool // for good; else it is offered
}

// park says whether an answer must wait, and then has it made again once it is known whether the address is in use.
func (p *prober) park(w wanted, then func()) bool {
	send := p.echo
	if w.direct {
		send = p.arp
	}
	if send == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if waits := p.pending[w.address]; waits != nil {
		if waits.mac == "" {
			p.count(p.now())
			p.ahead = min(p.ahead+probeStep, probeMost)
			p.idle--
			p.foresee(w, send)
		}
		return p.wait(waits, w, then)
	}
	if w.has || w.ack {
		delete(p.asked, w.address)
		return false
	}
	now := p.now()
	p.count(now)
	if _, fresh := p.asked[w.address]; fresh {
		p.foresee(w, send)
		delete(p.asked, w.address) // after that: it isn't asked about anew
		return false
	}
	p.ahead, p.from = min(p.ahead+probeStep, probeMost), netip.Addr{}
	p.ask(send, []netip.Addr{w.address})
	p.idle--
	wait := p.wait(p.pending[w.address], w, then)
	p.foresee(w, send)
	return wait
}

// wait has a client's newest packet wait; false: it is to be offered the address before the question is answered. The lock is held.
func (p *prober) wait(waits *parked, w wanted, then func()) bool {
	waits.mac = w.mac
	if !w.ack && !waits.offer && p.waiting >= probeWaiting {
		return false
	}
	if waits.offer {
		p.waiting--
	}
	if waits.offer = !w.ack; waits.offer {
		p.waiting++
	}
	waits.then = then
	return true
}

// count notes that one more address is needed, and foresees from that how many will be. The lock is held.
func (p *prober) count(now time.Time) {
	if p.asked == nil {
		p.asked, p.pending, p.ahead = map[netip.Addr]time.Time{}, map[netip.Addr]*parked{}, probeFewest
	}
	if length := now.Sub(p.window); length >= probeWindow {
		p.ahead = min(max(p.ahead*3/4, p.used, probeFewest), probeMost)
		if length >= probeQuiet {
			p.ahead = probeFewest
		}
		p.used, p.window = 0, now
		for a, at := range p.asked {
			if now.Sub(at) >= probeLasts {
				delete(p.asked, a)
				p.from = netip.Addr{}
			}
		}
	}
	p.used++
}

// foresee asks about more addresses when there are too few that were asked about. The lock is held.
func (p *prober) foresee(w wanted, send func(netip.Addr) error) {
	missing := p.ahead - len(p.asked) - p.idle
	if !w.direct || missing < min(p.ahead/2, probeBatch/2) {
		return
	}
	more := p.next(w.address, p.from, min(missing, probeBatch), func(a netip.Addr) bool {
		_, asked := p.asked[a]
		return asked || p.pending[a] != nil
	})
	if len(more) > 0 {
		p.from = more[len(more)-1]
		p.ask(send, more)
	}
}

// ask asks about addresses. The lock is held.
func (p *prober) ask(send func(netip.Addr) error, addresses []netip.Addr) {
	for _, a := range addresses {
		if err := send(a); err != nil {
			p.log.Debug("dhcp: cannot ask whether an address is in use", "address", a, "error", err)
		}
		p.pending[a] = &parked{}
		p.idle++
	}
	p.after(probeWait, func() { p.silent(addresses) })
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
		waits := p.end(a)
		if waits == nil {
			continue
		}
		if waits.mac == "" {
			p.asked[a] = now
		}
		if waits.then != nil {
			waiting = append(waiting, waits.then)
		}
	}
	p.mu.Unlock()
	for _, then := range waiting {
		then()
	}
}

// end closes a question; nil: it isn't open. The lock is held.
func (p *prober) end(a netip.Addr) *parked {
	waits := p.pending[a]
	if waits == nil {
		return nil
	}
	delete(p.pending, a)
	if waits.mac == "" {
		p.idle--
	}
	if waits.offer {
		p.waiting--
	}
	return waits
}

// answered notes that somebody uses an address. Only what was asked about counts: anyone may send an ARP packet.
func (p *prober) answered(a netip.Addr, mac string) {
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return
	}
	waits := p.end(a)
	if waits == nil {
		p.mu.Unlock()
		return
	}
	p.running.Add(1)
	defer p.running.Done()
	own := waits.mac != "" && waits.mac == mac // the client itself has kept it
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

// probed says whether an answer waits for a probe.
func (s *dhcp) probed(packet []byte, request *dhcpv4.DHCPv4, d Decision, unicast bool) bool {
	if s.probes == nil || d.Hold == 0 {
		return false
	}
	mac := request.ClientHWAddr.String()
	w := wanted{
		address: d.Address, mac: mac, direct: slices.Contains(s.policy.at(), d.Subnet.Server), has: s.leases.holds(mac, d.Address), ack: d.Hold != offerTime,
	}
	again := func() {
		if request, err := decode(packet); err == nil {
			s.handle(packet, request, unicast)
		}
	}
	packet = slices.Clone(packet)
	if !s.probes.park(w, again) {
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
	p := &prober{now: now, log: s.log, taken: s.inUse, next: s.leases.candidates, after: func(d time.Duration, f func()) { time.AfterFunc(d, f) }}
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
