package netboot

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
	"github.com/slipway-os/slipway/images/bootspec"
)

// seenSaved is how late a change that is no event (a machine was seen again) may reach the disk.
const seenSaved = 2 * time.Second

// states keeps NodeStatus by MAC address. Changes happen in memory and never wait for the disk; keep writes them, each machine's
// as an entry of its own.
type states struct {
	mu      sync.Mutex
	site    *Site
	entries kv.Store // nil: only in memory
	now     func() time.Time
	log     *slog.Logger
	byMAC   map[string]*NodeStatus
	where   map[string][]string // address: MAC addresses of the machines there; one, unless a document has moved a node there
	changed func(NodeStatus)    // may be nil; called with the lock held, must not block
	answers *atomic.Int64       // counts the answers to machines; may be nil

	shared  kv.Shared         // entries, if other servers use them too; else nil
	stored  map[string]*known // of shared entries: what the store is known to have
	dirty   map[string]bool   // MAC addresses of entries that differ from what is on disk
	onDisk  map[string]bool   // MAC addresses of unshared entries that are there
	changes int               // so far
	tried   int               // of these, those that were written or failed to be
	failed  error             // how the last write ended
	wake    chan struct{}     // an event waits to be written
	written chan struct{}     // closed and renewed after each try
}

// openStates reads the entries of an earlier run and adds the site's machines.
func openStates(entries kv.Store, site *Site, now func() time.Time, log *slog.Logger, changed func(NodeStatus)) (*states, error) {
	s := &states{
		site: site, entries: entries, now: now, log: log, changed: changed,
		byMAC: map[string]*NodeStatus{}, where: map[string][]string{}, onDisk: map[string]bool{}, dirty: map[string]bool{}, wake: make(chan struct{}, 1), written: make(chan struct{}),
		stored: map[string]*known{},
	}
	s.shared, _ = entries.(kv.Shared)
	if entries != nil {
		list, err := entries.List(stateKey)
		if err != nil {
			return nil, err
		}
		if err := s.take(list); err != nil {
			return nil, err
		}
	}
	for _, m := range site.Machines {
		s.node(m.MAC.String())
	}
	return s, nil
}

// take begins with what was known.
func (s *states) take(list []kv.Entry) error {
	for _, e := range list {
		n, version, err := decodeState(e)
		if err != nil {
			return err
		}
		s.onDisk[n.MAC] = true
		if s.adopt(&n) {
			s.byMAC[n.MAC] = &n
			s.place(&n, "")
			s.knownOf(n.MAC).is(e.Value, version)
		} else if s.shared == nil {
			s.dirty[n.MAC] = true // nobody asks for it any more
		}
	}
	return nil
}

// adopt makes a stored status one of this server's, and says whether it is. Who is a node is the document's to say; it may have changed.
func (s *states) adopt(n *NodeStatus) bool {
	mac, err := net.ParseMAC(n.MAC)
	if err != nil || len(mac) != 6 {
		return false
	}
	m, is := s.site.machine(mac)
	if n.Name != m.Name {
		n.BootFrom, n.Claim = FromNetwork, nil // what it has on its disk is another node
	}
	n.MAC, n.Name, n.Role = mac.String(), m.Name, m.Role
	if is && (!s.site.Proxy || n.Address == "") {
		n.Address = m.Address.String()
	}
	return is || s.site.ListUnknown
}

// node finds or makes a machine's status. One unknown machine too many drives out the one that wasn't seen longest.
func (s *states) node(mac string) *NodeStatus {
	n := s.byMAC[mac]
	if n == nil {
		s.makeRoom()
		n = &NodeStatus{MAC: mac, State: unseen}
		s.adopt(n)
		s.byMAC[mac] = n
		s.place(n, "")
	}
	return n
}

// place notes where a machine is that was somewhere else before; empty: nowhere. The lock is held.
func (s *states) place(n *NodeStatus, before string) {
	if n.Address == before {
		return
	}
	s.displace(n.MAC, before)
	if n.Address != "" {
		s.where[n.Address] = append(s.where[n.Address], n.MAC)
	}
}

// displace notes that a machine isn't at an address any more; the lock is held.
func (s *states) displace(mac, address string) {
	there := s.where[address]
	if i := slices.Index(there, mac); i >= 0 {
		there = slices.Delete(there, i, i+1)
	}
	if s.where[address] = there; len(there) == 0 {
		delete(s.where, address)
	}
}

// forget forgets a machine; the lock is held.
func (s *states) forget(n *NodeStatus) {
	s.displace(n.MAC, n.Address)
	delete(s.byMAC, n.MAC)
}

// makeRoom drives out a few at once, so that a flood of new machines doesn't have all looked through for each.
func (s *states) makeRoom() {
	if len(s.byMAC) < len(s.site.Machines)+maxUnknown {
		return
	}
	var unknown []*NodeStatus
	for _, n := range s.byMAC {
		if n.Name == "" {
			unknown = append(unknown, n)
		}
	}
	if len(unknown) < maxUnknown {
		return
	}
	slices.SortFunc(unknown, func(a, b *NodeStatus) int { return a.LastSeen.Compare(b.LastSeen) })
	for _, n := range unknown[:len(unknown)-maxUnknown+1+maxUnknown/16] {
		s.forget(n)
		if s.dirty[n.MAC] = true; s.shared == nil && !s.onDisk[n.MAC] {
			delete(s.dirty, n.MAC) // it has come and gone between two writes
		}
	}
}

// seen notes an answer to a machine, and says whether it's another than last time.
func (s *states) seen(mac, address, answer string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers != nil {
		s.answers.Add(1)
	}
	n, at := s.node(mac), s.now()
	if address != "" && n.Address != address {
		s.move(n, address)
	}
	other := n.Last != answer
	s.edit(n, func(n *NodeStatus) {
		if n.State == unseen {
			n.State = seen
		}
		n.Last, n.LastSeen = answer, at
	})
	s.noteLater(n)
	return other
}

// move notes that a machine has another address, which then is no other's; the lock is held.
func (s *states) move(n *NodeStatus, address string) {
	for _, mac := range s.where[address] {
		s.edit(s.byMAC[mac], func(n *NodeStatus) { n.Address = "" })
		s.dirty[mac] = true
	}
	delete(s.where, address)
	before := n.Address
	s.edit(n, func(n *NodeStatus) { n.Address = address })
	s.place(n, before)
}

// at says whether a machine is at an address: its own ones, and beside another DHCP server also the one which that gave it.
func (s *states) at(m Machine, address netip.Addr) bool {
	if m.Address == address || slices.Contains(m.Others, address) || m.Address6 == address && address.IsValid() {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byMAC[m.MAC.String()]
	return s.site.Proxy && n != nil && n.Address == address.String()
}

// nodeAt is the node of a site that is at an address.
func (s *states) nodeAt(site *Site, address netip.Addr) (Machine, bool) {
	for _, m := range site.Machines {
		if s.at(m, address) {
			return m, true
		}
	}
	return Machine{}, false
}

// offered notes an offer to a machine's firmware.
func (s *states) offered(mac, detail string) {
	at := s.now()
	s.change(mac, func(n *NodeStatus) { n.offered(EventRecord{Event: bootspec.EventOffer, Time: at, Detail: detail}) })
}

// record adds an event the server itself has seen.
func (s *states) record(mac string, event bootspec.Event, detail string) {
	at := s.now()
	s.change(mac, func(n *NodeStatus) { n.add(n.newest(), EventRecord{Event: event, Time: at, Detail: detail}) })
}

// claimed notes that a machine has its configuration.
func (s *states) claimed(mac string, claim Claimed) {
	at := s.now()
	s.change(mac, func(n *NodeStatus) {
		c := n.claims()
		c.Armed, c.Last, c.From = false, claim.Time, claim.From.String()
		n.add(n.newest(), EventRecord{Event: bootspec.EventConfigClaimed, Time: at, Detail: "by " + claim.From.String()})
	})
}

// refused notes a claim that was refused.
func (s *states) refused(mac, from string) {
	at := s.now()
	s.change(mac, func(n *NodeStatus) {
		c := n.claims()
		c.Refused, c.LastRefused, c.RefusedFrom = c.Refused+1, at, from
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
		s.edit(n, func(n *NodeStatus) {
			c := n.claims()
			c.Armed, c.Refused, c.LastRefused, c.RefusedFrom = true, 0, time.Time{}, ""
		})
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
	if m, ok := s.nodeAt(site, client); ok {
		s.record(m.MAC.String(), bootspec.EventKernelSent, detail)
		return
	}
	if mac := s.strangerAt(client); site.Discover && mac != "" {
		s.record(mac, bootspec.EventKernelSent, detail)
	}
}

// report adds an event a node has reported.
func (s *states) report(r bootspec.Report) {
	at := s.now()
	s.change(r.MAC, func(n *NodeStatus) { n.report(r, at) })
}

// change edits a machine's status and has it written soon.
func (s *states) change(mac string, edit func(*NodeStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, at := s.node(mac), s.now()
	s.edit(n, func(n *NodeStatus) {
		edit(n)
		n.LastSeen = at
	})
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
	n.bound()
	s.changes++
	s.dirty[n.MAC] = true
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
			_ = s.save() // it has logged
			return
		}
		_ = s.save()
	}
}

// settled waits until everything so far was written, or could not be, and says which.
func (s *states) settled(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	want := s.changes
	for s.tried < want {
		written := s.written
		s.mu.Unlock()
		select {
		case <-written:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return s.failed
}
