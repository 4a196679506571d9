package netboot

import (
	"net/netip"
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
