package netboot

import (
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Bounds of what is kept.
const (
	maxBoots    = 5    // boots of one machine
	maxEvents   = 64   // events of one boot
	maxFailures = 16   // of these, failures
	maxUnknown  = 1024 // machines that aren't in the document
)

// unseen and seen are the states of a machine that hasn't booted from here yet.
const (
	unseen = "unseen"
	seen   = "seen"
)

// NodeStatus is what the server knows of one machine. It is what GET /v1/nodes answers.
type NodeStatus struct {
	Name     string    `json:"name,omitempty"` // empty: not in the cluster document
	Role     string    `json:"role,omitempty"`
	MAC      string    `json:"mac"`
	Address  string    `json:"address,omitempty"`
	State    string    `json:"state"` // "unseen", "seen" or the last event of the last boot
	LastSeen time.Time `json:"lastSeen,omitzero"`
	Last     string    `json:"last,omitempty"` // the last answer the server gave it, in words
	BootFrom BootFrom  `json:"bootFrom,omitempty"`
	// Hardware is what a machine has told of itself, in a line; empty: it was not discovered.
	Hardware string `json:"hardware,omitempty"`
	Claim    *Claim `json:"claim,omitempty"` // nil: its configuration was never claimed
	Boots    []Boot `json:"boots,omitempty"` // the newest last
}

// Claim is what anyone may know of the claims of a node's configuration: not what the machine showed.
type Claim struct {
	Armed bool      `json:"armed,omitempty"` // by an operator, for the next claim
	Last  time.Time `json:"last,omitzero"`
	From  string    `json:"from,omitempty"` // address of the last claimant
	// Refused counts claims that were refused since the node was armed last.
	Refused     int       `json:"refused,omitempty"`
	LastRefused time.Time `json:"lastRefused,omitzero"`
	RefusedFrom string    `json:"refusedFrom,omitempty"`
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
	Log    string         `json:"log,omitempty"` // only of a boot's newest failure
	// Kernel is the end of the kernel's log; only of the newest boot's newest failure, and not where all machines are told.
	Kernel string `json:"kernel,omitempty"`
	// Uptime is set for what the node has reported: Time is then the boot's Start and this.
	Uptime bootspec.Millis `json:"uptime,omitempty"`
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

// begin starts a new boot.
func (n *NodeStatus) begin() *Boot {
	for i := range n.Boots {
		for j := range n.Boots[i].Events {
			n.Boots[i].Events[j].Kernel = ""
		}
	}
	n.Boots = append(n.Boots, Boot{})
	n.Boots = n.Boots[max(0, len(n.Boots)-maxBoots):]
	return n.newest()
}

// newest is the newest boot; the first one is made.
func (n *NodeStatus) newest() *Boot {
	if len(n.Boots) == 0 {
		return n.begin()
	}
	return &n.Boots[len(n.Boots)-1]
}

// boot is the boot with an id. The newest one takes the id if it has none; else a new boot begins.
func (n *NodeStatus) boot(id string) *Boot {
	for i := range n.Boots {
		if n.Boots[i].ID == id {
			return &n.Boots[i]
		}
	}
	b := n.newest()
	if b.ID != "" {
		b = n.begin()
	}
	b.ID = id
	return b
}

// offered notes an offer to firmware: a boot begins, unless the newest one hasn't come further than its own offer.
func (n *NodeStatus) offered(r EventRecord) {
	if b := n.Boot(); len(b.Events) == 1 && b.Events[0].Event == bootspec.EventOffer {
		return
	}
	n.begin()
	n.add(n.newest(), r)
}

// report notes what a node reports at a time. The record's own time is reckoned from when the node's kernel started, so
// that reports which arrive late stand where they belong. The report that was fastest on its way tells best when that was.
func (n *NodeStatus) report(r bootspec.Report, now time.Time) {
	b := n.boot(r.Boot)
	if start := now.Add(-r.Uptime.Duration()); b.Start.IsZero() || start.Before(b.Start) {
		b.Start = start
		for i, e := range b.Events {
			if e.Uptime > 0 {
				b.Events[i].Time = start.Add(e.Uptime.Duration())
			}
		}
	}
	if _, told := b.Find(bootspec.EventInstalled); r.Event == bootspec.EventInstalled && !told {
		n.BootFrom = FromDisk
	}
	n.add(b, EventRecord{
		Event: r.Event, Time: b.Start.Add(r.Uptime.Duration()), Uptime: r.Uptime, Detail: r.Detail, Unit: r.Unit, Log: r.Log, Kernel: r.Kernel,
	})
}

// add appends to a boot. Of a repeated event the first stays, but failures and what heals them are all kept, as far as
// the bounds allow.
func (n *NodeStatus) add(b *Boot, r EventRecord) {
	if b == n.newest() {
		n.State = string(r.Event)
	}
	failure := r.Event == bootspec.EventFailed
	_, had := b.Find(r.Event)
	if _, failed := b.Find(bootspec.EventFailed); had && !failed {
		return
	}
	if failure {
		b.makeRoomForFailure()
	}
	for len(b.Events) >= maxEvents {
		oldest := b.repeated()
		if oldest < 0 {
			return
		}
		b.Events = append(b.Events[:oldest], b.Events[oldest+1:]...)
	}
	b.Events = append(b.Events, r)
}

// makeRoomForFailure drops the oldest failure but the first, if there are too many, and the logs of all.
func (b *Boot) makeRoomForFailure() {
	count, second := 0, -1
	for i := range b.Events {
		if b.Events[i].Event != bootspec.EventFailed {
			continue
		}
		b.Events[i].Log, b.Events[i].Kernel = "", ""
		if count++; count == 2 {
			second = i
		}
	}
	if count >= maxFailures {
		b.Events = append(b.Events[:second], b.Events[second+1:]...)
	}
}

// repeated is the oldest record of an event that came before in the boot; -1: there is none.
func (b *Boot) repeated() int {
	had := map[bootspec.Event]bool{}
	for i, r := range b.Events {
		if had[r.Event] {
			return i
		}
		had[r.Event] = true
	}
	return -1
}

func (n *NodeStatus) clone() NodeStatus {
	c := *n
	if n.Claim != nil {
		claim := *n.Claim
		c.Claim = &claim
	}
	c.Boots = make([]Boot, len(n.Boots))
	for i, b := range n.Boots {
		c.Boots[i] = b
		c.Boots[i].Events = append([]EventRecord(nil), b.Events...)
	}
	return c
}
