package netboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

const cp1 = "52:54:00:00:00:11"

// newStore is a store in a folder of the test's own.
func newStore(t *testing.T, dir string) *store {
	t.Helper()
	s, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// smallDisk is a store on a file system of 256 KiB, in a mount namespace that nobody else sees.
func smallDisk(t *testing.T) *store {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	dir := t.TempDir()
	var s *store
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread and its namespace end here, the open store stays
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"))
		}
		if err == nil {
			s, err = openStore(dir)
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// fill writes until the disk is full and returns what frees it again.
func fill(t *testing.T, s *store) (free func()) {
	t.Helper()
	err := s.create("ballast", make([]byte, 1<<20))
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk isn't full: %v", err)
	}
	return func() {
		if err := s.root.Remove("ballast"); err != nil {
			t.Fatal(err)
		}
	}
}

// clock is a clock that the test moves.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

// play gives a machine's status a list of steps and says its boots in words, times in seconds since the first step:
// "offer", "sent", "BOOT EVENT UPTIME" for a report, "+N" for N seconds passing.
func play(t *testing.T, s *states, c *clock, steps string) string {
	t.Helper()
	begin := c.at
	for step := range strings.SplitSeq(steps, ", ") {
		fields := strings.Fields(step)
		switch {
		case strings.HasPrefix(step, "+"):
			seconds, err := time.ParseDuration(step[1:] + "s")
			if err != nil {
				t.Fatal(err)
			}
			c.at = c.at.Add(seconds)
		case step == "offer":
			s.offered(cp1, "")
		case step == "sent":
			s.record(cp1, bootspec.EventKernelSent, "")
		case len(fields) == 3:
			uptime, err := time.ParseDuration(fields[2] + "s")
			if err != nil {
				t.Fatal(err)
			}
			s.report(bootspec.Report{MAC: cp1, Boot: fields[0], Event: bootspec.Event(fields[1]), Uptime: bootspec.Millis(uptime.Milliseconds()), Log: "its words"})
		default:
			t.Fatalf("%q is no step", step)
		}
	}
	return timeline(s.all()[0], begin)
}

func timeline(n NodeStatus, begin time.Time) string {
	var lines []string
	for _, b := range n.Boots {
		line := "boot " + b.ID + ":"
		for _, e := range b.Events {
			line += fmt.Sprintf(" %s@%g", strings.ReplaceAll(string(e.Event), " ", "-"), e.Time.Sub(begin).Seconds())
		}
		lines = append(lines, line)
	}
	return strings.Join(append(lines, "now "+n.State), "\n")
}

func TestBoots(t *testing.T) {
	for _, c := range []struct{ name, steps, want string }{
		{
			"one boot, and firmware that asks several times",
			"offer, +1, offer, +3, sent, +5, a agent-up 4, +20, a ready 24",
			"boot a: offer@0 kernel-sent@4 agent-up@9 ready@29\nnow ready",
		},
		{
			"power on again",
			"offer, sent, a ready 3, +60, offer, +1, sent, +2, b agent-up 1",
			"boot a: offer@0 kernel-sent@0 ready@0\nboot b: offer@60 kernel-sent@61 agent-up@63\nnow agent-up",
		},
		{
			"the machine starts again before it ever reports",
			"offer, sent, +30, offer, sent, +9, a agent-up 5",
			"boot : offer@0 kernel-sent@0\nboot a: offer@30 kernel-sent@30 agent-up@39\nnow agent-up",
		},
		{
			"reports that come late stand where they belong",
			"offer, sent, +10, a agent-up 5, +90, a root-loaded 6, a ready 60",
			"boot a: offer@0 kernel-sent@0 agent-up@10 root-loaded@11 ready@65\nnow ready",
		},
		{
			"the first report was held up: a later one tells when the kernel started",
			"offer, sent, +30, a agent-up 5, +1, a root-loaded 21, +1, a ready 22",
			"boot a: offer@0 kernel-sent@0 agent-up@15 root-loaded@31 ready@32\nnow ready",
		},
		{
			"a report that was sent again counts once",
			"offer, +9, a agent-up 5, +1, a agent-up 5, +1, a agent-up 6",
			"boot a: offer@0 agent-up@9\nnow agent-up",
		},
		{
			"a straggler of an earlier boot doesn't become the newest boot's",
			"offer, a agent-up 5, +60, offer, +1, a ready 66, +1, b agent-up 1",
			"boot a: offer@0 agent-up@0 ready@61\nboot b: offer@60 agent-up@62\nnow agent-up",
		},
		{
			"a node that nobody offered anything: it boots from its disk",
			"a agent-up 5, b agent-up 5",
			"boot a: agent-up@0\nboot b: agent-up@0\nnow agent-up",
		},
		{
			"failures and what heals them are kept",
			"offer, a ready 1, +9, a failed 10, +9, a ready 19, +9, a failed 28",
			"boot a: offer@0 ready@0 failed@9 ready@18 failed@27\nnow failed",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := &clock{someTime()}
			s := newStates(t, lab(t))
			s.now = clock.now
			if got := play(t, s, clock, c.steps); got != c.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, c.want)
			}
		})
	}
}

// TestBootsAreBounded: a node that fails for days neither fills memory nor hides that it's Ready in the end.
func TestBootsAreBounded(t *testing.T) {
	clock := &clock{someTime()}
	s := newStates(t, lab(t))
	s.now = clock.now
	for i := range 2 * maxBoots {
		play(t, s, clock, fmt.Sprintf("offer, b%d agent-up 1, +60", i))
	}
	for i := range 500 {
		play(t, s, clock, fmt.Sprintf("b9 failed %d, b9 units-started %d", i, i))
	}
	play(t, s, clock, "b9 ready 700")
	n := s.all()[0]
	b := n.Boot()
	if len(n.Boots) != maxBoots || b.ID != "b9" || len(b.Events) > maxEvents {
		t.Errorf("%d boots, %d events in %s", len(n.Boots), len(b.Events), b.ID)
	}
	if _, ready := b.Find(bootspec.EventReady); !ready || b.Events[0].Event != bootspec.EventOffer {
		t.Errorf("the first or the last event is lost: %s", timeline(n, clock.at))
	}
	logs := 0
	for _, e := range b.Events {
		if e.Event == bootspec.EventFailed && e.Log != "" {
			logs++
		}
	}
	if logs != 1 {
		t.Errorf("%d failures have their log, want the newest only", logs)
	}
	for i := range 2 * maxEvents {
		s.report(bootspec.Report{MAC: cp1, Boot: "b9", Event: bootspec.Event(fmt.Sprint("made up ", i))})
	}
	if got := len(s.all()[0].Boot().Events); got != maxEvents {
		t.Errorf("%d events", got)
	}
}

// TestUnknownMachinesAreBounded: a flood of MAC addresses drives out the oldest, never a node.
func TestUnknownMachinesAreBounded(t *testing.T) {
	site := lab(t)
	site.ListUnknown = true
	clock := &clock{someTime()}
	s := newStates(t, site)
	s.now = clock.now
	for i := range 2 * maxUnknown {
		clock.at = clock.at.Add(time.Second)
		s.seen(fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255), "", "not in the cluster document")
	}
	all := s.all()
	if unknown := len(all) - len(site.Machines); unknown > maxUnknown || unknown < maxUnknown-maxUnknown/8 || all[0].Name != "cp-1" || all[1].Name != "worker-1" {
		t.Fatalf("%d machines, first %s, %s", len(all), all[0].Name, all[1].Name)
	}
	if first, last := all[2].MAC, all[len(all)-1].MAC; first < "02:00:00:00:04:00" || last != "02:00:00:00:07:ff" {
		t.Errorf("those that are left are %s to %s", first, last)
	}
}

// TestStatesOutliveTheServer: what was known is known after a restart, and a boot in the middle goes on; so does a
// document that has changed meanwhile.
func TestStatesOutliveTheServer(t *testing.T) {
	dir, site, clock := t.TempDir(), lab(t), &clock{someTime()}
	site.ListUnknown = true
	run := func(work func(*states)) {
		store, err := openStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer store.close()
		entries, err := store.entries()
		must(t, err)
		defer entries.Close()
		s, err := openStates(entries, site, clock.now, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		kept := make(chan struct{})
		go func() { s.keep(ctx); close(kept) }()
		work(s)
		stop()
		<-kept
	}
	run(func(s *states) {
		play(t, s, clock, "offer, +4, sent")
		s.seen("02:00:00:00:00:07", "", "not in the cluster document")
	})
	site.Machines[1].Name = "worker-renamed"
	clock.at = clock.at.Add(6 * time.Second)
	run(func(s *states) {
		play(t, s, clock, "a agent-up 5, +1, a ready 6")
		want := "boot a: offer@0 kernel-sent@4 agent-up@10 ready@11\nnow ready"
		if got := timeline(s.all()[0], someTime()); got != want {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
		names := ""
		for _, n := range s.all() {
			names += fmt.Sprintf("%s %s %s; ", n.Name, n.MAC, n.State)
		}
		if names != "cp-1 52:54:00:00:00:11 ready; worker-renamed 52:54:00:00:00:21 unseen;  02:00:00:00:00:07 seen; " {
			t.Error(names)
		}
	})
	entries, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(entries) != 1 || filepath.Base(entries[0]) != entriesFile {
		t.Errorf("left in the state folder: %v, %v", entries, err)
	}
}

// TestSettled: what is acknowledged is on disk; with a full disk the server goes on, says so once, and catches up.
func TestSettled(t *testing.T) {
	store := smallDisk(t)
	var log bytes.Buffer
	entries := newEntries(t, store)
	s, err := openStates(entries, lab(t), someTime, slog.New(slog.NewTextHandler(&log, nil)), nil)
	if err != nil {
		t.Fatal(err)
	}
	onDisk := func() string {
		all, err := readStates(entries)
		must(t, err)
		return all[0].State
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	kept := make(chan struct{})
	go func() { s.keep(ctx); close(kept) }()
	report := func(event bootspec.Event) {
		s.report(bootspec.Report{MAC: cp1, Boot: "a", Event: event, Log: strings.Repeat("last words ", 1000)})
		s.settled(ctx)
	}
	report(bootspec.EventAgentUp)
	if got := onDisk(); got != "agent up" {
		t.Errorf("acknowledged, but on disk is %q", got)
	}
	free := fill(t, store)
	report(bootspec.EventRootLoaded)
	report(bootspec.EventNetworkUp)
	if got := s.all()[0].State + ", on disk " + onDisk(); got != "network up, on disk agent up" {
		t.Error(got)
	}
	free()
	report(bootspec.EventReady)
	if got := onDisk(); got != "ready" {
		t.Errorf("there's room again, but on disk is %q", got)
	}
	stop()
	<-kept
	if text := log.String(); strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, "no space left on device") || strings.Count(text, "kept on disk again") != 1 {
		t.Errorf("log:\n%s", text)
	}
}

// TestStoreFaults: what's wrong with the state folder is said, with the file and what to do.
func TestStoreFaults(t *testing.T) {
	dir := t.TempDir()
	store := newStore(t, dir)
	open := func() (err error) {
		entries, err := store.entries()
		if err == nil {
			_, err = openStates(entries, lab(t), someTime, nil, nil)
			err = errors.Join(err, entries.Close())
		}
		return err
	}
	check := func(err error, want ...string) {
		t.Helper()
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("got %v, want: %s", err, w)
			}
		}
	}
	for _, name := range []string{nodesFile, leasesFile} {
		for _, content := range []string{"", "[{\"mac\":", "{}", "[] []", "\x00\x00\x00"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			check(open(), "cannot read "+filepath.Join(dir, name), "remove it")
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := open(); err != nil {
		t.Error(err)
	}
	_, err := openStore(dir)
	check(err, "another boot server uses the folder")
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = openStore(file)
	check(err, "cannot keep states", file)
}

// TestStuck: a machine that stays in a state longer than any machine takes is stuck since then; one that is Ready, has failed
// or was never seen booting is not.
func TestStuck(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		state bootspec.Event
		after time.Duration
		stuck bool
	}{
		{bootspec.EventKernelSent, 3 * time.Minute, false},
		{bootspec.EventKernelSent, 5 * time.Minute, true},
		{bootspec.EventInstalling, 20 * time.Minute, false},
		{bootspec.EventInstalling, time.Hour, true},
		{bootspec.EventReady, 1000 * time.Hour, false},
		{bootspec.EventFailed, 1000 * time.Hour, false},
		{"unseen", 1000 * time.Hour, false},
	} {
		n := NodeStatus{State: string(c.state)}
		if c.state != "unseen" {
			n.Boots = []Boot{{Events: []EventRecord{{Event: bootspec.EventOffer, Time: start.Add(-time.Minute)}, {Event: c.state, Time: start}}}}
		}
		want := time.Time{}
		if c.stuck {
			want = start
		}
		if got := n.Stuck(start.Add(c.after)); !got.Equal(want) {
			t.Errorf("%s for %s: stuck since %v, not %v", c.state, c.after, got, want)
		}
	}
}
