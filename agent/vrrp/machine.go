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

// Machine is the state machine of one virtual router (RFC 9568, section 6.4), without preemption (Preempt_Mode false): a
// router that comes back leaves the address where it is. It does nothing itself and has no clock. The zero Interval is not
// valid.
type Machine struct {
	Priority uint8         // 1..254
	Source   netip.Addr    // own address; of two with equal priority the higher one wins
	Interval time.Duration // between own advertisements

	state    State
	deadline time.Time
	heard    time.Duration // interval of the router that is active
	sent     int           // advertisements since the address was taken
}

// State is the present state.
func (m *Machine) State() State { return m.state }

// Deadline is when Expire wants to be called; the zero Time in Initialize.
func (m *Machine) Deadline() time.Time { return m.deadline }

// Start takes part from now on.
func (m *Machine) Start(now time.Time) []Action {
	if m.state == Initialize {
		m.listen(now, m.Interval)
	}
	return nil
}

// Stop takes no part any more. An address that was held goes at once, and others needn't wait to know it.
func (m *Machine) Stop() []Action {
	was := m.state
	m.state, m.deadline = Initialize, time.Time{}
	if was == Active {
		return []Action{Drop, Resign}
	}
	return nil
}

// Expire is to be called when the deadline has come.
func (m *Machine) Expire(now time.Time) []Action {
	if m.state == Initialize || now.Before(m.deadline) {
		return nil
	}
	if m.state == Backup {
		m.state, m.sent, m.deadline = Active, 1, now.Add(m.Interval)
		return []Action{Send, Take, Announce}
	}
	// Who slept for longer than the others wait has lost the address, whatever it says.
	if now.Sub(m.deadline) > m.patience(m.Interval) {
		m.listen(now, m.Interval)
		return []Action{Drop}
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
		m.deadline = now.Add(m.skew(m.heard))
	case m.state == Backup:
		m.listen(now, a.interval())
	case m.state == Active && a.Priority == 0:
		m.deadline = now.Add(m.Interval)
		return []Action{Send}
	case m.state == Active && (a.Priority > m.Priority || a.Priority == m.Priority && m.Source.Less(from)):
		// Two were active, and neighbours may have believed this one. One more message of lower priority makes the other
		// announce the address again; it may not have heard any so far. RFC 9568 has no such message, and no harm in it.
		m.listen(now, a.interval())
		return []Action{Drop, Send}
	case m.state == Active:
		// Two were active: the other one gives way now.
		m.deadline, m.sent = now.Add(m.Interval), 0
		return []Action{Send, Announce}
	}
	return nil
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
