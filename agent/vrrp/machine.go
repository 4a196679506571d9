package vrrp

import (
	"fmt"
	"net/netip"
	"time"
)

// State is what a router is (RFC 9568, section 6.4).
type State int

// States.
const (
	Initialize State = iota // takes no part
	Backup                  // listens
	Active                  // holds the address ("Master" until RFC 9568)
)

// String implements fmt.Stringer.
func (s State) String() string {
	switch s {
	case Initialize:
		return "initialize"
	case Backup:
		return "backup"
	case Active:
		return "active"
	}
	return fmt.Sprintf("state %d", int(s))
}

// Fitness is how well a machine can serve who asks the address.
type Fitness int

// Fitness, from the worst.
const (
	// Unfit takes no part. An address that it holds it leaves to whoever takes it, and has until then: nobody may be better.
	Unfit    Fitness = iota
	Doubtful         // goes on as it is, and takes nothing
	Fit
)

// Action is what the machine wants done.
type Action int

// Actions.
const (
	Send     Action = iota // an advertisement with the own priority
	Resign                 // an advertisement with priority 0
	Take                   // put the address on the link
	Drop                   // take the address off the link
	Announce               // tell neighbours where the address is (gratuitous ARP)
)

// announcements after taking the address: with each of the first advertisements, and then now and then: a machine that was stopped
// for a while may have answered for the address after it was taken over.
const (
	announceFirst = 5
	announceEvery = 10 * time.Second
)

// resignFirst is how often who leaves the address to others says so. One message may be lost; then silence says the same.
const resignFirst = 3

// Machine is the state machine of one virtual router (RFC 9568, section 6.4), without preemption (Preempt_Mode false): a
// router that comes back leaves the address where it is. It does nothing itself and has no clock; it begins as unfit. The
// zero Interval is not valid.
type Machine struct {
	Priority uint8         // 1..254
	Source   netip.Addr    // own address; of two with equal priority the higher one wins
	Interval time.Duration // between own advertisements

	state    State
	fitness  Fitness
	yielding bool // active, and leaves the address to whoever takes it
	deadline time.Time
	heard    time.Duration // interval of the router that is active
	sent     int           // advertisements, or resignations, since that began
}

// State is the present state.
func (m *Machine) State() State { return m.state }

// Yielding says whether the machine holds the address only until somebody else takes it.
func (m *Machine) Yielding() bool { return m.yielding }

// Deadline is when Expire wants to be called; the zero Time when it needn't.
func (m *Machine) Deadline() time.Time { return m.deadline }

// Judge is to be called when the machine's fitness changes.
func (m *Machine) Judge(now time.Time, f Fitness) []Action {
	m.fitness = f
	switch {
	case m.state == Initialize && f == Fit:
		m.listen(now, m.Interval)
	case m.state == Backup && f == Unfit:
		m.state, m.deadline = Initialize, time.Time{}
	case m.state == Backup && f == Fit && m.deadline.IsZero():
		m.deadline = now.Add(m.skew(m.heard))
	case m.state == Active && f == Unfit && !m.yielding:
		m.yielding, m.sent, m.deadline = true, 1, now.Add(m.Interval)
		return []Action{Resign}
	case m.state == Active && f == Fit && m.yielding: // somebody may have taken it and not be heard yet
		m.deadline = now.Add(2 * m.Interval)
	}
	return nil
}

// Stop takes no part any more. An address that was held goes at once, and others needn't wait to know it.
func (m *Machine) Stop() []Action {
	was := m.state
	m.state, m.fitness, m.yielding, m.deadline = Initialize, Unfit, false, time.Time{}
	if was == Active {
		return []Action{Drop, Resign}
	}
	return nil
}

// Expire is to be called when the deadline has come.
func (m *Machine) Expire(now time.Time) []Action {
	switch {
	case m.deadline.IsZero() || now.Before(m.deadline):
		return nil
	case m.state == Backup && m.fitness == Fit:
		return m.hold(now)
	case m.state == Backup: // nobody is active, or this machine doesn't hear it: Judge goes on
		m.deadline = time.Time{}
		return nil
	case now.Sub(m.deadline) > m.patience(m.Interval):
		// Who slept for longer than the others wait has lost the address, whatever it says.
		return append(m.leave(now), Drop)
	case m.yielding && m.fitness == Fit:
		return m.hold(now)
	case m.yielding:
		return m.resign(now)
	}
	m.deadline = now.Add(m.Interval)
	m.sent++
	if m.sent <= announceFirst || m.sent%int(announceEvery/m.Interval) == 0 {
		return []Action{Send, Take, Announce} // whoever has taken the address off the link meanwhile was wrong
	}
	return []Action{Send}
}

// Receive is to be called with each valid advertisement for this router.
func (m *Machine) Receive(now time.Time, from netip.Addr, a Advertisement) []Action {
	switch {
	case m.state == Backup && a.Priority == 0:
		if d := now.Add(m.skew(m.heard)); m.deadline.IsZero() || d.Before(m.deadline) {
			m.deadline = d
		}
	case m.state == Backup:
		m.listen(now, a.interval())
	case m.yielding && (a.Priority > 0 || m.Source.Less(from)):
		return append(m.leave(now), Drop, Resign) // the second is heard by the other, which announces itself anew
	case m.state == Active && !m.yielding && a.Priority == 0:
		// Who gives way may have answered for the address until now.
		m.deadline = now.Add(m.Interval)
		return []Action{Send, Announce}
	case m.state == Active && (a.Priority > m.Priority || a.Priority == m.Priority && m.Source.Less(from)):
		// Two were active, and neighbours may have believed this one. One more message of lower priority makes the other
		// announce the address again; it may not have heard any so far. RFC 9568 has no such message, and no harm in it.
		m.listen(now, a.interval())
		return []Action{Drop, Send}
	case m.state == Active && !m.yielding:
		// Two were active: the other one gives way now.
		m.deadline, m.sent = now.Add(m.Interval), 0
		return []Action{Send, Announce}
	}
	return nil
}

// hold is a machine that has the address from now on.
func (m *Machine) hold(now time.Time) []Action {
	m.state, m.yielding, m.sent, m.deadline = Active, false, 1, now.Add(m.Interval)
	return []Action{Send, Take, Announce}
}

// resign says that this machine leaves the address to others. It has a deadline also when all is said: it may sleep.
func (m *Machine) resign(now time.Time) []Action {
	m.deadline = now.Add(m.Interval)
	if m.sent++; m.sent > resignFirst {
		return nil
	}
	return []Action{Resign}
}

// leave is an active machine that is no longer that, without an action.
func (m *Machine) leave(now time.Time) []Action {
	m.yielding = false
	m.listen(now, m.Interval)
	return m.Judge(now, m.fitness)
}

// listen is a backup that has just heard an active router with that interval.
func (m *Machine) listen(now time.Time, interval time.Duration) {
	m.state, m.heard = Backup, interval
	m.deadline = now.Add(m.patience(interval))
}

// patience is Active_Down_Interval, skew Skew_Time (RFC 9568, section 6.1).
func (m *Machine) patience(interval time.Duration) time.Duration {
	return 3*interval + m.skew(interval)
}

func (m *Machine) skew(interval time.Duration) time.Duration {
	return time.Duration(256-int(m.Priority)) * interval / 256
}

func (a Advertisement) interval() time.Duration {
	return time.Duration(a.Interval) * 10 * time.Millisecond
}
