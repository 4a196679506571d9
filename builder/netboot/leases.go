package netboot

import (
	"container/heap"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
)

// quarantine is how long an address isn't given out after a client has declined it.
const quarantine = 10 * time.Minute

// maxLeases bounds how many of a pool's addresses are used.
const maxLeases = 1 << 16

// leaseKey begins the key of each lease in the store; its address follows.
const leaseKey = "lease/"

// Lease is an address of the pool in use.
type Lease struct {
	MAC     string     `json:"mac"` // empty: declined, in quarantine
	Address netip.Addr `json:"address"`
	Until   time.Time  `json:"until"`
}

// leases are the pool's addresses in use. They are stored before an acknowledgement goes out, so that no address is
// promised twice across a restart. Addresses that were only offered are kept in memory.
type leases struct {
	mu     sync.Mutex
	store  kv.Store // nil: only in memory
	subnet netip.Prefix
	pool   Pool
	never  map[netip.Addr]bool // addresses that aren't given out although they're in the pool
	now    func() time.Time
	held   map[netip.Addr]Lease
	byMAC  map[string]netip.Addr

	shared kv.Shared // the store, if other servers use it too; else nil

	fresh netip.Addr // from here on no address of the pool was ever given
	again freed      // addresses before that which may be free again
	ends  ends       // when what is held ends
}

// openLeases reads the leases of an earlier run in a site's first subnet.
func openLeases(store kv.Store, site *Site, now func() time.Time) (*leases, error) {
	return openPool(store, site, site.subnets()[0], now)
}

// openPool reads the leases of an earlier run in a subnet.
func openPool(store kv.Store, site *Site, subnet Subnet, now func() time.Time) (*leases, error) {
	l := &leases{
		store: store, subnet: subnet.Prefix, pool: subnet.Pool, now: now, never: reserved(site, subnet), held: map[netip.Addr]Lease{}, byMAC: map[string]netip.Addr{},
		fresh: subnet.Pool.First,
	}
	if store == nil {
		return l, nil
	}
	l.shared, _ = store.(kv.Shared)
	entries, err := store.List(leaseKey)
	if err != nil {
		return nil, err
	}
	earlier := make([]Lease, 0, len(entries))
	for _, e := range entries {
		lease, err := decodeLease(e)
		if err != nil {
			return nil, err
		}
		earlier = append(earlier, lease)
	}
	l.take(earlier)
	return l, nil
}

// decodeLease reads a stored lease. The key is what counts for the address.
func decodeLease(e kv.Entry) (Lease, error) {
	var lease Lease
	err := json.Unmarshal(e.Value, &lease)
	if err == nil {
		lease.Address, err = netip.ParseAddr(strings.TrimPrefix(e.Key, leaseKey))
	}
	if err != nil {
		return lease, fmt.Errorf("cannot read the stored entry %s: %w", e.Key, err)
	}
	return lease, nil
}

// take begins with earlier leases. Those that the document has overtaken (a smaller pool, a node that now has the
// address) are dropped. None can last longer than one that is given now: if it seems to, the clock was set back. From here on
// their ends are measured, so that a clock that is set ends none.
func (l *leases) take(earlier []Lease) {
	now := l.now()
	for _, lease := range earlier {
		l.learn(lease, now)
	}
}

func (l *leases) learn(lease Lease, now time.Time) {
	if l.pool.Contains(lease.Address) && !l.never[lease.Address] {
		lease.Until = now.Add(min(lease.Until.Sub(now), LeaseTime))
		l.put(lease)
	}
}

// reserved are the addresses that no unknown machine may get.
func reserved(site *Site, subnet Subnet) map[netip.Addr]bool {
	never := map[netip.Addr]bool{subnet.Server: true, subnet.Gateway: true, subnet.Prefix.Masked().Addr(): true, lastAddress(subnet.Prefix): true}
	for _, a := range subnet.DNS {
		never[a] = true
	}
	for _, m := range site.Machines {
		never[m.Address] = true
		for _, a := range m.Others {
			never[a] = true
		}
	}
	return never
}

// lastAddress is an IPv4 network's broadcast address.
func lastAddress(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}

// propose finds an address for a MAC address: the one it has, else the one it wishes for, else the first free one. It
// returns the zero Addr when the pool is empty. It keeps nothing: see hold.
func (l *leases) propose(mac string, wish netip.Addr) netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a, ok := l.byMAC[mac]; ok {
		return a
	}
	now := l.now()
	if l.pool.Contains(wish) && l.free(wish, now) {
		return wish
	}
	if a := l.spread(mac, now); a.IsValid() {
		return a
	}
	return l.firstFree(now)
}

// firstFree is the lowest address that was given before and is free again, else the first fresh one.
func (l *leases) firstFree(now time.Time) netip.Addr {
	for _, a := range l.ends.before(now, l.held) {
		l.freed(a)
	}
	for a, some := l.again.lowest(); some; a, some = l.again.lowest() {
		if l.free(a, now) {
			return a
		}
		l.again.drop()
	}
	for ; l.pool.Contains(l.fresh) && len(l.held) < maxLeases; l.fresh = l.fresh.Next() {
		if l.free(l.fresh, now) {
			return l.fresh
		}
	}
	return netip.Addr{}
}

func (l *leases) free(a netip.Addr, now time.Time) bool {
	lease, held := l.held[a]
	return !l.never[a] && (!held || lease.Until.Before(now))
}

// freed notes that an address may be free again.
func (l *leases) freed(a netip.Addr) {
	if a.Less(l.fresh) && l.pool.Contains(a) {
		l.again.add(a)
	}
}

// hold keeps an address for a MAC address. An acknowledged one is on disk when the channel says so (nil: there's nothing to
// wait for). A running lease isn't shortened by an offer.
func (l *leases) hold(mac string, a netip.Addr, how time.Duration) <-chan error {
	l.mu.Lock()
	defer l.mu.Unlock()
	until := l.now().Add(how)
	if how == offerTime {
		if old := l.held[a]; old.MAC == mac && old.Until.After(until) {
			return nil
		}
	}
	if l.shared != nil && how != offerTime {
		return l.grant(Lease{MAC: mac, Address: a, Until: until})
	}
	before, had := l.byMAC[mac]
	l.put(Lease{MAC: mac, Address: a, Until: until})
	if how == offerTime {
		return nil
	}
	if had && before != a {
		return l.save(a, before)
	}
	return l.save(a)
}

// put enters a lease. A MAC address has one, and so has an address.
func (l *leases) put(lease Lease) {
	if before, ok := l.byMAC[lease.MAC]; ok && lease.MAC != "" && before != lease.Address {
		delete(l.held, before)
		l.freed(before)
	}
	delete(l.byMAC, l.held[lease.Address].MAC)
	l.held[lease.Address] = lease
	l.ends.add(lease)
	if lease.MAC != "" {
		l.byMAC[lease.MAC] = lease.Address
	}
}

// decline puts an address that something else uses into quarantine; only the client that holds it can do so.
func (l *leases) decline(mac string, a netip.Addr) <-chan error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held, ok := l.held[a]; !ok || held.MAC != mac {
		return nil
	}
	if l.shared != nil {
		return l.end(mac, a, quarantine)
	}
	l.put(Lease{Address: a, Until: l.now().Add(quarantine)})
	return l.save(a)
}

// release frees an address; only the client that holds it can do so.
func (l *leases) release(mac string, a netip.Addr) <-chan error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held, ok := l.held[a]; !ok || held.MAC != mac {
		return nil
	}
	if l.shared != nil {
		return l.end(mac, a, 0)
	}
	l.drop(a)
	return l.save(a)
}

// drop forgets what is held of an address.
func (l *leases) drop(a netip.Addr) {
	delete(l.byMAC, l.held[a].MAC)
	delete(l.held, a)
	l.freed(a)
}

// save begins to store what is held of some addresses now. The lock is held, so the store sees changes in their order.
func (l *leases) save(addresses ...netip.Addr) <-chan error {
	if l.store == nil {
		return nil
	}
	changes := make([]kv.Change, 0, len(addresses))
	for _, a := range addresses {
		change := kv.Delete(leaseKey + a.String())
		if lease, held := l.held[a]; held {
			change.Value, _ = json.Marshal(lease) // of texts and numbers: it can't fail
		}
		changes = append(changes, change)
	}
	return l.store.Begin(changes...)
}

// ends are the addresses in use, the one whose lease ends first at the top: a heap. What is known of an address in it is
// its first end; that may have been put off since.
type ends struct {
	heap  endHeap
	first map[netip.Addr]time.Time
}

type end struct {
	at      time.Time
	address netip.Addr
}

func (e *ends) add(lease Lease) {
	if e.first == nil {
		e.first = map[netip.Addr]time.Time{}
	}
	if first, in := e.first[lease.Address]; !in || lease.Until.Before(first) {
		e.first[lease.Address] = lease.Until
		heap.Push(&e.heap, end{lease.Until, lease.Address})
	}
}

// before takes out the addresses whose lease has ended.
func (e *ends) before(now time.Time, held map[netip.Addr]Lease) (ended []netip.Addr) {
	for len(e.heap) > 0 && e.heap[0].at.Before(now) {
		top := heap.Pop(&e.heap).(end)
		a := top.address
		if !e.first[a].Equal(top.at) {
			continue // there was an earlier one
		}
		delete(e.first, a)
		if lease, ok := held[a]; ok && !lease.Until.Before(now) {
			e.add(lease)
			continue
		}
		ended = append(ended, a)
	}
	return ended
}

// freed are addresses, each once.
type freed struct {
	heap addresses
	in   map[netip.Addr]bool
}

func (f *freed) add(a netip.Addr) {
	if f.in == nil {
		f.in = map[netip.Addr]bool{}
	}
	if !f.in[a] {
		f.in[a] = true
		heap.Push(&f.heap, a)
	}
}

func (f *freed) lowest() (netip.Addr, bool) {
	if len(f.heap) == 0 {
		return netip.Addr{}, false
	}
	return f.heap[0], true
}

// ascending are all of them, the lowest first, as they will be given out.
func (f *freed) ascending(yield func(netip.Addr) bool) {
	next := places{&f.heap, []int{0}}
	if len(f.heap) == 0 {
		return
	}
	for len(next.at) > 0 {
		i := heap.Pop(&next).(int)
		if !yield(f.heap[i]) {
			return
		}
		for _, child := range []int{2*i + 1, 2*i + 2} {
			if child < len(f.heap) {
				heap.Push(&next, child)
			}
		}
	}
}

func (f *freed) drop() { delete(f.in, heap.Pop(&f.heap).(netip.Addr)) }

// addresses are a heap, the lowest at the top.
type addresses []netip.Addr

func (h addresses) Len() int           { return len(h) }
func (h addresses) Less(i, j int) bool { return h[i].Less(h[j]) }
func (h addresses) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *addresses) Push(x any)        { *h = append(*h, x.(netip.Addr)) }
func (h *addresses) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// places are a heap of places in another one, that of the lowest address at the top: those whose parents were looked at.
type places struct {
	of *addresses
	at []int
}

func (p places) Len() int           { return len(p.at) }
func (p places) Less(i, j int) bool { return (*p.of).Less(p.at[i], p.at[j]) }
func (p places) Swap(i, j int)      { p.at[i], p.at[j] = p.at[j], p.at[i] }
func (p *places) Push(x any)        { p.at = append(p.at, x.(int)) }
func (p *places) Pop() any {
	last := p.at[len(p.at)-1]
	p.at = p.at[:len(p.at)-1]
	return last
}

type endHeap []end

func (h endHeap) Len() int           { return len(h) }
func (h endHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h endHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *endHeap) Push(x any)        { *h = append(*h, x.(end)) }
func (h *endHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
