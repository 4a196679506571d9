package endpoint

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/agent/vrrp"
)

func TestJudge(t *testing.T) {
	for lost, want := range map[int]vrrp.Fitness{0: vrrp.Fit, 1: vrrp.Fit, 2: vrrp.Doubtful, aloneAfter - 1: vrrp.Doubtful, aloneAfter: vrrp.Unfit, 1000: vrrp.Unfit} {
		if got := judge(true, lost); got != want {
			t.Errorf("%d lost: %v, want %v", lost, got, want)
		}
		if got := judge(false, lost); got != vrrp.Unfit {
			t.Errorf("%d lost and no ready server: %v", lost, got)
		}
	}
}

// standsBy is a line that says that a node is a backup, alone one that says that it reaches no majority.
func standsBy(l string) bool { return strings.Contains(l, "this node stands by") }

func alone(l string) bool { return strings.Contains(l, "reaches no majority") }

// cuttable is a rack of three with a client outside and the holder of the address.
func cuttable(t *testing.T) (r *rack, nodes map[string]*process, client *process, holder string) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is missing (Debian package nftables)")
	}
	t.Parallel()
	r = newRack(t)
	_, nodes = r.three()
	client = r.outside()
	holder = r.holder(machines...)
	client.await("an answer of the holder", 0, func(l string) bool { return l == holder })
	return r, nodes, client, holder
}

// moves cuts the holder off and wants another one to answer; when that has healed there must be one holder, whom clients know.
func moves(t *testing.T, cut func(r *rack, machine string)) {
	r, nodes, client, holder := cuttable(t)
	begin, mark := time.Now(), len(nodes[holder].output())
	cut(r, holder)
	client.await("an answer of another holder", len(client.output()), func(l string) bool { return slices.Contains(others(holder), l) })
	t.Logf("from the cut to an answered request: %v", time.Since(begin).Round(time.Millisecond))
	second := r.holder(others(holder)...)
	nodes[holder].await("its notice", mark, alone)
	r.mend(holder)
	nodes[holder].await("standing by", mark, standsBy)
	if got := r.holder(machines...); got != second {
		t.Errorf("the address went from %s to %s when the cut had healed", second, got)
	}
	stay(t, client, second)
}

// stay wants answers of one machine only, for longer than neighbours need to learn another one.
func stay(t *testing.T, client *process, holder string) {
	t.Helper()
	mark := len(client.output())
	for count := 0; count < 20; count++ {
		mark = 1 + client.await("an answer", mark, func(l string) bool { return slices.Contains(machines, l) })
		if got := client.output()[mark-1]; got != holder {
			t.Errorf("%s answers, and %s holds the address", got, holder)
		}
	}
}

// TestDeafHolder: a holder that no longer hears anybody, and whom others hear, leaves the address to them.
func TestDeafHolder(t *testing.T) { moves(t, (*rack).deaf) }

// TestMuteHolder: one that is no longer heard, and hears another take the address, knows that.
func TestMuteHolder(t *testing.T) { moves(t, (*rack).mute) }

// TestDeafBackup: a backup that no longer hears anybody doesn't think that nobody holds the address.
func TestDeafBackup(t *testing.T) {
	r, nodes, client, holder := cuttable(t)
	backup := others(holder)[0]
	mark := len(nodes[backup].output())
	r.deaf(backup)
	nodes[backup].await("its notice", mark, alone)
	stay(t, client, holder)
	r.mend(backup)
	nodes[backup].await("standing by", mark, standsBy)
	for _, l := range nodes[backup].output()[mark:] {
		if strings.Contains(l, "this node holds it") {
			t.Errorf("a backup that hears nobody took the address: %s", l)
		}
	}
	stay(t, client, holder)
}

// TestNobodyBetter: a holder that others don't hear and one without a ready server keep the address while nobody else can have it.
func TestNobodyBetter(t *testing.T) {
	r, nodes, client, holder := cuttable(t)
	mark := len(nodes[holder].output())
	for _, m := range others(holder) {
		r.in("sw", "link", "set", "port"+m, "down")
	}
	nodes[holder].await("its notice", mark, alone)
	nodes[holder].await("leaving it to others", mark, func(l string) bool { return strings.Contains(l, "leaves it to whoever") })
	stay(t, client, holder)
	for _, m := range others(holder) {
		r.in("sw", "link", "set", "port"+m, "up")
	}
	r.holder(machines...)

	marks := map[string]int{}
	for _, m := range machines {
		marks[m] = len(nodes[m].output())
		if err := os.WriteFile(filepath.Join(r.folder, m+".unready"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range machines {
		nodes[m].await("no ready server", marks[m], func(l string) bool { return l == "STATUS=0 of 3 API servers ready" })
	}
	stay(t, client, r.holder(machines...))
	for _, m := range machines {
		if err := os.Remove(filepath.Join(r.folder, m+".unready")); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range machines {
		nodes[m].await("three ready servers", marks[m], func(l string) bool { return l == "STATUS=3 of 3 API servers ready" })
	}
	r.holder(machines...)
}
