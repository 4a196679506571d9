package dashboard

import (
	"fmt"
	"strings"
	"time"

	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/images/bootspec"
)

// view is what the page shows.
type view struct {
	Cluster  string
	Warnings []string
	Time     string
	Counts   []count
	Rates    []string
	Machines []machine // of the document
	Unknown  []machine
}

// count is how many machines of the document are in a kind of state.
type count struct {
	Kind  string // ready, busy, stuck, failed or idle
	Label string
	N     int
}

type machine struct {
	Name, Role, MAC, Address string
	State                    string
	Kind                     string // as count's
	Note                     string // the newest thing known
	BootFrom                 string
	Seen                     string
	For                      string // how long it is in its state
	Stages                   []stage
	Total                    string    // of the stages
	Unit, Reason, Log        string    // of the newest failure, while it fails
	Kernel                   string    // the end of its kernel's log, likewise
	Hardware                 *hardware // nil: it was not discovered
}

// stage is a step of a boot.
type stage struct {
	Name    string
	Seconds string
	Share   int // of the boot, in thousandths, at least 1
	Failed  bool
}

// kinds of states, in the order of the summary.
var kinds = [...]count{{Kind: "ready", Label: "Ready"}, {Kind: "busy", Label: "booting"}, {Kind: "stuck", Label: "stuck"}, {Kind: "failed", Label: "failed"}, {Kind: "idle", Label: "not seen booting"}}

func makeView(cluster string, nodes []netboot.NodeStatus, r Rates, now time.Time) view {
	v := view{Cluster: cluster, Time: now.UTC().Format("2006-01-02 15:04:05 UTC"), Counts: append([]count(nil), kinds[:]...)}
	v.Rates = []string{fmt.Sprintf("%.1f DHCP answers/s", r.Answers), "HTTP " + speed(r.HTTPBytes), "TFTP " + speed(r.TFTPBytes)}
	for i := range nodes {
		m := makeMachine(&nodes[i], now)
		if m.Name == "" {
			v.Unknown = append(v.Unknown, m)
			continue
		}
		v.Machines = append(v.Machines, m)
		for j := range v.Counts {
			if v.Counts[j].Kind == m.Kind {
				v.Counts[j].N++
			}
		}
	}
	return v
}

func makeMachine(n *netboot.NodeStatus, now time.Time) machine {
	m := machine{Name: n.Name, Role: n.Role, MAC: n.MAC, Address: n.Address, State: n.Word(), Kind: kind(n, now), Note: n.Last, Seen: "never"}
	if n.Name != "" {
		m.BootFrom = n.BootFrom.String()
	}
	if !n.LastSeen.IsZero() {
		m.Seen = ago(now.Sub(n.LastSeen))
	}
	if since := n.Since(); !since.IsZero() {
		m.For = duration(max(0, now.Sub(since)))
	}
	boot := n.Boot()
	m.Stages, m.Total = stages(boot)
	if len(boot.Events) == 0 {
		return m
	}
	last := boot.Events[len(boot.Events)-1]
	m.Note = last.Detail
	if n.State == string(bootspec.EventFailed) {
		m.Reason, m.Log, m.Kernel = last.Detail, last.Log, last.Kernel
		if !strings.Contains(last.Detail, last.Unit) {
			m.Unit = last.Unit
		}
	}
	return m
}

// kind is the kind of a machine's state.
func kind(n *netboot.NodeStatus, now time.Time) string {
	switch {
	case n.State == string(bootspec.EventReady):
		return "ready"
	case n.State == string(bootspec.EventFailed):
		return "failed"
	case !n.Stuck(now).IsZero():
		return "stuck"
	case len(n.Boots) == 0:
		return "idle"
	}
	return "busy"
}

// stages are the times between a boot's events.
func stages(b netboot.Boot) (list []stage, total string) {
	if len(b.Events) < 2 {
		return nil, ""
	}
	whole := b.Events[len(b.Events)-1].Time.Sub(b.Events[0].Time)
	for i := 1; i < len(b.Events); i++ {
		took := max(0, b.Events[i].Time.Sub(b.Events[i-1].Time))
		share := 1
		if whole > 0 {
			share = max(1, int(1000*took/whole))
		}
		list = append(list, stage{string(b.Events[i].Event), duration(took), share, b.Events[i].Event == bootspec.EventFailed})
	}
	return list, duration(whole)
}

// speed is bytes a second for people.
func speed(bytes float64) string {
	switch {
	case bytes >= 1e6:
		return fmt.Sprintf("%.1f MB/s", bytes/1e6)
	case bytes >= 1e3:
		return fmt.Sprintf("%.0f kB/s", bytes/1e3)
	}
	return fmt.Sprintf("%.0f B/s", bytes)
}

// ago is how long something is past, roughly.
func ago(d time.Duration) string { return duration(max(0, d)) + " ago" }

// duration is one for people: 12.3 s, 4 min 5 s, 3 h, 2 days.
func duration(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", d.Seconds()), ".0") + " s"
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
