package netboot

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// quarantine is how long an address isn't given out after a client has declined it.
const quarantine = 10 * time.Minute

// maxLeases bounds how many of the pool's addresses are used.
const maxLeases = 1 << 16

// Lease is an address of the pool in use.
type Lease struct {
	MAC     string     `json:"mac"` // empty: declined, in quarantine
	Address netip.Addr `json:"address"`
	Until   time.Time  `json:"until"`
}

// leases are the pool's addresses in use. They are stored before an acknowledgement goes out, so that no address is
// promised twice across a restart. Addresses that were only offered are kept in memory.
type leases struct {
	mu    sync.Mutex
	store *store // nil: only in memory
	pool  Pool
	never map[netip.Addr]bool // addresses that aren't given out although they're in the pool
	now   func() time.Time
	held  map[netip.Addr]Lease
	byMAC map[string]netip.Addr
}

// openLeases reads the leases of an earlier run.
func openLeases(store *store, site *Site, now func() time.Time) (*leases, error) {
	var earlier []Lease
	if store != nil {
		if err := store.read(leasesFile, &earlier); err != nil {
			return nil, err
		}
	}
	l := &leases{store: store, pool: site.Pool, now: now, never: reserved(site), held: map[netip.Addr]Lease{}, byMAC: map[string]netip.Addr{}}
	l.take(earlier)
	return l, nil
}

// take begins with earlier leases. Those that the document has overtaken (a smaller pool, a node that now has the
// address) are dropped.
func (l *leases) take(earlier []Lease) {
	for _, lease := range earlier {
		if l.pool.Contains(lease.Address) && !l.never[lease.Address] {
			l.put(lease)
		}
	}
}

// reserved are the addresses that no unknown machine may get.
func reserved(site *Site) map[netip.Addr]bool {
	never := map[netip.Addr]bool{site.Server: true, site.Gateway: true, site.Subnet.Masked().Addr(): true, lastAddress(site.Subnet): true}
	for _, a := range site.DNS {
		never[a] = true
	}
	for _, m := range site.Machines {
		never[m.Address] = true
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
	if l.pool.Contains(wish) && l.free(wish) {
		return wish
	}
	a := l.pool.First
	for range maxLeases {
		if !l.pool.Contains(a) {
			break
		}
		if l.free(a) {
			return a
		}
		a = a.Next()
	}
	return netip.Addr{}
}

func (l *leases) free(a netip.Addr) bool {
	lease, held := l.held[a]
	return !l.never[a] && (!held || lease.Until.Before(l.now()))
}

// hold keeps an address for a MAC address; an acknowledged one is on disk when hold returns. A running lease isn't
// shortened by an offer.
func (l *leases) hold(mac string, a netip.Addr, how time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	until := l.now().Add(how)
	if how == offerTime {
		if old := l.held[a]; old.MAC == mac && old.Until.After(until) {
			return nil
		}
	}
	l.put(Lease{MAC: mac, Address: a, Until: until})
	if how == offerTime {
		return nil
	}
	return l.save()
}

// put enters a lease. A MAC address has one, and so has an address.
func (l *leases) put(lease Lease) {
	if before, ok := l.byMAC[lease.MAC]; ok && lease.MAC != "" {
		delete(l.held, before)
	}
	delete(l.byMAC, l.held[lease.Address].MAC)
	l.held[lease.Address] = lease
	if lease.MAC != "" {
		l.byMAC[lease.MAC] = lease.Address
	}
}

// decline puts an address that something else uses into quarantine; only the client that holds it can do so.
func (l *leases) decline(mac string, a netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held, ok := l.held[a]; !ok || held.MAC != mac {
		return nil
	}
	l.put(Lease{Address: a, Until: l.now().Add(quarantine)})
	return l.save()
}

// release frees an address; only the client that holds it can do so.
func (l *leases) release(mac string, a netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held, ok := l.held[a]; !ok || held.MAC != mac {
		return nil
	}
	delete(l.held, a)
	delete(l.byMAC, mac)
	return l.save()
}

func (l *leases) save() error {
	if l.store == nil {
		return nil
	}
	all := make([]Lease, 0, len(l.held))
	for _, lease := range l.held {
		all = append(all, lease)
	}
	slices.SortFunc(all, func(a, b Lease) int { return a.Address.Compare(b.Address) })
	return l.store.write(leasesFile, all)
}
