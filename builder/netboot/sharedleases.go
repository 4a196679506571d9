package netboot

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
)

// Where several boot servers give the addresses of one pool, each may offer what it likes, and what counts is the entry in the shared
// store: an address is acknowledged by who gets it in there. The others are told, and a client whose offer came to nothing is refused
// and asks anew.

// errTaken says that another machine has an address.
var errTaken = errors.New("another boot server has given the address to another machine")

// leaseMargin is how much longer than its lease an address is kept that another server gave: its clock may be behind.
const leaseMargin = 2 * time.Minute

// spread is where in the pool a machine's address is looked for first, if it is free: all servers look there, and for two machines seldom at
// the same place. The zero Addr: nowhere, this server is alone.
func (l *leases) spread(mac string, now time.Time) netip.Addr {
	if l.shared == nil || !l.pool.First.Is4() {
		return netip.Addr{}
	}
	first, last := l.pool.First.As4(), l.pool.Last.As4()
	from, size := binary.BigEndian.Uint32(first[:]), binary.BigEndian.Uint32(last[:])-binary.BigEndian.Uint32(first[:])+1
	sum := fnv.New32a()
	sum.Write([]byte(mac))
	if size == 0 || len(l.held) >= maxLeases {
		return netip.Addr{}
	}
	a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, from+sum.Sum32()%size)))
	if !l.free(a, now) {
		return netip.Addr{}
	}
	return a
}

// grant stores a lease if the address is free there or the machine's; errTaken: it isn't. The lock is held.
func (l *leases) grant(lease Lease) <-chan error {
	before, now := l.byMAC[lease.MAC], l.now()
	return l.later(func() error {
		holder, err := l.swap(lease.Address, func(holder Lease) (*Lease, error) {
			if holder.Address.IsValid() && holder.MAC != lease.MAC && now.Before(holder.Until.Add(leaseMargin)) {
				return nil, errTaken
			}
			return &lease, nil
		})
		if err == nil && before.IsValid() && before != lease.Address {
			// It has one address; that the other one is free again may also wait until its lease ends.
			_, _ = l.swap(before, only(lease.MAC, nil))
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		switch {
		case err == nil:
			l.put(lease)
		case errors.Is(err, errTaken):
			l.learn(holder, l.now())
		}
		return err
	})
}

// end puts an address into quarantine, or frees it, if it is the machine's; the lock is held.
func (l *leases) end(mac string, a netip.Addr, how time.Duration) <-chan error {
	var next *Lease
	if how > 0 {
		next = &Lease{Address: a, Until: l.now().Add(how)}
	}
	return l.later(func() error {
		_, err := l.swap(a, only(mac, next))
		l.mu.Lock()
		defer l.mu.Unlock()
		switch {
		case err != nil && !errors.Is(err, errTaken):
			return err
		case err == nil && next != nil:
			l.put(*next)
		case l.held[a].MAC == mac:
			l.drop(a)
		}
		return nil
	})
}

// only changes an entry that is a machine's.
func only(mac string, next *Lease) func(Lease) (*Lease, error) {
	return func(holder Lease) (*Lease, error) {
		if holder.MAC != mac {
			return nil, errTaken
		}
		return next, nil
	}
}

func (l *leases) later(do func() error) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- do() }() // as many at once as dhcp lets wait (maxKept)
	return ended
}

// swap changes the entry of an address, as decide says from what is there (no valid Address: nothing is), and says what was there. It
// decides again when another server was faster.
func (l *leases) swap(a netip.Addr, decide func(holder Lease) (next *Lease, err error)) (holder Lease, err error) {
	key := leaseKey + a.String()
	for range maxTries {
		before, err := readOne(l.store, key)
		if err != nil {
			return Lease{}, err
		}
		holder = Lease{}
		if before != nil {
			if holder, err = decodeLease(kv.Entry{Key: key, Value: before}); err != nil {
				return Lease{}, err
			}
		}
		next, err := decide(holder)
		if err != nil {
			return holder, err
		}
		change := kv.Replace(key, before, nil)
		if next != nil {
			change.Value, _ = json.Marshal(next) // of texts and numbers: it can't fail
		}
		if err = kv.Commit(l.store, change); !errors.Is(err, kv.ErrConflict) {
			return holder, err
		}
	}
	return holder, fmt.Errorf("cannot keep the lease of %s: %w", a, kv.ErrConflict)
}

// follow takes what other servers give until ctx ends.
func (l *leases) follow(ctx context.Context) {
	l.shared.Watch(ctx, leaseKey, func(whole bool, entries []kv.Entry) {
		l.mu.Lock()
		defer l.mu.Unlock()
		now := l.now()
		there := make(map[netip.Addr]bool, len(entries))
		for _, e := range entries {
			lease := Lease{}
			var err error
			if e.Value == nil {
				if lease.Address, err = netip.ParseAddr(e.Key[len(leaseKey):]); err == nil && l.stored(lease.Address, now) {
					l.drop(lease.Address)
				}
				continue
			}
			if lease, err = decodeLease(e); err != nil {
				continue // who wants this address is told
			}
			there[lease.Address] = true
			l.learn(lease, now)
		}
		for a := range l.held {
			if whole && !there[a] && l.stored(a, now) {
				l.drop(a)
			}
		}
	})
}

// stored says whether what is held of an address is more than an offer of this server's own.
func (l *leases) stored(a netip.Addr, now time.Time) bool {
	lease, held := l.held[a]
	return held && lease.Until.After(now.Add(offerTime))
}
