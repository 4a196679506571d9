package netboot

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
	"github.com/slipway-os/slipway/images/bootspec"
)

// TestStatesOfEarlierVersions: the node states of the file that earlier versions wrote are kept, and the file goes; also when a kill
// came after the entries were written and before the file went.
func TestStatesOfEarlierVersions(t *testing.T) {
	store := newStore(t, t.TempDir())
	const theirs = `[{"name":"cp-1","mac":"52:54:00:00:00:11","state":"ready","bootFrom":"disk","boots":[{"id":"a","events":[{"event":"ready","time":"2026-02-03T05:00:00Z"}]}]},{"mac":"nonsense"}]`
	for range 2 {
		must(t, store.create(nodesFile, []byte(theirs)))
		entries, err := store.entries()
		must(t, err)
		s, err := openStates(entries, lab(t), someTime, discard(), nil)
		must(t, err)
		if n := s.all()[0]; n.State != "ready" || n.BootFrom != FromDisk || n.Boot().ID != "a" {
			t.Errorf("got %+v", n)
		}
		if _, err := store.root.Stat(nodesFile); err == nil {
			t.Error("the old file is still there")
		}
		must(t, entries.Close())
	}
}

// TestStateEntries: each machine has an entry of its own; one that isn't known any more has none; one that can't be read is named.
func TestStateEntries(t *testing.T) {
	entries := newEntries(t, newStore(t, t.TempDir()))
	site := lab(t)
	site.ListUnknown = true
	open := func() *states {
		t.Helper()
		s, err := openStates(entries, site, someTime, discard(), nil)
		must(t, err)
		return s
	}
	keys := func() string {
		t.Helper()
		list, err := entries.List("")
		must(t, err)
		var keys []string
		for _, e := range list {
			keys = append(keys, e.Key)
		}
		return strings.Join(keys, " ")
	}
	s := open()
	s.offered(cp1, "")
	s.seen(stranger, "10.1.0.100", "not in the cluster document")
	must(t, s.save())
	if got := keys(); got != "node/"+cp1+" node/"+stranger {
		t.Errorf("kept are %s", got)
	}
	s.seen(worker1, "10.1.0.100", "the address is another's now")
	must(t, s.save())
	stored, err := readStates(entries)
	must(t, err)
	for _, n := range stored {
		if (n.Address == "10.1.0.100") != (n.MAC == worker1) {
			t.Errorf("%s is at %q", n.MAC, n.Address)
		}
	}
	site.ListUnknown = false
	must(t, open().save())
	if got := keys(); got != "node/"+cp1+" node/"+worker1 {
		t.Errorf("kept are %s", got)
	}
	must(t, kv.Commit(entries, kv.Put(stateKey+cp1, []byte("{"))))
	if _, err := openStates(entries, site, someTime, discard(), nil); err == nil || !strings.Contains(err.Error(), stateKey+cp1) {
		t.Errorf("got %v", err)
	}
}

// TestStatesAreBounded: whatever a machine reports, its entry can be kept, and its newest words are.
func TestStatesAreBounded(t *testing.T) {
	entries := newEntries(t, newStore(t, t.TempDir()))
	s, err := openStates(entries, lab(t), someTime, discard(), nil)
	must(t, err)
	for boot := range 2 * maxBoots {
		for i := range maxEvents - 4 {
			s.report(bootspec.Report{
				MAC: cp1, Boot: fmt.Sprint(boot), Event: bootspec.Event(fmt.Sprint("made up ", i)), Uptime: bootspec.Millis(i + 1),
				Detail: strings.Repeat("\"", 4096), Unit: strings.Repeat("u", 256),
			})
		}
		s.report(bootspec.Report{MAC: cp1, Boot: fmt.Sprint(boot), Event: bootspec.EventFailed, Uptime: 1e6, Log: strings.Repeat("<\"", 32<<10)})
	}
	must(t, s.save())
	list, err := entries.List(stateKey)
	must(t, err)
	var n NodeStatus
	must(t, json.Unmarshal(list[0].Value, &n))
	failed, _ := n.Boot().Find(bootspec.EventFailed)
	if len(list[0].Value) > kv.MaxValue/2 || n.Boot().ID != fmt.Sprint(2*maxBoots-1) || len(failed.Log) != 64<<10 {
		t.Errorf("%d bytes, boot %s, a log of %d", len(list[0].Value), n.Boot().ID, len(failed.Log))
	}
}

// readStates reads all entries.
func readStates(entries kv.Store) (out []NodeStatus, err error) {
	list, err := entries.List(stateKey)
	for _, e := range list {
		n, _, decoding := decodeState(e)
		out, err = append(out, n), errors.Join(err, decoding)
	}
	return out, err
}

// BenchmarkReports is reports a second of so many machines, each waited for until it is on disk, with the old way (one file of all
// machines, replaced whole) in the same run.
func BenchmarkReports(b *testing.B) {
	for _, machines := range []int{10, 1000} {
		for _, way := range []string{"file", "entries"} {
			b.Run(fmt.Sprintf("machines=%d/%s", machines, way), func(b *testing.B) { benchmarkReports(b, machines, way == "file") })
		}
	}
}

func benchmarkReports(b *testing.B, machines int, whole bool) {
	site := lab(b)
	site.Machines = nil
	mac := func(i int) string { return fmt.Sprintf("52:54:00:01:%02x:%02x", i>>8, i&255) }
	store, err := openStore(b.TempDir())
	must(b, err)
	defer store.close()
	entries, err := store.entries()
	must(b, err)
	defer entries.Close()
	if whole {
		entries = nil
	}
	site.ListUnknown = true
	s, err := openStates(entries, site, time.Now, discard(), nil)
	must(b, err)
	for i := range machines { // a boot of each, as they look after one
		for e := range 12 {
			s.report(bootspec.Report{MAC: mac(i), Boot: "a", Event: bootspec.Event(fmt.Sprint("event ", e)), Uptime: bootspec.Millis(e + 1), Detail: "eth0 10.1.0.21/24"})
		}
	}
	save := func() error { return s.save() }
	if whole {
		save = func() error { return writeWhole(store, s.all()) }
	}
	must(b, save())
	b.ResetTimer()
	for done := 0; done < b.N; { // as many as come while the disk is busy are written together: here 16
		for range min(16, b.N-done) {
			s.report(bootspec.Report{MAC: mac(done % machines), Boot: "b", Event: bootspec.Event(fmt.Sprint("event ", done/machines%12)), Uptime: 1})
			done++
		}
		must(b, save())
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reports/s")
}

// writeWhole is how node states were written before they had entries: beside, synced, renamed, the folder synced.
func writeWhole(s *store, all []NodeStatus) error {
	text, err := json.MarshalIndent(all, "", "  ")
	if err == nil {
		err = s.create(nodesFile+".new", text)
	}
	if err == nil {
		err = s.root.Rename(nodesFile+".new", nodesFile)
	}
	if err == nil {
		err = s.lock.Sync()
	}
	return err
}
