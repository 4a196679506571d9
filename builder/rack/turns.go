package rack

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// Where there are more emulated machines than processors they take turns. A machine that must share a processor while
// all of Kubernetes starts exceeds limits of its own: an API server gives itself a minute for its first steps, etcd a second
// to elect; it ends, begins again, and with several of them none gets through. A machine whose clock stands still while it
// isn't its turn has a whole processor as far as it can tell, and exceeds nothing. When all machines together need no more
// than the processors have, all run at once, and their clocks go as fast as ours.

const (
	// turnTime is how often is decided who runs.
	turnTime = 50 * time.Millisecond
	// lead is how far a machine runs ahead of those that wait before one of them takes its place: a change costs some
	// milliseconds of a processor, and one machine waits so long for another one's answer.
	lead = 4 * turnTime
	// measureEvery is how often is measured what a machine needs, in its own time.
	measureEvery = 500 * time.Millisecond
)

// crowded tells whether a cluster's machines are emulated and more than this machine's processors.
func crowded(c *cluster.Cluster) bool { return !haveKVM() && len(c.Nodes) > runtime.NumCPU() }

// stretched is how long it may take here what takes machines with processors of their own so long.
func (r *rack) stretched(d time.Duration) time.Duration {
	if !crowded(r.Cluster) {
		return d
	}
	return d * time.Duration(len(r.Cluster.Nodes)) / time.Duration(runtime.NumCPU())
}

// turns are those of the machines of a crowded rack.
type turns struct {
	rack  *rack
	stop  chan struct{}
	ended chan struct{}

	mu  sync.Mutex
	own time.Duration // that the machines' clocks have gone on since power on
}

// player is a machine's account of its turns.
type player struct {
	goes bool
	ran  time.Duration // its clock, since power on of the rack
	uses float64       // processors that it needs while it runs
	// what uses was last measured by
	measured time.Duration // ran
	cpu      time.Duration // that its process wanted
}

// takeTurns begins the turns.
func (r *rack) takeTurns() *turns {
	t := &turns{rack: r, stop: make(chan struct{}), ended: make(chan struct{})}
	go t.run()
	return t
}

// end ends them; machines that were stopped stay so.
func (t *turns) end() {
	close(t.stop)
	<-t.ended
}

func (t *turns) run() {
	defer close(t.ended)
	tick := time.NewTicker(turnTime)
	defer tick.Stop()
	last, told := time.Now(), time.Time{}
	began := last
	for {
		select {
		case <-t.stop:
			return
		case now := <-tick.C:
			t.turn(now.Sub(last))
			last = now
			if now.Sub(told) > time.Second {
				told = now
				t.tell(now.Sub(began) - t.clock())
			}
		}
	}
}

// turn keeps account of the turn that has passed, and begins the next one.
func (t *turns) turn(passed time.Duration) {
	machines := t.rack.powered()
	players := make([]*player, len(machines))
	for i, m := range machines {
		players[i] = &m.player
		if m.goes {
			m.ran += passed
		}
		if m.ran-m.measured >= measureEvery {
			m.measure(wanted(m.cmd.Process.Pid))
		}
	}
	t.advance(players)
	next := choose(players, runtime.NumCPU())
	for _, goes := range []bool{false, true} { // who stops does so first
		for i, m := range machines {
			if next[i] != goes || m.goes == goes {
				continue
			}
			command := map[bool]string{true: "cont", false: "stop"}[goes]
			if m.monitor.execute(command) == nil { // it may have lost its power just now
				m.goes = goes
			}
		}
	}
}

// advance sets the rack's clock to the slowest machine's. One that was powered on since begins there.
func (t *turns) advance(players []*player) {
	t.mu.Lock()
	defer t.mu.Unlock()
	slowest := time.Duration(-1)
	for _, p := range players {
		p.ran = max(p.ran, t.own)
		if slowest < 0 || p.ran < slowest {
			slowest = p.ran
		}
	}
	t.own = max(t.own, slowest)
}

// clock is how far the machines' clocks have gone on since power on.
func (t *turns) clock() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.own
}

// choose says who runs next: those whose clocks are behind, as many as the processors can take.
func choose(players []*player, processors int) []bool {
	next := make([]bool, len(players))
	order := slices.Clone(players)
	slices.SortStableFunc(order, func(a, b *player) int { return cmp.Compare(a.due(), b.due()) })
	left := float64(processors)
	for n, p := range order {
		needs := max(p.uses, 0.1)
		if n > 0 && (p.due()-order[0].due() > 2*lead || left < 0.3 || needs > left+0.5) {
			continue
		}
		i := slices.Index(players, p)
		next[i] = true
		left -= needs
	}
	return next
}

// due is when a machine's turn comes: its clock, and earlier for one that runs already.
func (p *player) due() time.Duration {
	if p.goes {
		return p.ran - lead
	}
	return p.ran
}

// measure finds out what a machine needs, given the processor time that it has wanted so far.
func (p *player) measure(cpu time.Duration) {
	now := min(1.2, float64(max(0, cpu-p.cpu))/float64(p.ran-p.measured))
	p.uses = (p.uses + now) / 2
	p.measured, p.cpu = p.ran, cpu
}

// wanted is the processor time that a process has had so far or has waited for (/proc/PID/task/TID/schedstat,
// Documentation/scheduler/sched-stats); 0: it has ended.
func wanted(pid int) time.Duration {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	var sum time.Duration
	for _, file := range files {
		text, _ := os.ReadFile(file)
		var ran, waited int64
		if _, err := fmt.Sscan(string(text), &ran, &waited); err == nil {
			sum += time.Duration(ran + waited)
		}
	}
	return sum
}

// clockFile is where the boot server reads how far the machines' clocks are behind, in nanoseconds: nodes set theirs by it, so
// that one which is powered on later has the time of the others.
func (r *rack) clockFile() string { return filepath.Join(r.dir, "behind") }

func (t *turns) tell(behind time.Duration) {
	file := t.rack.clockFile()
	if os.WriteFile(file+".new", []byte(strconv.FormatInt(int64(behind), 10)), 0o600) == nil {
		_ = os.Rename(file+".new", file)
	}
}

// machinesClock is how long it is since power on for the machines.
func (r *rack) machinesClock() time.Duration {
	if r.turns == nil {
		return time.Since(r.started)
	}
	return r.turns.clock()
}

// powered are the machines that have power, in the order of the document.
func (r *rack) powered() []*machine {
	r.power.Lock()
	defer r.power.Unlock()
	var list []*machine
	for i := range r.Cluster.Nodes {
		for _, m := range r.machines {
			if m.node == &r.Cluster.Nodes[i] && m.running() {
				list = append(list, m)
			}
		}
	}
	return list
}
