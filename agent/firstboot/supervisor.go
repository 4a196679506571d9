package firstboot

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/slipway-os/slipway/agent/units"
	"github.com/slipway-os/slipway/images/bootspec"
)

// unitManager is what is needed of systemd (units.Manager). Calls may be made at the same time.
type unitManager interface {
	Start(ctx context.Context, unit string) error
	Restart(ctx context.Context, unit string) error
	Members(ctx context.Context, target string) ([]string, error)
	States(ctx context.Context, names []string) ([]units.State, error)
}

// reporter takes events (status.Sender); it never blocks.
type reporter interface {
	Report(event bootspec.Event, detail string)
	Fail(detail, unit string, words []byte)
}

// nodeAsker asks Kubernetes for the node's Ready condition. An error means that nobody knows.
type nodeAsker interface {
	Ready(ctx context.Context) (condition, error)
}

// supervisor starts the role's target and follows its units and the node.
type supervisor struct {
	target string
	units  unitManager
	words  func(ctx context.Context, unit string) ([]byte, error)
	kube   nodeAsker
	sender reporter
	log    *slog.Logger
	notify func(state string) // to systemd
	good   func()             // called once when the units are started; may be nil
	tick   time.Duration      // how often is looked
	steady time.Duration      // how long all units must be fine after a failure
	rejoin time.Duration      // how long a kubelet may run without a node object

	started bool
	failing string    // what was reported as failing; empty: nothing
	fine    time.Time // since when all units are fine after that
	ready   bool      // what was reported last
	spoken  time.Time
	waits   int       // progress lines about units on their way
	missing time.Time // since when the kubelet runs and there is no node object
}

// kubelet is the unit that registers the node.
const kubelet = "kubelet.service"

// Intervals of progress lines, and between attempts to start a target that failed.
const (
	speakEvery   = 15 * time.Second
	startAgain   = 10 * time.Second
	quietWaits   = 8 // progress lines about waiting before they tell what the units said, and come more rarely
	speakRarely  = time.Minute
	maxLastLine  = 300 // bytes
	askLimit     = 10 * time.Second
	asksPerCheck = 5 // the API server is asked at every so many looks, of a node that is started and not Ready at each
)

// run ends only with ctx, or when systemd can't be asked any more.
func (s *supervisor) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := make(chan struct{})
	go s.start(ctx, started)
	ticker := time.NewTicker(s.tick)
	defer ticker.Stop()
	for looks := 0; ; looks++ {
		select {
		case <-ctx.Done():
			return nil
		case <-started:
			started = nil
			s.started = true
			s.notify("READY=1\nSTATUS=" + s.target + " is active")
			s.log.Info("units are started", "target", s.target)
			s.sender.Report(bootspec.EventUnitsStarted, s.target)
			if s.good != nil {
				go s.good()
			}
		case <-ticker.C:
		}
		s.notify("WATCHDOG=1")
		fine, err := s.look(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if fine && (s.started && !s.ready || looks%asksPerCheck == 0) {
			s.ask(ctx)
		}
	}
}

// start starts the target until systemd says done, then closes done. Its failing units are look's affair.
func (s *supervisor) start(ctx context.Context, done chan<- struct{}) {
	for {
		err := s.units.Start(ctx, s.target)
		if err == nil {
			close(done)
			return
		}
		if ctx.Err() != nil {
			return
		}
		s.log.Warn("target didn't start, trying again", "cause", err)
		var job *units.JobError
		if !errors.As(err, &job) { // there is no failing unit that look could find: the target itself is wrong
			s.sender.Fail(err.Error(), s.target, nil)
		}
		select {
		case <-time.After(startAgain):
		case <-ctx.Done():
			return
		}
	}
}

// look compares the units with what was reported. It says if none is failing.
func (s *supervisor) look(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	members, err := s.units.Members(ctx, s.target)
	if err != nil {
		return false, err
	}
	states, err := s.units.States(ctx, members)
	if err != nil {
		return false, err
	}
	for _, u := range states {
		if u.Failing() {
			s.fine = time.Time{}
			if s.failing != u.Name {
				s.fail(ctx, u)
			}
			return false, nil
		}
	}
	if !s.recovered() {
		return false, nil
	}
	if !s.started {
		s.wait(ctx, states)
	}
	return true, nil
}

// recovered says that no unit fails, and none did a moment ago: one that is started again and again is active in between.
func (s *supervisor) recovered() bool {
	if s.failing == "" {
		return true
	}
	if s.fine.IsZero() {
		s.fine = time.Now()
	}
	if time.Since(s.fine) < s.steady {
		return false
	}
	s.log.Info("unit is fine again", "unit", s.failing)
	s.failing = ""
	s.ready = false // asked and reported again
	return true
}

// wait tells which units are on their way, and, if that takes long, what each of them said last: nobody can log in to a
// node that isn't up, so its console must say why.
func (s *supervisor) wait(ctx context.Context, states []units.State) {
	if !s.due() {
		return
	}
	s.waits++
	text := ""
	for _, u := range states {
		if u.Active == "active" {
			continue
		}
		text += " " + u.String()
		if s.waits > quietWaits && u.Active == "activating" {
			text += s.lastLine(ctx, u.Name)
		}
	}
	if text == "" {
		text = " none"
	}
	s.say("waiting for units:" + text)
}

// lastLine is the last thing a unit said, to be added to a line about it.
func (s *supervisor) lastLine(ctx context.Context, unit string) string {
	words, err := s.words(ctx, unit)
	if err != nil {
		return ": " + err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(words)), "\n")
	last := lines[len(lines)-1]
	if last == "" {
		return ": it said nothing"
	}
	return ": " + last[:min(len(last), maxLastLine)]
}

// fail reports a unit with its own words.
func (s *supervisor) fail(ctx context.Context, u units.State) {
	s.failing = u.Name
	words, err := s.words(ctx, u.Name)
	if err != nil {
		s.log.Warn(err.Error())
	}
	s.log.Error("unit fails", "unit", u.String())
	s.notify("STATUS=unit fails: " + u.Name)
	s.sender.Fail("unit fails: "+u.String(), u.Name, words)
}

// ask asks Kubernetes and reports what changed. Before the units are started it only looks whether the node is known.
func (s *supervisor) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	node, err := s.kube.Ready(ctx)
	if err == nil {
		s.joinAgain(ctx, node.Registered)
	}
	switch {
	case !s.started:
	case err != nil:
		if !s.ready {
			s.speak("node is not known to be Ready yet: " + err.Error())
		}
	case node.Ready && !s.ready:
		s.ready = true
		s.log.Info("node is Ready")
		s.notify("STATUS=node is Ready")
		s.sender.Report(bootspec.EventReady, "")
	case !node.Ready && s.ready:
		s.ready = false
		s.log.Error("node is no longer Ready", "cause", node.Why)
		s.notify("STATUS=node is not Ready")
		s.sender.Fail("node is no longer Ready: "+node.Why, "", nil)
	case !node.Ready:
		s.speak("node is not Ready yet: " + node.Why)
	}
}

// joinAgain restarts a kubelet that has run for a while without a node object. A kubelet registers its node once: when
// the control plane has lost it since (one without disks that started again, a `kubectl delete node`), the kubelet would
// wait for it for ever, and flanneld with it.
func (s *supervisor) joinAgain(ctx context.Context, registered bool) {
	if registered || !s.kubeletRuns(ctx) {
		s.missing = time.Time{}
		return
	}
	if s.missing.IsZero() {
		s.missing = time.Now()
	}
	if time.Since(s.missing) < s.rejoin {
		return
	}
	s.missing = time.Time{}
	s.log.Warn("the API server knows no node of this name: restarting the kubelet, which registers it")
	if err := s.units.Restart(ctx, kubelet); err != nil && ctx.Err() == nil {
		s.log.Warn(err.Error())
	}
}

func (s *supervisor) kubeletRuns(ctx context.Context) bool {
	states, err := s.units.States(ctx, []string{kubelet})
	return err == nil && len(states) == 1 && states[0].Active == "active"
}

// due tells whether it is time for a line of progress.
func (s *supervisor) due() bool {
	every := speakEvery
	if s.waits > quietWaits { // to read the journal is work, and a node that takes so long has little to spare
		every = speakRarely
	}
	return time.Since(s.spoken) >= every
}

// speak logs progress every now and then.
func (s *supervisor) speak(line string) {
	if s.due() {
		s.say(line)
	}
}

func (s *supervisor) say(line string) {
	s.spoken = time.Now()
	s.log.Info(line)
	s.notify("STATUS=" + line)
}
