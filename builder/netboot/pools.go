package netboot

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
)

// pools are the leases of every subnet: a machine may have one in each.
type pools []*leases

// openPools reads the leases of an earlier run.
func openPools(store kv.Store, site *Site, now func() time.Time) (pools, error) {
	var out pools
	for _, n := range site.subnets() {
		l, err := openPool(store, site, n, now)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// of is the subnet's that an address is in; nil: there is none.
func (p pools) of(a netip.Addr) *leases {
	for _, l := range p {
		if a.IsValid() && l.subnet.Contains(a) {
			return l
		}
	}
	return nil
}

// propose finds an address of a subnet for a machine outside the document, like leases.propose.
func (p pools) propose(subnet netip.Prefix, mac string, wish netip.Addr) netip.Addr {
	if l := p.of(subnet.Addr()); l != nil {
		return l.propose(mac, wish)
	}
	return netip.Addr{}
}

// hold, decline and release are those of the address' subnet.
func (p pools) hold(mac string, a netip.Addr, how time.Duration) <-chan error {
	if l := p.of(a); l != nil {
		return l.hold(mac, a, how)
	}
	return nil
}

func (p pools) decline(mac string, a netip.Addr) <-chan error {
	if l := p.of(a); l != nil {
		return l.decline(mac, a)
	}
	return nil
}

func (p pools) release(mac string, a netip.Addr) <-chan error {
	if l := p.of(a); l != nil {
		return l.release(mac, a)
	}
	return nil
}

// holds says whether a machine has an address, or was offered it.
func (p pools) holds(mac string, a netip.Addr) bool { return mac != "" && p.holder(a) == mac }

// taken keeps an address from all others than the one that was found to use it; mac is empty where that isn't known.
func (p pools) taken(a netip.Addr, mac string) <-chan error {
	l := p.of(a)
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, another := l.byMAC[mac]; another {
		mac = "" // it has its own lease, and one more address
	}
	if l.shared != nil {
		return l.grant(Lease{MAC: mac, Address: a, Until: l.now().Add(quarantine)})
	}
	l.put(Lease{MAC: mac, Address: a, Until: l.now().Add(quarantine)})
	return l.save(a)
}

// candidates are up to count addresses that may be given out next in the subnet of an address, without those that were looked at. Of
// addresses that were never given all before from were.
func (p pools) candidates(in, from netip.Addr, count int, looked func(netip.Addr) bool) []netip.Addr {
	l := p.of(in)
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	var out []netip.Addr
	for a := range l.again.ascending {
		if len(out) >= count {
			break
		}
		if !looked(a) && l.free(a, now) {
			out = append(out, a)
		}
	}
	if !l.pool.Contains(from) || from.Less(l.fresh) {
		from = l.fresh
	}
	for a := from; l.pool.Contains(a) && len(out) < count; a = a.Next() {
		if !looked(a) && l.free(a, now) {
			out = append(out, a)
		}
	}
	return out
}

// follow takes what other servers give until ctx ends.
func (p pools) follow(ctx context.Context) {
	var all sync.WaitGroup
	for _, l := range p {
		all.Go(func() { l.follow(ctx) })
	}
	all.Wait()
}
