package netboot

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// TestClaimOnFullDisk: a claim that can't be kept isn't granted and changes nothing; with room again it is.
func TestClaimOnFullDisk(t *testing.T) {
	store := smallDisk(t)
	entries := newEntries(t, store)
	c := &claims{store: entries}
	claim := func(node string) error {
		return c.claim(node, Claimed{MAC: node, Key: "a", Serial: strings.Repeat("s", 3000)})
	}
	must(t, claim("first"))
	free := fill(t, store)
	failed, node := error(nil), ""
	for i := 0; failed == nil && i < 200; i++ { // the file has some room of its own
		node = fmt.Sprint("node-", i)
		failed = claim(node)
	}
	if failed == nil || !strings.Contains(failed.Error(), entriesFile) || !strings.Contains(failed.Error(), "no space left") {
		t.Fatalf("got %v", failed)
	}
	if record, before, err := readClaims(entries, node); err != nil || before != nil || record.Bound != nil {
		t.Errorf("what wasn't granted is kept: %+v, %v", record, err)
	}
	if record, _, err := readClaims(entries, "first"); err != nil || record.Bound == nil || record.Bound.Key != "a" {
		t.Errorf("what was granted is lost: %+v, %v", record, err)
	}
	free()
	must(t, claim(node))
	if record, _, err := readClaims(entries, node); err != nil || record.Bound == nil {
		t.Errorf("with room again: %+v, %v", record, err)
	}
}

// TestClockJumps: a clock that jumps by a year, forwards and back, while machines boot: nothing is lost, nothing lasts for ever, and a
// boot's steps stay in their order.
func TestClockJumps(t *testing.T) {
	clock := &clock{someTime()}
	s := newStates(t, lab(t))
	s.now = clock.now
	limit := &reportLimit{now: clock.now}
	for i, jump := range []time.Duration{0, 365 * 24 * time.Hour, -2 * 365 * 24 * time.Hour, 365 * 24 * time.Hour} {
		clock.at = clock.at.Add(jump)
		boot := fmt.Sprint("boot ", i)
		s.offered(cp1, "")
		for step, event := range []bootspec.Event{bootspec.EventAgentUp, bootspec.EventNetworkUp, bootspec.EventReady} {
			s.report(bootspec.Report{MAC: cp1, Boot: boot, Event: event, Uptime: bootspec.Millis(1000 * (step + 1))})
			clock.at = clock.at.Add(time.Second)
		}
		n := s.all()[0]
		got := ""
		for j, e := range n.Boot().Events {
			got += string(e.Event) + " "
			if j > 1 && e.Time.Before(n.Boot().Events[j-1].Time) {
				t.Errorf("jump %d: %s is before what came before it", i, e.Event)
			}
		}
		if n.State != "ready" || n.Boot().ID != boot || got != "offer agent up network up ready " || !n.Stuck(clock.at).IsZero() {
			t.Errorf("jump %d: %s, %s: %s", i, n.State, n.Boot().ID, got)
		}
		for range reportsPerMinute {
			if !limit.allow("cp-1") {
				t.Fatalf("jump %d: reports are refused", i)
			}
		}
		if limit.allow("cp-1") {
			t.Errorf("jump %d: reports aren't bounded", i)
		}
		clock.at = clock.at.Add(2 * time.Minute)
	}
}
