package netboot

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// seenSaved is how late a change that is no event (a machine was seen again) may reach the disk.
const seenSaved = 2 * time.Second

// states keeps NodeStatus by MAC address. Changes happen in memory and never wait for the disk; keep writes them.
type states struct {
	mu      sync.Mutex
	site    *Site
	store   *store // nil: only in memory
	now     func() time.Time
	log     *slog.Logger
	byMAC   map[string]*NodeStatus
	changed func(NodeStatus) // may be nil; called with the lock held, must not block
	answers *atomic.Int64    // counts the answers to machines; may be nil

	changes int           // so far
	tried   int           // of these, those that were written or failed to be
	failing bool          // the last write failed
	wake    chan struct{} // an event waits to be written
	written chan struct{} // closed and renewed after each try
}

// openStates reads the file of an earlier run and adds the site's machines.
func openStates(store *store, site *Site, now func() time.Time, log *slog.Logger, changed func(NodeStatus)) (*states, error) {
	var earlier []NodeStatus
	if store != nil {
		if err := store.read(nodesFile, &earlier); err != nil {
			return nil, err
		}
	}
	s := &states{
		site: site, store: store, now: now, log: log, changed: changed,
		byMAC: map[string]*NodeStatus{}, wake: make(chan struct{}, 1), written: make(chan struct{}),
	}
	s.take(earlier, site)
	return s, nil
}

// take begins with what was known. Who is a node is the document's to say; it may have changed since.
func (s *states) take(earlier []NodeStatus, site *Site) {
	for _, n := range earlier {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil || len(mac) != 6 {
			continue
		}
		m, known := site.machine(mac)
		if n.Name != m.Name {
			n.BootFrom, n.Claim = FromNetwork, nil // what it has on its disk is another node
		}
		if known || site.ListUnknown {
			n.MAC, n.Name, n.Role = mac.String(), m.Name, m.Role
			s.byMAC[n.MAC] = &n
		}
	}
	for _, m := range site.Machines {
		n := s.node(m.MAC.String())
		n.Name, n.Role = m.Name, m.Role
		if !site.Proxy || n.Address == "" {
			n.Address = m.Address.String()
		}
	}
}

// node finds or makes a machine's status. One unknown machine too many drives out the one that wasn't seen longest.
func (s *states) node(mac string) *NodeStatus {
	n := s.byMAC[mac]
	if n == nil {
		s.makeRoom()
		n = &NodeStatus{MAC: mac, State: unseen}
		s.byMAC[mac] = n
	}
	return n
}

func (s *states) makeRoom() {
	var oldest *NodeStatus
	unknown := 0
	for _, n := range s.byMAC {
		if n.Name != "" {
			continue
		}
		if unknown++; oldest == nil || n.LastSeen.Before(oldest.LastSeen) {
			oldest = n
		}
	}
	if unknown >= maxUnknown {
		delete(s.byMAC, oldest.MAC)
	}
}

// seen notes an answer to a machine, and says whether it's another than last time.
func (s *states) seen(mac, address, answer string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers != nil {
		s.answers.Add(1)
	}
	n := s.node(mac)
	if n.State == unseen {
		n.State = seen
	}
	if address != "" && n.Address != address {
		s.move(n, address)
	}
	other := n.Last != answer
	n.Last = answer
	n.LastSeen = s.now()
	s.noteLater(n)
	return other
}

// move notes that a machine has another address, which then is no other's; the lock is held.
func (s *states) move(n *NodeStatus, address string) {
	for _, other := range s.byMAC {
		if other.Address == address {
			other.Address = ""
		}
	}
	n.Address = address
}

// at says whether a machine is at an address: its own, and beside another DHCP server also the one which that gave it.
func (s *states) at(m Machine, address netip.Addr) bool {
	if m.Address == address {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byMAC[m.MAC.String()]
	return s.site.Proxy && n != nil && n.Address == address.String()
}

// offered notes an offer to a machine's firmware.
func (s *states) offered(mac, detail string) {
	s.change(mac, func(n *NodeStatus) {
		n.offered(EventRecord{Event: bootspec.EventOffer, Time: s.now(), Detail: detail})
	})
}

// record adds an event the server itself has seen.
func (s *states) record(mac string, event bootspec.Event, detail string) {
	s.change(mac, func(n *NodeStatus) {
		n.add(n.newest(), EventRecord{Event: event, Time: s.now(), Detail: detail})
	})
}

// claimed notes that a machine has its configuration.
func (s *states) claimed(mac string, claim Claimed) {
	s.change(mac, func(n *NodeStatus) {
		c := n.claims()
		c.Armed, c.Last, c.From = false, claim.Time, claim.From.String()
		n.add(n.newest(), EventRecord{Event: bootspec.EventConfigClaimed, Time: s.now(), Detail: "by " + claim.From.String()})
	})
}

// refused notes a claim that was refused.
func (s *states) refused(mac, from string) {
	s.change(mac, func(n *NodeStatus) {
		c := n.claims()
		c.Refused, c.LastRefused, c.RefusedFrom = c.Refused+1, s.now(), from
	})
}

// armed notes that an operator has armed a node.
func (s *states) armed(node string) {
	for _, m := range s.served().Machines {
		if m.Name != node {
			continue
		}
		s.mu.Lock()
		n := s.node(m.MAC.String())
		c := n.claims()
		c.Armed, c.Refused, c.LastRefused, c.RefusedFrom = true, 0, time.Time{}, ""
		s.note(n)
		s.mu.Unlock()
	}
}

// claims is what is known of a machine's claims.
func (n *NodeStatus) claims() *Claim {
	if n.Claim == nil {
		n.Claim = &Claim{}
	}
	return n.Claim
}

// kernelSent notes that the machine at an address has its kernel, if the document knows one there, or one is discovered there.
func (s *states) kernelSent(client netip.Addr, by, name string, size int64) {
	detail := fmt.Sprintf("%s, %.1f MB by %s", name, float64(size)/1e6, by)
	site := s.served()
	for _, m := range site.Machines {
		if s.at(m, client) {
			s.record(m.MAC.String(), bootspec.EventKernelSent, detail)
			return
		}
	}
	if mac := s.strangerAt(client); site.Discover && mac != "" {
		s.record(mac, bootspec.EventKernelSent, detail)
	}
}

// report adds an event a node has reported.
func (s *states) report(r bootspec.Report) {
	s.change(r.MAC, func(n *NodeStatus) { n.report(r, s.now()) })
}

// change edits a machine's status and has it written soon.
func (s *states) change(mac string, edit func(*NodeStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node(mac)
	edit(n)
	n.LastSeen = s.now()
	s.note(n)
}

// note has a changed status written soon; the lock is held.
func (s *states) note(n *NodeStatus) {
	s.noteLater(n)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *states) noteLater(n *NodeStatus) {
	s.changes++
	if s.changed != nil {
		s.changed(n.clone())
	}
}

// all is every machine's status: the document's nodes by name, then the others by MAC address.
func (s *states) all() []NodeStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sorted()
}

func (s *states) sorted() []NodeStatus {
	out := make([]NodeStatus, 0, len(s.byMAC))
	for _, n := range s.byMAC {
		out = append(out, n.clone())
	}
	sort.Slice(out, func(i, j int) bool {
		if (out[i].Name == "") != (out[j].Name == "") {
			return out[i].Name != ""
		}
		return out[i].Name+out[i].MAC < out[j].Name+out[j].MAC
	})
	return out
}

// keep writes changes until ctx ends, and then once more. Events are written at once, several together while the disk is
// busy; a failed write is tried again.
func (s *states) keep(ctx context.Context) {
	ticker := time.NewTicker(seenSaved)
	defer ticker.Stop()
	for {
		select {
		case <-s.wake:
		case <-ticker.C:
		case <-ctx.Done():
			s.save()
			return
		}
		s.save()
	}
}

// save writes the changes so far, if there are any. The log says when that begins and when it ceases to fail.
func (s *states) save() {
	s.mu.Lock()
	changes, all := s.changes, []NodeStatus(nil)
	if changes == s.tried && !s.failing {
		s.mu.Unlock()
		return
	}
	if s.store != nil {
		all = s.sorted()
	}
	s.mu.Unlock()
	var err error
	if s.store != nil {
		err = s.store.write(nodesFile, all)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && !s.failing:
		s.log.Error("cannot keep node states on disk: they are only in memory until this is mended", "error", err)
	case err == nil && s.failing:
		s.log.Info("node states are kept on disk again")
	}
	s.tried, s.failing = changes, err != nil
	close(s.written)
	s.written = make(chan struct{})
}

// settled waits until everything so far was written, or could not be.
func (s *states) settled(ctx context.Context) {
	s.mu.Lock()
	want := s.changes
	for s.tried < want {
		written := s.written
		s.mu.Unlock()
		select {
		case <-written:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
	}
	s.mu.Unlock()
}
