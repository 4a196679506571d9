package rack

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/images/bootspec"
)

// steps are the events of a boot that the rehearsal waits for, in their order.
var steps = [...]bootspec.Event{
	bootspec.EventPowerOn, bootspec.EventOffer, bootspec.EventKernelSent, bootspec.EventAgentUp, bootspec.EventRootLoaded,
	bootspec.EventConfigClaimed, bootspec.EventProvisioned, bootspec.EventNetworkUp, bootspec.EventUnitsStarted, bootspec.EventReady,
}

// Timeline is one node's boot: when each of its events happened.
type Timeline struct {
	Node   string  `json:"node"`
	Role   string  `json:"role"`
	Boots  int     `json:"boots"` // since power on; more than one: it started again
	Events []Event `json:"events"`
}

// Event is a step of a boot.
type Event struct {
	Event   bootspec.Event `json:"event"`
	Seconds float64        `json:"seconds"` // since power on
	Detail  string         `json:"detail,omitempty"`
	Log     string         `json:"log,omitempty"`
}

// timeline is what the server knows of a node's newest boot, told from power on.
func timeline(name, role string, on time.Time, status netboot.NodeStatus) Timeline {
	t := Timeline{Node: name, Role: role, Boots: len(status.Boots), Events: []Event{{Event: bootspec.EventPowerOn}}}
	boot := status.Boot()
	for _, e := range boot.Events {
		t.Events = append(t.Events, Event{Event: e.Event, Seconds: e.Time.Sub(on).Seconds(), Detail: detail(e), Log: e.Log})
	}
	return t
}

func detail(e netboot.EventRecord) string {
	if e.Unit == "" || strings.Contains(e.Detail, e.Unit) {
		return e.Detail
	}
	return e.Unit + ": " + e.Detail
}

// at is the second of an event.
func (t Timeline) at(event bootspec.Event) (float64, bool) {
	for _, e := range t.Events {
		if e.Event == event {
			return e.Seconds, true
		}
	}
	return 0, false
}

// last is the newest event.
func (t Timeline) last() Event { return t.Events[len(t.Events)-1] }

// ready tells whether the node's boot is done.
func (t Timeline) ready() bool { _, ok := t.at(bootspec.EventReady); return ok }

// writeTimelines prints the table that people read: a line per node, a column per step, seconds since power on.
func writeTimelines(w io.Writer, timelines []Timeline) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "seconds")
	for _, s := range steps {
		fmt.Fprintf(table, "\t%s", s)
	}
	fmt.Fprintln(table, "\t")
	for _, t := range timelines {
		fmt.Fprint(table, t.Node)
		for _, s := range steps {
			if seconds, ok := t.at(s); ok {
				fmt.Fprintf(table, "\t%.1f", seconds)
			} else {
				fmt.Fprint(table, "\t-")
			}
		}
		fmt.Fprintln(table, "\t")
	}
	table.Flush()
}

// Wait is the time between two steps of a boot.
type Wait struct {
	Node     string
	From, To bootspec.Event
	Seconds  float64
}

// longest are the n longest waits of all boots, longest first: where the time went.
func longest(timelines []Timeline, n int) []Wait {
	var waits []Wait
	for _, t := range timelines {
		previous := Event{Event: bootspec.EventPowerOn}
		for _, s := range steps[1:] {
			at, ok := t.at(s)
			if !ok {
				continue
			}
			waits = append(waits, Wait{Node: t.Node, From: previous.Event, To: s, Seconds: at - previous.Seconds})
			previous = Event{Event: s, Seconds: at}
		}
	}
	sortWaits(waits)
	return waits[:min(n, len(waits))]
}
