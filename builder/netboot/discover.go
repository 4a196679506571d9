package netboot

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
	"github.com/slipway-os/slipway/images/bootspec"
)

// Discovery: a machine outside the document gets an address of the pool and the image of any role, and tells its hardware over TLS from
// that address. What it tells is parsed strictly and bounded for each machine, in number and in all; nobody vouches for it.

// Bounds of what is kept of machines' hardware.
const (
	maxHardware      = maxUnknown
	maxHardwareBytes = 8 << 20 // as JSON, of all machines
)

// discoverPause is how often a machine that waits for its adoption asks.
const discoverPause = 10 * time.Second

// hardwareKey + MAC address is the entry of a machine's hardware.
const hardwareKey = "hardware/"

// Discovered is a machine's hardware as it was told.
type Discovered struct {
	First    time.Time         `json:"first"`
	Last     time.Time         `json:"last"` // of what is kept on disk: when it changed
	Hardware bootspec.Hardware `json:"hardware"`
}

// machines are the machines whose hardware was told. They are on disk before the machine is answered.
type machines struct {
	store kv.Store // nil: only in memory
	now   func() time.Time
	log   *slog.Logger

	mu    sync.Mutex
	byMAC map[string]*told
	bytes int
}

// told is one of them.
type told struct {
	Discovered
	text []byte // the hardware as JSON
}

// openMachines reads what is kept. An entry that can't be read is let go: the machine tells it again.
func openMachines(store kv.Store, now func() time.Time, log *slog.Logger) (*machines, error) {
	m := &machines{store: store, now: now, log: log, byMAC: map[string]*told{}}
	if store == nil {
		return m, nil
	}
	entries, err := store.List(hardwareKey)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		var d Discovered
		text, err := []byte(nil), json.Unmarshal(e.Value, &d)
		if err == nil {
			text, err = json.Marshal(d.Hardware)
		}
		if err != nil || hardwareKey+d.Hardware.MAC != e.Key {
			log.Warn("what is kept of a machine's hardware can't be read", "entry", e.Key, "error", err)
			continue
		}
		m.byMAC[d.Hardware.MAC] = &told{d, text}
		m.bytes += len(text)
	}
	return m, nil
}

// take keeps what a machine tells, and says whether that is something new. nodes are MAC addresses that are not let go for others.
func (m *machines) take(h bootspec.Hardware, node func(mac string) bool) (fresh bool, err error) {
	text, err := json.Marshal(h)
	if err != nil {
		return false, err
	}
	m.mu.Lock()
	now := m.now().UTC()
	had := m.byMAC[h.MAC]
	if had != nil && bytes.Equal(had.text, text) {
		had.Last = now
		m.mu.Unlock()
		return false, nil
	}
	d := Discovered{First: now, Last: now, Hardware: h}
	if had != nil {
		d.First = had.First
		m.bytes -= len(had.text)
	}
	m.byMAC[h.MAC] = &told{d, text}
	m.bytes += len(text)
	changes := m.makeRoom(h.MAC, node)
	value, err := json.Marshal(d)
	if err != nil {
		m.mu.Unlock()
		return false, err
	}
	saved := m.save(append(changes, kv.Put(hardwareKey+h.MAC, value)))
	m.mu.Unlock()
	if saved != nil {
		err = <-saved
	}
	return true, err
}

// makeRoom lets those go that were not heard of longest, nodes last; the lock is held.
func (m *machines) makeRoom(but string, node func(mac string) bool) (changes []kv.Change) {
	for len(m.byMAC) > maxHardware || m.bytes > maxHardwareBytes {
		oldest := ""
		for mac, t := range m.byMAC {
			if mac == but {
				continue
			}
			if o := m.byMAC[oldest]; o == nil || node(oldest) && !node(mac) || node(oldest) == node(mac) && t.Last.Before(o.Last) {
				oldest = mac
			}
		}
		if oldest == "" {
			return changes
		}
		m.bytes -= len(m.byMAC[oldest].text)
		delete(m.byMAC, oldest)
		changes = append(changes, kv.Delete(hardwareKey+oldest))
	}
	return changes
}

func (m *machines) save(changes []kv.Change) <-chan error {
	if m.store == nil {
		return nil
	}
	return m.store.Begin(changes...)
}

// get is a machine's hardware.
func (m *machines) get(mac string) (Discovered, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, ok := m.byMAC[mac]
	if !ok {
		return Discovered{}, false
	}
	return t.Discovered, true
}

// all are those of all machines, by MAC address.
func (m *machines) all() []Discovered {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Discovered, 0, len(m.byMAC))
	for _, t := range m.byMAC {
		out = append(out, t.Discovered)
	}
	slices.SortFunc(out, func(a, b Discovered) int { return cmp.Compare(a.Hardware.MAC, b.Hardware.MAC) })
	return out
}

// holder is the MAC address that has a lease of an address of the pool now; empty: none.
func (l *leases) holder(a netip.Addr) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lease, held := l.held[a]; held && !lease.Until.Before(l.now()) {
		return lease.MAC
	}
	return ""
}

// prolong gives the holder of an address half of whose lease is over a new one: a machine that waits doesn't renew it itself.
func (l *leases) prolong(mac string, a netip.Addr) <-chan error {
	l.mu.Lock()
	lease, held := l.held[a]
	late := held && lease.MAC == mac && lease.Until.Sub(l.now()) < LeaseTime/2
	l.mu.Unlock()
	if !late {
		return nil
	}
	return l.hold(mac, a, LeaseTime)
}

// holder is the MAC address that has a lease of an address now; empty: none.
func (p pools) holder(a netip.Addr) string {
	if l := p.of(a); l != nil {
		return l.holder(a)
	}
	return ""
}

// prolong is that of the address' subnet.
func (p pools) prolong(mac string, a netip.Addr) <-chan error {
	if l := p.of(a); l != nil {
		return l.prolong(mac, a)
	}
	return nil
}

// discovers says whether whoever asks is a machine that this server discovers.
func (h *handler) discovers(r *http.Request) bool {
	return h.site.Discover && h.leases != nil && h.leases.holder(remote(r)) != ""
}

// takeHardware answers bootspec.RouteHardware.
func (h *handler) takeHardware(w http.ResponseWriter, r *http.Request) {
	from := remote(r)
	mac := ""
	if h.leases != nil {
		mac = h.leases.holder(from)
	}
	if mac == "" {
		http.Error(w, "this boot server has given no machine that address", http.StatusForbidden)
		return
	}
	if !h.reports.allow("hardware from " + from.String()) {
		http.Error(w, "too many reports", http.StatusTooManyRequests)
		return
	}
	told, err := bootspec.ParseHardware(http.MaxBytesReader(w, r.Body, bootspec.MaxHardware+1))
	if err != nil {
		http.Error(w, oneLine(err.Error()), http.StatusBadRequest)
		return
	}
	if told.MAC != mac {
		h.log.Warn("hardware refused", "from", r.RemoteAddr, "mac", told.MAC, "reason", "the address is that of another machine")
		http.Error(w, "the address is that of another machine", http.StatusForbidden)
		return
	}
	answer := bootspec.Discovered{Seconds: int(discoverPause / time.Second)}
	if m, known := h.node(mac); known {
		answer.Node = m.Name
		h.log.Info("a machine that was discovered restarts as a node", "mac", mac, "node", m.Name)
	} else if !h.site.Discover {
		http.Error(w, "this boot server discovers no machines", http.StatusForbidden)
		return
	} else if err := h.discovered(told, from); err != nil {
		h.log.Error("cannot keep a machine's hardware", "mac", mac, "error", err)
		http.Error(w, "the server cannot keep this; its log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(answer)
}

// node is the node with a MAC address.
func (h *handler) node(mac string) (Machine, bool) {
	hardware, err := net.ParseMAC(mac)
	if err != nil {
		return Machine{}, false
	}
	return h.site.machine(hardware)
}

// discovered keeps what a machine has told.
func (h *handler) discovered(told bootspec.Hardware, from netip.Addr) error {
	fresh, err := h.machines.take(told, func(mac string) bool { _, known := h.node(mac); return known })
	if saved := h.leases.prolong(told.MAC, from); err == nil && saved != nil {
		err = <-saved
	}
	if err != nil {
		return err
	}
	if fresh {
		h.log.Info("discovered a machine that isn't in the cluster document (slipway adopt "+told.MAC+" --role ROLE)", "mac", told.MAC, "hardware", told.Summary())
	}
	h.states.discovered(told.MAC, told.Summary())
	return nil
}

// discovered notes that a machine waits for its adoption.
func (s *states) discovered(mac, summary string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, at := s.node(mac), s.now()
	if n.Name == "" && (n.State != string(bootspec.EventDiscovered) || n.Hardware != summary) {
		told := EventRecord{Event: bootspec.EventDiscovered, Time: at, Detail: summary}
		s.edit(n, func(n *NodeStatus) {
			n.Hardware, n.LastSeen = summary, at
			n.add(n.newest(), told)
		})
		s.note(n)
		return
	}
	s.edit(n, func(n *NodeStatus) { n.LastSeen = at })
	s.noteLater(n)
}

// imageOf is the file name of the image that a machine boots: its role's; of a machine that is discovered the first role's that has one.
func (s *Site) imageOf(d *Decision, image func(role string) string) string {
	if d.Known {
		return image(d.Machine.Role)
	}
	roles := s.roles()
	slices.SortFunc(roles, func(a, b string) int { return -strings.Compare(a, b) }) // workers' images are the smaller ones
	for _, role := range roles {
		if file := image(role); file != "" {
			return file
		}
	}
	return ""
}

// roleOf is what is said of a machine's role.
func (d *Decision) roleOf() string {
	if d.Known {
		return "role " + d.Machine.Role
	}
	return "any role"
}

// Hardware is what a machine has told of itself, as anyone may see it.
func (s *Server) Hardware(mac string) (bootspec.Hardware, bool) {
	d, ok := s.machines.get(mac)
	return d.Hardware.Public(), ok
}

// cannotDiscover says why a site can't discover machines, if so.
func (s *Site) cannotDiscover(secure bool) error {
	switch {
	case !s.Discover:
	case s.Proxy:
		return errors.New("cannot discover machines beside another DHCP server: it gives them their addresses (unknownMachines: list, or serve without --proxy)")
	case !slices.ContainsFunc(s.subnets(), func(n Subnet) bool { return n.Pool != (Pool{}) }):
		return errors.New("cannot discover machines without provisioning.pool: they need addresses")
	case !secure:
		return errors.New("cannot discover machines without TLS: they tell their serial numbers")
	}
	return nil
}

// strangerAt is the MAC address of the machine outside the document that was last given an address; empty: none.
func (s *states) strangerAt(address netip.Addr) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, mac := range s.where[address.String()] {
		if s.byMAC[mac].Name == "" {
			return mac
		}
	}
	return ""
}
