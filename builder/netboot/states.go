package netboot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Bounds of what is kept.
const (
	maxBoots   = 5    // boots of one machine
	maxEvents  = 64   // events of one boot
	maxUnknown = 1024 // machines that aren't in the document
)

// NodeStatus is what the server knows of one machine. It is what GET /v1/nodes answers.
type NodeStatus struct {
	Name     string    `json:"name,omitempty"` // empty: not in the cluster document
	Role     string    `json:"role,omitempty"`
	MAC      string    `json:"mac"`
	Address  string    `json:"address,omitempty"`
	State    string    `json:"state"` // "unseen" or the last event of the last boot
	LastSeen time.Time `json:"lastSeen,omitzero"`
	Last     string    `json:"last,omitempty"`  // the last answer the server gave it, in words
	Boots    []Boot    `json:"boots,omitempty"` // the newest last
}

// Boot is one boot of a machine.
type Boot struct {
	ID     string        `json:"id,omitempty"`   // boot_id, once the node has reported
	Start  time.Time     `json:"start,omitzero"` // when its kernel started, from its reports
	Events []EventRecord `json:"events"`
}

// EventRecord is a step of a boot.
type EventRecord struct {
	Event  bootspec.Event `json:"event"`
	Time   time.Time      `json:"time"`
	Detail string         `json:"detail,omitempty"`
	Unit   string         `json:"unit,omitempty"`
	Log    string         `json:"log,omitempty"`
}

// Boot is the machine's newest boot.
func (n *NodeStatus) Boot() Boot {
	if len(n.Boots) == 0 {
		return Boot{}
	}
	return n.Boots[len(n.Boots)-1]
}

// Find is the first record of an event.
func (b Boot) Find(event bootspec.Event) (EventRecord, bool) {
	for _, r := range b.Events {
		if r.Event == event {
			return r, true
		}
	}
	return EventRecord{}, false
}

// states keeps NodeStatus by MAC address, in memory and in a file that is replaced whole at each change.
type states struct {
	mu      sync.Mutex
	file    string // empty: only in memory
	now     func() time.Time
	byMAC   map[string]*NodeStatus
	changed func(NodeStatus) // may be nil; called with the lock held, must not block
}

// openStates reads the file of an earlier run and adds the site's machines. A file that can't be read is an error: it
// is not thrown away silently.
func openStates(file string, site *Site, now func() time.Time, changed func(NodeStatus)) (*states, error) {
	s := &states{file: file, now: now, byMAC: map[string]*NodeStatus{}, changed: changed}
	if file != "" {
		if err := s.load(); err != nil {
			return nil, err
		}
	}
	for _, m := range site.Machines {
		n := s.node(m.MAC.String())
		n.Name, n.Role, n.Address = m.Name, m.Role, m.Address.String()
	}
	return s, nil
}

func (s *states) load() error {
	text, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read node states: %w", err)
	}
	var all []*NodeStatus
	if err := json.Unmarshal(text, &all); err != nil {
		return fmt.Errorf("cannot read node states %s: %w (remove the file to start with none)", s.file, err)
	}
	for _, n := range all {
		if mac, err := canonicalMAC(n.MAC); err == nil {
			// Names come from the document, which may have changed since.
			n.MAC, n.Name, n.Role = mac, "", ""
			s.byMAC[mac] = n
		}
	}
	return nil
}

// node finds or makes a machine's status. The caller holds the lock.
func (s *states) node(mac string) *NodeStatus {
	n := s.byMAC[mac]
	if n == nil {
		n = &NodeStatus{MAC: mac, State: "unseen"}
		s.byMAC[mac] = n
	}
	return n
}

// seen notes an answer to a machine; false when it's one unknown machine too many.
func (s *states) seen(mac, address, answer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byMAC[mac] == nil && len(s.byMAC) >= maxUnknown {
		return
	}
	n := s.node(mac)
	if n.State == "unseen" {
		n.State = "seen"
	}
	if address != "" {
		n.Address = address
	}
	n.LastSeen, n.Last = s.now(), answer
	s.notify(n)
}

// offered begins a boot, unless the newest one hasn't come further than its offer.
func (s *states) offered(mac, detail string) error {
	return s.change(mac, func(n *NodeStatus) {
		if b := n.Boot(); len(b.Events) == 1 && b.Events[0].Event == bootspec.EventOffer {
			return
		}
		n.Boots = append(n.Boots, Boot{})
		n.add(EventRecord{Event: bootspec.EventOffer, Time: s.now(), Detail: detail})
	})
}

// record adds an event the server itself has seen.
func (s *states) record(mac string, event bootspec.Event, detail string) error {
	return s.change(mac, func(n *NodeStatus) { n.add(EventRecord{Event: event, Time: s.now(), Detail: detail}) })
}

// report adds an event a node has reported. Its time is reckoned from when the node's kernel started, so that reports
// which arrive late stand where they belong.
func (s *states) report(r bootspec.Report) error {
	return s.change(r.MAC, func(n *NodeStatus) {
		boot := n.current(r.Boot)
		start := s.now().Add(-r.Uptime.Duration())
		if boot.Start.IsZero() || start.Before(boot.Start) {
			boot.Start = start
		}
		at := boot.Start.Add(r.Uptime.Duration())
		n.add(EventRecord{Event: r.Event, Time: at, Detail: r.Detail, Unit: r.Unit, Log: r.Log})
	})
}

// current is the boot with an id. The newest one takes the id if it has none; else a new boot begins.
func (n *NodeStatus) current(id string) *Boot {
	if len(n.Boots) == 0 || (n.Boot().ID != "" && n.Boot().ID != id) {
		n.Boots = append(n.Boots, Boot{})
	}
	boot := &n.Boots[len(n.Boots)-1]
	boot.ID = id
	return boot
}

// add appends to the newest boot. Of a repeated event the first stays, but failures and what heals them are all kept.
func (n *NodeStatus) add(r EventRecord) {
	if len(n.Boots) == 0 {
		n.Boots = append(n.Boots, Boot{})
	}
	boot := &n.Boots[len(n.Boots)-1]
	if len(boot.Events) < maxEvents {
		_, had := boot.Find(r.Event)
		_, failed := boot.Find(bootspec.EventFailed)
		if !had || failed || r.Event == bootspec.EventFailed {
			boot.Events = append(boot.Events, r)
		}
	}
	n.State = string(r.Event)
}

// change edits a machine's status and makes it durable.
func (s *states) change(mac string, edit func(*NodeStatus)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byMAC[mac] == nil && len(s.byMAC) >= maxUnknown {
		return fmt.Errorf("cannot keep the state of %s: %d machines are known already", mac, maxUnknown)
	}
	n := s.node(mac)
	edit(n)
	n.LastSeen = s.now()
	if len(n.Boots) > maxBoots {
		n.Boots = n.Boots[len(n.Boots)-maxBoots:]
	}
	s.notify(n)
	return s.save()
}

func (s *states) notify(n *NodeStatus) {
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

func (n *NodeStatus) clone() NodeStatus {
	c := *n
	c.Boots = make([]Boot, len(n.Boots))
	for i, b := range n.Boots {
		c.Boots[i] = b
		c.Boots[i].Events = append([]EventRecord(nil), b.Events...)
	}
	return c
}

func (s *states) save() error {
	if s.file == "" {
		return nil
	}
	text, err := json.MarshalIndent(s.sorted(), "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode node states: %w", err)
	}
	return writeFile(s.file, append(text, '\n'))
}

// writeFile replaces a file whole: beside, sync, rename.
func writeFile(path string, content []byte) error {
	beside, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	defer os.Remove(beside.Name())
	_, err = beside.Write(content)
	err = errors.Join(err, beside.Sync(), beside.Close())
	if err == nil {
		err = os.Rename(beside.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}
