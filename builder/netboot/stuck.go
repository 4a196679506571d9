package netboot

import (
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Patience is how long a machine may take from one event of its boot to the next. It is generous: emulated machines and slow
// firmware keep to it too.
func Patience(from bootspec.Event) time.Duration {
	switch from {
	case bootspec.EventPowerOn, bootspec.EventOffer, bootspec.EventKernelSent:
		return 4 * time.Minute
	case bootspec.EventNetworkUp: // all of Kubernetes starts for the first time
		return 15 * time.Minute
	case bootspec.EventInstalling: // writing and reading back a slow disk
		return 30 * time.Minute
	case bootspec.EventUnitsStarted, bootspec.EventProvisioned:
		return 8 * time.Minute
	default:
		return 5 * time.Minute
	}
}

// stateWords are the states for people where they aren't the events' own.
var stateWords = map[bootspec.Event]string{
	bootspec.EventOffer: "offered", bootspec.EventKernelSent: "loading", bootspec.EventConfigClaimed: "claimed", bootspec.EventInstalled: "booting local",
	bootspec.EventReady: "Ready",
}

// Word is the state for people: unseen, seen, offered, loading, agent up, root loaded, claimed, installing, booting local, provisioned,
// network up, units started, Ready, failed, discovered.
func (n *NodeStatus) Word() string {
	event := bootspec.Event(n.State)
	if event == bootspec.EventOffer && n.BootFrom == FromDisk {
		return stateWords[bootspec.EventInstalled] // its firmware was sent to its disk
	}
	if word, ok := stateWords[event]; ok {
		return word
	}
	return n.State
}

// Since is when the machine came into its state, as far as a boot tells; zero: it doesn't.
func (n *NodeStatus) Since() time.Time {
	events := n.Boot().Events
	for i := len(events) - 1; i >= 0; i-- {
		if string(events[i].Event) == n.State {
			return events[i].Time
		}
	}
	return time.Time{}
}

// Stuck says since when a machine is in a state that it should have left by now; zero: it isn't stuck. Ready and failed are
// states to stay in.
func (n *NodeStatus) Stuck(now time.Time) time.Time {
	event, since := bootspec.Event(n.State), n.Since()
	switch {
	case since.IsZero(), event == bootspec.EventReady, event == bootspec.EventFailed, event == bootspec.EventDiscovered:
		return time.Time{}
	case now.Sub(since) > Patience(event):
		return since
	}
	return time.Time{}
}
