package rack

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/images/bootspec"
)

// nodeError is a failure that is one node's.
type nodeError struct {
	node string
	err  error
	log  string // the failing unit's own words
}

func (e *nodeError) Error() string { return e.node + ": " + e.err.Error() }
func (e *nodeError) Unwrap() error { return e.err }

// A failure that a node reports stands when nothing newer came for a while; until then the node may heal itself.
const healing = 60 * time.Second

// restarts is how often a machine may boot until that is a failure.
const restarts = 3

// watch follows all boots until every node is Ready.
func (r *rack) watch(ctx context.Context) ([]Timeline, error) {
	screen := newScreen(r.Out, r.Live)
	defer screen.close()
	lastSeen := map[string]progress{}
	for {
		timelines, err := r.timelines(ctx)
		if err != nil {
			return nil, err
		}
		screen.show(timelines)
		if !slices.ContainsFunc(timelines, func(t Timeline) bool { return !t.ready() }) {
			return timelines, nil
		}
		if err := r.judge(timelines, lastSeen, time.Now()); err != nil {
			screen.close()
			writeTimelines(r.Out, timelines)
			return timelines, err
		}
		select {
		case <-ctx.Done():
			screen.close()
			writeTimelines(r.Out, timelines)
			return timelines, slowest(timelines, context.Cause(ctx))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (r *rack) timelines(ctx context.Context) ([]Timeline, error) {
	list, err := r.nodes(ctx)
	if err != nil {
		return nil, err
	}
	byName := map[string]netboot.NodeStatus{}
	for _, n := range list {
		byName[n.Name] = n
	}
	var timelines []Timeline
	for _, m := range r.machines {
		timelines = append(timelines, timeline(m.node.Name, m.node.Role, m.started, byName[m.node.Name]))
	}
	return timelines, nil
}

// progress is how far a node had come when it was last looked at, and since when.
type progress struct {
	event bootspec.Event
	count int
	since time.Time
}

// judge says what is wrong with a boot, if something is.
func (r *rack) judge(timelines []Timeline, seen map[string]progress, now time.Time) error {
	for i, t := range timelines {
		if t.ready() {
			continue
		}
		last, count := t.last(), t.Boots*1000+len(t.Events)
		if seen[t.Node].count != count {
			seen[t.Node] = progress{event: last.Event, count: count, since: now}
		}
		waited := now.Sub(seen[t.Node].since)
		switch m := r.machines[i]; {
		case !m.running():
			return &nodeError{node: t.Node, err: r.ended(m)}
		case last.Event == bootspec.EventFailed && waited > healing:
			return &nodeError{node: t.Node, err: fmt.Errorf("the node reports: %s", last.Detail), log: last.Log}
		case t.Boots >= restarts:
			return &nodeError{node: t.Node, err: fmt.Errorf("it started %d times; the last boot came to %q %s%s", t.Boots, last.Event, last.Detail, panicked(m.serial))}
		case waited > r.stretched(netboot.Patience(last.Event)):
			return &nodeError{node: t.Node, err: fmt.Errorf("nothing happened for %.0f s after %q%s%s%s", waited.Seconds(), last.Event, panicked(m.serial), said(m.serial), r.others(timelines, t.Node))}
		}
	}
	return nil
}

// panicked is the kernel's last word in a serial log, if it panicked. A machine starts again after that, so it is no
// failure by itself.
func panicked(serial string) string {
	text, err := os.ReadFile(serial)
	if err != nil {
		return ""
	}
	_, words, found := bytes.Cut(text, []byte("Kernel panic - not syncing: "))
	if !found {
		return ""
	}
	words, _, _ = bytes.Cut(words, []byte("\n"))
	return "; its kernel panicked: " + plain(string(words))
}

// said is the newest line of the agent on a serial console: what the node waits for.
func said(serial string) string {
	lines := strings.Split(tail(serial, 1000), "\n")
	for _, line := range slices.Backward(lines) {
		if _, words, found := strings.Cut(line, "slipway: "); found {
			return "; it said: " + words
		}
	}
	return ""
}

// others is how far the other nodes had come: a node often waits for another one.
func (r *rack) others(timelines []Timeline, node string) string {
	text := ""
	for i, t := range timelines {
		if t.Node == node {
			continue
		}
		text += fmt.Sprintf("; %s came to %q", t.Node, t.last().Event)
		if t.Boots > 1 {
			text += fmt.Sprintf(" in its boot %d%s", t.Boots, panicked(r.machines[i].serial))
		}
	}
	return text
}

// slowest blames the node that is furthest from Ready for an end of the wait.
func slowest(timelines []Timeline, cause error) error {
	behind := timelines[0]
	for _, t := range timelines[1:] {
		if !t.ready() && (behind.ready() || len(t.Events) < len(behind.Events)) {
			behind = t
		}
	}
	return &nodeError{node: behind.Node, err: fmt.Errorf("it came to %q: %w", behind.last().Event, cause)}
}

func sortWaits(waits []Wait) {
	sort.SliceStable(waits, func(i, j int) bool { return waits[i].Seconds > waits[j].Seconds })
}

// explain prints what helps to find a failure's cause: the tails of the serial logs, the failed node's last, and the
// failing unit's words.
func (r *rack) explain(err error) {
	node := nodeOf(err)
	for _, m := range r.machines {
		if m.node.Name == node {
			continue
		}
		fmt.Fprintf(r.Out, "\n--- %s: the last lines of its serial console\n%s\n", m.node.Name, tail(m.serial, 60))
	}
	for _, m := range r.machines {
		if m.node.Name != node {
			continue
		}
		if e := asNodeError(err); e != nil && e.log != "" {
			fmt.Fprintf(r.Out, "\n--- %s: the failing unit's own words\n%s\n", m.node.Name, strings.TrimRight(e.log, "\n"))
		}
		fmt.Fprintf(r.Out, "\n--- %s: the last lines of its serial console\n%s\n", m.node.Name, tail(m.serial, 60))
	}
	if r.Logs != "" {
		fmt.Fprintf(r.Out, "\nWhole logs: %s\n", r.Logs)
	}
}
