package netboot

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
)

// Sisters are the boot servers that use the same store: they serve the same rack. Each says every few seconds that it is there.

// serverKey + address is the entry of a boot server.
const serverKey = "server/"

// Times of sisters.
const (
	beatPause   = 5 * time.Second
	sisterStays = 30 * time.Second // after it was heard last
	sisterGone  = 24 * time.Hour   // after that it is forgotten
	clockSkew   = 20 * time.Second // is how far clocks may be apart before it is spoken of
)

// beat is what a server says of itself.
type beat struct {
	Server string     `json:"server"` // of this run of it
	MAC    string     `json:"mac"`    // of the link that it serves on
	Time   time.Time  `json:"time"`
	Own    netip.Addr `json:"-"`
}

// sister is another server as this one hears it.
type sister struct {
	beat
	heard time.Time     // by this server's clock
	skew  time.Duration // how far its clock is ahead
}

// sisters knows the others. A nil one knows none.
type sisters struct {
	store kv.Shared
	own   netip.Addr
	mac   string
	run   string // tells this run of the server from others
	now   func() time.Time
	log   *slog.Logger

	mu    sync.Mutex
	known map[netip.Addr]sister
	twin  time.Time // when another server with our address was heard
	said  string    // what the log has last said of the store
}

func newSisters(store kv.Shared, own netip.Addr, now func() time.Time, log *slog.Logger) *sisters {
	return &sisters{store: store, own: own, run: rand.Text(), now: now, log: log, known: map[netip.Addr]sister{}}
}

// meet learns who is there, and says so itself, before the first packet is answered: a sister is never taken for a rival.
func (s *sisters) meet(mac string) error {
	s.mac = mac
	there, err := s.store.List(serverKey)
	if err != nil {
		return err
	}
	s.heard(true, there)
	return s.beat()
}

// serve says that this server is there, and listens to the others, until ctx ends.
func (s *sisters) serve(ctx context.Context) {
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.store.Watch(ctx, serverKey, s.heard)
	}()
	defer func() { <-watched }()
	for ctx.Err() == nil {
		s.sayStore(s.beat())
		s.forget()
		pause(ctx, beatPause)
	}
}

func (s *sisters) beat() error {
	value, err := json.Marshal(beat{Server: s.run, MAC: s.mac, Time: s.now().UTC()})
	if err != nil {
		return err
	}
	return kv.Commit(s.store, kv.Put(serverKey+s.own.String(), value))
}

// forget forgets servers that are gone.
func (s *sisters) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for address, other := range s.known {
		if s.now().Sub(other.heard).Abs() > sisterGone {
			delete(s.known, address)
			s.store.Begin(kv.Delete(serverKey + address.String()))
		}
	}
}

// sayStore logs when the store goes away and when it comes back.
func (s *sisters) sayStore(err error) {
	text := ""
	if err != nil {
		text = "away"
	}
	s.mu.Lock()
	was := s.said
	s.said = text
	s.mu.Unlock()
	switch {
	case text != "" && was == "":
		s.log.Error("THE STORE IS AWAY: nodes of the document are served as before, no new address of the pool and no configuration is given until it is back", "error", err)
	case text == "" && was != "":
		s.log.Info("the store is back")
	}
}

// heard takes what the servers say.
func (s *sisters) heard(whole bool, entries []kv.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		address, err := netip.ParseAddr(strings.TrimPrefix(e.Key, serverKey))
		var b beat
		if err != nil || e.Value == nil || json.Unmarshal(e.Value, &b) != nil {
			continue
		}
		now := s.now()
		if address == s.own {
			if b.Server != s.run && !whole {
				if s.twin.IsZero() {
					s.log.Error("ANOTHER BOOT SERVER HAS THIS ONE'S ADDRESS at the store: give each its own (slipway serve --address)", "address", address)
				}
				s.twin = now
			}
			continue
		}
		next := sister{beat: b, heard: now}
		next.Own = address
		before, had := s.known[address]
		switch {
		case whole && had && before.beat.Time.Equal(b.Time): // nothing new
			next.heard, next.skew = before.heard, before.skew
		case !whole:
			next.skew = b.Time.Sub(now)
		}
		s.known[address] = next
		if !had {
			s.log.Info("another boot server shares the store", "server", address)
		}
		if next.skew.Abs() > clockSkew && before.skew.Abs() <= clockSkew {
			s.log.Warn("the clocks of boot servers are apart: leases may end too early or too late", "server", address, "ahead", next.skew.Round(time.Second))
		}
	}
}

// is says whether an address is a sister's.
func (s *sisters) is(address netip.Addr) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, is := s.known[address]
	return is
}

// link says whether a MAC address is that of a sister's link.
func (s *sisters) link(mac string) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.known {
		if other.MAC == mac {
			return true
		}
	}
	return false
}

// others are the addresses of the sisters, for machines: those that were heard lately, then the silent ones, the one heard last first. A machine
// asks only once, and who is silent now may be all there is when the others are gone.
func (s *sisters) others() (out []netip.Addr) {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	silence := map[netip.Addr]time.Duration{}
	for address, other := range s.known {
		if silence[address] = s.now().Sub(other.heard).Abs(); silence[address] < sisterStays {
			silence[address] = 0
		}
		out = append(out, address)
	}
	slices.SortFunc(out, func(a, b netip.Addr) int { return cmp.Or(cmp.Compare(silence[a], silence[b]), a.Compare(b)) })
	return out
}

// away says why the store can't be reached; nil: it can, or there is none that could be away.
func (s *sisters) away() error {
	if s == nil {
		return nil
	}
	return s.store.Away()
}

// warnings are what an operator should know of them.
func (s *sisters) warnings() (out []Warning) {
	if s == nil {
		return nil
	}
	now := s.now()
	if err := s.store.Away(); err != nil {
		out = append(out, Warning{"the store that boot servers share is away: no new address of the pool and no configuration is given", now, now})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.twin.IsZero() && now.Sub(s.twin) < sisterStays {
		out = append(out, Warning{fmt.Sprintf("another boot server has the address %s of this one", s.own), s.twin, s.twin})
	}
	for address, other := range s.known {
		switch {
		case now.Sub(other.heard).Abs() >= sisterStays:
			out = append(out, Warning{fmt.Sprintf("boot server %s, which shares the store, is not heard any more", address), other.heard, other.heard})
		case other.skew.Abs() > clockSkew:
			out = append(out, Warning{fmt.Sprintf("the clock of boot server %s is %s ahead of this one's: set them", address, other.skew.Round(time.Second)), other.heard, other.heard})
		}
	}
	slices.SortFunc(out, func(a, b Warning) int { return strings.Compare(a.Text, b.Text) })
	return out
}
