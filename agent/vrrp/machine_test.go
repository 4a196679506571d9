package vrrp

import (
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// begin is when the tests' clock begins.
var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const interval = 300 * time.Millisecond

func machine(priority uint8) *Machine {
	return &Machine{Priority: priority, Source: own, Interval: interval}
}

// active is a machine that has just taken the address, and the time.
func active(t *testing.T, priority uint8) (*Machine, time.Time) {
	t.Helper()
	m := machine(priority)
	m.Judge(begin, Fit)
	now := m.Deadline()
	expect(t, m.Expire(now), Send, Take, Announce)
	return m, now
}

func expect(t *testing.T, got []Action, want ...Action) {
	t.Helper()
	if !reflect.DeepEqual(got, want) && len(got)+len(want) > 0 {
		t.Errorf("actions %v, want %v", got, want)
	}
}

func expectState(t *testing.T, m *Machine, want State) {
	t.Helper()
	if m.State() != want {
		t.Errorf("state %v, want %v", m.State(), want)
	}
}

func advert(priority uint8, centiseconds uint16) Advertisement {
	return Advertisement{Router: 5, Priority: priority, Interval: centiseconds, Addresses: []netip.Addr{shared}}
}

// TestSilence: a backup takes the address after three intervals and its skew.
func TestSilence(t *testing.T) {
	m := machine(128)
	expect(t, m.Expire(begin.Add(time.Hour)))
	expectState(t, m, Initialize)
	expect(t, m.Judge(begin, Fit))
	expectState(t, m, Backup)
	if want := begin.Add(3*interval + interval/2); !m.Deadline().Equal(want) {
		t.Errorf("deadline %v, want %v", m.Deadline(), want)
	}
	expect(t, m.Expire(m.Deadline().Add(-time.Nanosecond)))
	expect(t, m.Expire(m.Deadline()), Send, Take, Announce)
	expectState(t, m, Active)
}

// TestNoPreemption: a backup leaves the address where it is, also to one of lower priority, and learns its interval.
func TestNoPreemption(t *testing.T) {
	m := machine(250)
	m.Judge(begin, Fit)
	now := begin
	for range 100 {
		now = now.Add(900 * time.Millisecond)
		expect(t, m.Expire(now))
		expect(t, m.Receive(now, other, advert(1, 100)))
	}
	expectState(t, m, Backup)
	if d := m.Deadline().Sub(now); d < 3*time.Second || d > 3100*time.Millisecond {
		t.Errorf("it waits %v", d)
	}
}

// TestResignation: who gives the address up is followed after the skew alone, and the next says so at once.
func TestResignation(t *testing.T) {
	m, now := active(t, 250)
	expect(t, m.Stop(), Drop, Resign)
	expectState(t, m, Initialize)
	expect(t, m.Stop())

	m = machine(250)
	m.Judge(now, Fit)
	m.Receive(now, other, advert(100, 30))
	expect(t, m.Receive(now, other, advert(0, 30)))
	if d := m.Deadline().Sub(now); d <= 0 || d > interval/32 {
		t.Errorf("it waits %v after a resignation", d)
	}
	expect(t, m.Expire(m.Deadline()), Send, Take, Announce)
	expect(t, m.Receive(m.Deadline(), other, advert(0, 30)), Send, Announce)
	expectState(t, m, Active)
}

// TestTwoActive: of two, the one with the higher priority stays, or with equal ones that with the higher address; it announces the
// address anew.
func TestTwoActive(t *testing.T) {
	for _, tt := range []struct {
		priority uint8
		from     netip.Addr
		stays    bool
	}{{101, own.Prev(), false}, {100, other, false}, {100, own.Prev(), true}, {99, other, true}} {
		m, now := active(t, 100)
		got := m.Receive(now, tt.from, advert(tt.priority, 30))
		if tt.stays {
			expect(t, got, Send, Announce)
			expectState(t, m, Active)
			expect(t, m.Expire(m.Deadline()), Send, Take, Announce)
		} else {
			expect(t, got, Drop, Send)
			expectState(t, m, Backup)
		}
	}
}

// TestAnnouncements: with each of the first advertisements, then every ten seconds.
func TestAnnouncements(t *testing.T) {
	m, now := active(t, 100)
	end, count := now.Add(5*time.Minute), 1
	for m.Deadline().Before(end) {
		for _, a := range m.Expire(m.Deadline()) {
			if a == Announce {
				count++
			}
		}
	}
	if count < announceFirst+29 || count > announceFirst+31 {
		t.Errorf("%d announcements in 5 minutes", count)
	}
}

// TestSleep: a machine that was stopped for long doesn't claim the address it had.
func TestSleep(t *testing.T) {
	m, _ := active(t, 100)
	expect(t, m.Expire(m.Deadline().Add(time.Minute)), Drop)
	expectState(t, m, Backup)
}

// TestAnyTwoEndWithOne runs two machines over a network that is split, healed and loses messages, at all offsets, and wants
// one holder in the end, whom neighbours know.
func TestAnyTwoEndWithOne(t *testing.T) {
	for offset := time.Duration(0); offset < interval; offset += interval / 16 {
		a, b := machine(200), machine(150)
		b.Source = other
		split := true
		a.Judge(begin, Fit)
		b.Judge(begin.Add(offset), Fit)
		announced := false // by a after b has given way
		var deliver func(now time.Time, actions []Action, from *Machine, to *Machine)
		deliver = func(now time.Time, actions []Action, from *Machine, to *Machine) {
			for _, action := range actions {
				if action == Send && !split {
					deliver(now, to.Receive(now, from.Source, advert(from.Priority, 30)), to, from)
				}
				announced = announced || action == Announce && from == a && b.State() == Backup
			}
		}
		for now := begin; now.Before(begin.Add(20 * time.Second)); now = now.Add(time.Millisecond) {
			if now.Sub(begin) == 10*time.Second {
				if a.State() != Active || b.State() != Active {
					t.Fatalf("offset %v: in a split network they are %v and %v", offset, a.State(), b.State())
				}
				split, announced = false, false
			}
			deliver(now, a.Expire(now), a, b)
			deliver(now, b.Expire(now), b, a)
		}
		if a.State() != Active || b.State() != Backup || !announced {
			t.Errorf("offset %v: in the end they are %v and %v, announced: %v", offset, a.State(), b.State(), announced)
		}
	}
}

// TestYielding: who is no longer fit says so a few times, keeps the address while nobody else takes it, and goes on when it is fit
// again.
func TestYielding(t *testing.T) {
	m, now := active(t, 100)
	expect(t, m.Judge(now, Doubtful))
	expect(t, m.Expire(m.Deadline()), Send, Take, Announce)
	expect(t, m.Judge(now, Unfit), Resign)
	expect(t, m.Judge(now, Doubtful)) // not enough to go on
	expect(t, m.Judge(now, Unfit))
	for _, want := range [][]Action{{Resign}, {Resign}, nil, nil} {
		expect(t, m.Expire(m.Deadline()), want...)
	}
	if m.State() != Active || !m.Yielding() {
		t.Errorf("state %v, yielding %v", m.State(), m.Yielding())
	}
	expect(t, m.Receive(now, own.Prev(), advert(0, 30))) // another one that yields, of lower address
	expect(t, m.Judge(now, Fit))
	expect(t, m.Expire(m.Deadline()), Send, Take, Announce)
	if m.State() != Active || m.Yielding() {
		t.Errorf("fit again: state %v, yielding %v", m.State(), m.Yielding())
	}
}

// TestYieldingIsTaken: whoever advertises has the address then, whatever its priority, and of two that yield the higher address.
func TestYieldingIsTaken(t *testing.T) {
	for _, tt := range []struct {
		priority uint8
		fitness  Fitness
		state    State
	}{{1, Unfit, Initialize}, {254, Unfit, Initialize}, {1, Doubtful, Backup}, {1, Fit, Backup}, {0, Unfit, Initialize}} {
		m, now := active(t, 100)
		m.Judge(now, Unfit)
		m.Judge(now, tt.fitness)
		expect(t, m.Receive(now, other, advert(tt.priority, 30)), Drop, Resign)
		expectState(t, m, tt.state)
		if m.Yielding() {
			t.Error("it yields what it doesn't have")
		}
	}
}

// TestDoubt: a backup in doubt takes nothing, and when it is no longer in doubt it takes the address that nobody holds.
func TestDoubt(t *testing.T) {
	m := machine(128)
	expect(t, m.Judge(begin, Doubtful))
	expectState(t, m, Initialize)
	m.Judge(begin, Fit)
	expect(t, m.Judge(begin, Doubtful))
	now := m.Deadline()
	expect(t, m.Expire(now))
	expectState(t, m, Backup)
	if !m.Deadline().IsZero() {
		t.Error("it has a deadline and nothing to do then")
	}
	expect(t, m.Judge(now, Fit))
	expect(t, m.Expire(m.Deadline()), Send, Take, Announce)

	m = machine(128)
	m.Judge(begin, Fit)
	m.Judge(begin, Doubtful)
	m.Expire(m.Deadline())
	m.Receive(now, other, advert(100, 30)) // somebody is there
	expect(t, m.Judge(now, Fit))
	if want := now.Add(3*interval + interval/2); !m.Deadline().Equal(want) {
		t.Errorf("deadline %v, want %v", m.Deadline(), want)
	}
	expect(t, m.Judge(now, Unfit))
	expectState(t, m, Initialize)
}

// TestResignationAgain: who hears several doesn't wait longer for it.
func TestResignationAgain(t *testing.T) {
	m := machine(1)
	m.Judge(begin, Fit)
	m.Receive(begin, other, advert(0, 30))
	want := m.Deadline()
	m.Receive(begin.Add(interval/2), other, advert(0, 30))
	if !m.Deadline().Equal(want) {
		t.Errorf("deadline %v, want %v", m.Deadline(), want)
	}
}
