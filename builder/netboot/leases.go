package netboot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"sync"
	"time"
)

// quarantine is how long an address isn't given out after a client has declined it.
const quarantine = 10 * time.Minute

// Lease is an address of the pool in use.
type Lease struct {
	MAC     string     `json:"mac"` // empty: declined, in quarantine
	Address netip.Addr `json:"address"`
	Until   time.Time  `json:"until"`
}

// leases are the pool's addresses in use. They are kept in a file that is replaced whole before an answer goes out, so
// that no address is promised twice across a restart.
type leases struct {
	mu    sync.Mutex
	file  string // empty: only in memory
	pool  Pool
	taken map[netip.Addr]bool // addresses in the pool that are never given: the server's, reserved ones
	now   func() time.Time
	held  map[netip.Addr]Lease
}

func openLeases(file string, site *Site, now func() time.Time) (*leases, error) {
	l := &leases{file: file, pool: site.Pool, now: now, taken: map[netip.Addr]bool{site.Server: true}, held: map[netip.Addr]Lease{}}
	for _, m := range site.Machines {
		l.taken[m.Address] = true
	}
	if file == "" {
		return l, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	var all []Lease
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read leases %s: %w (remove the file to start with none)", file, err)
	}
	for _, lease := range all {
		if l.pool.Contains(lease.Address) {
			l.held[lease.Address] = lease
		}
	}
	return l, nil
}

// give leases an address to a MAC address: the one it has, else the one it wishes for, else the first free one. It
// returns the zero Addr when the pool is empty.
func (l *leases) give(mac string, wish netip.Addr) (netip.Addr, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	chosen := l.choose(mac, wish)
	if !chosen.IsValid() {
		return chosen, nil
	}
	l.held[chosen] = Lease{MAC: mac, Address: chosen, Until: l.now().Add(LeaseTime)}
	return chosen, l.save()
}

func (l *leases) choose(mac string, wish netip.Addr) netip.Addr {
	for a, lease := range l.held {
		if lease.MAC == mac {
			return a
		}
	}
	if l.pool.Contains(wish) && l.free(wish) {
		return wish
	}
	for a := l.pool.First; l.pool.Contains(a); a = a.Next() {
		if l.free(a) {
			return a
		}
	}
	return netip.Addr{}
}

func (l *leases) free(a netip.Addr) bool {
	lease, held := l.held[a]
	return !l.taken[a] && (!held || lease.Until.Before(l.now()))
}

// decline puts an address that something else uses into quarantine; only the client that holds it can do so.
func (l *leases) decline(mac string, a netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[a].MAC != mac {
		return nil
	}
	l.held[a] = Lease{Address: a, Until: l.now().Add(quarantine)}
	return l.save()
}

// release frees an address; only the client that holds it can do so.
func (l *leases) release(mac string, a netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[a].MAC != mac {
		return nil
	}
	delete(l.held, a)
	return l.save()
}

func (l *leases) save() error {
	if l.file == "" {
		return nil
	}
	all := make([]Lease, 0, len(l.held))
	for a := l.pool.First; l.pool.Contains(a); a = a.Next() {
		if lease, ok := l.held[a]; ok {
			all = append(all, lease)
		}
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode leases: %w", err)
	}
	return writeFile(l.file, append(text, '\n'))
}
