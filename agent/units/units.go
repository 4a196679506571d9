// Package units speaks with systemd over D-Bus: it starts a unit and waits for it, says how a target's members are, and
// finds a failing unit's own last words.
//
// It goes to systemd's private socket, so it works for root with or without a D-Bus daemon.
package units

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Manager is a connection to systemd.
type Manager struct{ conn *dbus.Conn }

// Dial connects. The connection is closed by Close.
func Dial(ctx context.Context) (*Manager, error) {
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to systemd: %w", err)
	}
	return &Manager{conn}, nil
}

// Close ends the connection.
func (m *Manager) Close() { m.conn.Close() }

// JobError says that a start job ended otherwise than done.
type JobError struct {
	Unit   string
	Result string // canceled, timeout, failed, dependency, skipped (org.freedesktop.systemd1, JobRemoved)
}

func (e *JobError) Error() string {
	return fmt.Sprintf("cannot start %s: systemd says %s", e.Unit, e.Result)
}

// Start starts a unit and waits until its job is done. A unit that is active already is fine.
func (m *Manager) Start(ctx context.Context, unit string) error {
	return await(ctx, unit, m.conn.StartUnitContext)
}

// Restart stops a unit if it runs, starts it and waits until that is done.
func (m *Manager) Restart(ctx context.Context, unit string) error {
	return await(ctx, unit, m.conn.RestartUnitContext)
}

// QueueRestart stops a unit if it runs and starts it, in its order with others, and doesn't wait. Whoever waits for a start of
// it waits for this one.
func (m *Manager) QueueRestart(ctx context.Context, unit string) error {
	if _, err := m.conn.RestartUnitContext(ctx, unit, "replace", nil); err != nil {
		return fmt.Errorf("cannot restart %s: %w", unit, err)
	}
	return nil
}

// Reboot has systemd stop everything and restart the machine; it doesn't wait.
func (m *Manager) Reboot(ctx context.Context) error {
	if _, err := m.conn.StartUnitContext(ctx, "reboot.target", "replace-irreversibly", nil); err != nil {
		return fmt.Errorf("cannot reboot: %w", err)
	}
	return nil
}

// await queues a job and waits until it is done.
func await(ctx context.Context, unit string, queue func(context.Context, string, string, chan<- string) (int, error)) error {
	done := make(chan string, 1)
	if _, err := queue(ctx, unit, "replace", done); err != nil {
		return fmt.Errorf("cannot start %s: %w", unit, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return &JobError{unit, result}
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot start %s: %w", unit, ctx.Err())
	}
}

// State is how a unit is.
type State struct {
	Name     string
	Active   string // active, activating, failed, inactive...
	Sub      string // running, exited, auto-restart...
	Restarts int    // of a service, since it was started
	Refused  bool   // an assertion of the unit doesn't hold (systemd.unit(5), AssertPathExists= and others)
}

// String is the state for people: "etcd.service activating (auto-restart, 3 restarts)".
func (s State) String() string {
	text := fmt.Sprintf("%s %s (%s", s.Name, s.Active, s.Sub)
	if s.Restarts > 0 {
		text += fmt.Sprintf(", %d restarts", s.Restarts)
	}
	if s.Refused {
		text += ", an assertion of the unit failed"
	}
	return text + ")"
}

// patience is how many restarts by itself a unit may need before it counts as failing.
const patience = 5

// Failing says if the unit needs somebody's attention: it failed, it may not start, or it is started again and again.
func (s State) Failing() bool {
	return s.Refused || s.Active == "failed" || s.Active != "active" && s.Restarts >= patience
}

// Members is the units a target pulls in, sorted: of nested targets too.
func (m *Manager) Members(ctx context.Context, target string) ([]string, error) {
	members := []string{}
	seen := map[string]bool{}
	queue := []string{target}
	for len(queue) > 0 {
		t := queue[0]
		queue = queue[1:]
		for _, property := range []string{"Requires", "Wants"} {
			p, err := m.conn.GetUnitPropertyContext(ctx, t, property)
			if err != nil {
				return nil, fmt.Errorf("cannot ask systemd for the members of %s: %w", t, err)
			}
			names, _ := p.Value.Value().([]string)
			for _, n := range names {
				switch {
				case seen[n]:
				case strings.HasPrefix(n, "slipway-") && strings.HasSuffix(n, ".target"):
					queue = append(queue, n)
				case strings.HasSuffix(n, ".service"):
					members = append(members, n)
				}
				seen[n] = true
			}
		}
	}
	slices.Sort(members)
	return members, nil
}

// States is how the units are, in the order of their names.
func (m *Manager) States(ctx context.Context, names []string) ([]State, error) {
	list, err := m.conn.ListUnitsByNamesContext(ctx, names)
	if err != nil {
		return nil, fmt.Errorf("cannot ask systemd for units: %w", err)
	}
	var states []State
	for _, u := range list {
		s := State{Name: u.Name, Active: u.ActiveState, Sub: u.SubState}
		if u.ActiveState != "active" {
			m.explain(ctx, &s)
		}
		states = append(states, s)
	}
	slices.SortFunc(states, func(a, b State) int { return strings.Compare(a.Name, b.Name) })
	return states, nil
}

// explain adds why a unit may not be active. What systemd doesn't tell is left as it is.
func (m *Manager) explain(ctx context.Context, s *State) {
	if p, err := m.conn.GetUnitTypePropertyContext(ctx, s.Name, "Service", "NRestarts"); err == nil {
		n, _ := p.Value.Value().(uint32)
		s.Restarts = int(n)
	}
	tried, err := m.conn.GetUnitPropertyContext(ctx, s.Name, "AssertTimestampMonotonic")
	if err != nil || tried.Value.Value() == uint64(0) {
		return
	}
	if p, err := m.conn.GetUnitPropertyContext(ctx, s.Name, "AssertResult"); err == nil {
		s.Refused = p.Value.Value() == false
	}
}

// maxWords bounds a unit's last words in bytes.
const maxWords = 64 << 10

// LastWords is the end of what a unit said in this boot, by journalctl. Without journalctl there are none.
func LastWords(ctx context.Context, unit string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, "journalctl", "--boot", "--unit="+unit, "--lines=300", "--output=cat", "--no-pager", "--quiet").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the journal of %s: %w", unit, err)
	}
	return out[max(0, len(out)-maxWords):], nil
}
