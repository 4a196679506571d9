package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// ErrTakenBack says that the network is again as it was before a change.
var ErrTakenBack = errors.New("the change was taken back")

// Trial configures the network, and takes that back when it loses the server.
type Trial struct {
	// Reach asks the server; each call ends within seconds.
	Reach func(context.Context) error
	// Limit is how long the kernel may need for a change. Zero: 30 s.
	Limit time.Duration
	// Patience is how long the server is waited for after a change. Zero: 45 s, for LACP with slow timers and a switch's
	// spanning tree take 30 s (IEEE 802.1AX, 6.4.4; IEEE 802.1D, 8.10.2).
	Patience time.Duration
	Log      *slog.Logger
}

// Configure is Configure, but takes the change back when it fails, or loses the server that was reached before it: the
// error is ErrTakenBack then. A server that wasn't reached before can't be lost: the change stays.
func (t Trial) Configure(ctx context.Context, want bootspec.Network) error {
	before, err := Links()
	if err != nil {
		return err
	}
	if err := Check(before, want); err != nil {
		return err
	}
	if len(Diff(before, want)) == 0 {
		return nil
	}
	if err := t.Reach(ctx); err != nil {
		t.Log.Info("network: the server doesn't answer before the change, so it is not asked after it", "cause", err)
		return t.change(ctx, want)
	}
	err = t.change(ctx, want)
	if err == nil {
		if err = t.answers(ctx); err == nil {
			return nil
		}
		err = fmt.Errorf("the server isn't reached any more with the network as the document says: %w", err)
	}
	t.Log.Warn("network: taking the change back", "cause", err)
	if back := t.takeBack(ctx, before, want); back != nil {
		return errors.Join(err, fmt.Errorf("and cannot take it back: %w", back))
	}
	return fmt.Errorf("%w: %w", ErrTakenBack, err)
}

// change is Configure within the limit.
func (t Trial) change(ctx context.Context, want bootspec.Network) error {
	ctx, cancel := context.WithTimeout(ctx, orDefault(t.Limit, 30*time.Second))
	defer cancel()
	return Configure(ctx, want, t.Log)
}

// answers asks until there is an answer.
func (t Trial) answers(ctx context.Context) error {
	for deadline := time.Now().Add(orDefault(t.Patience, 45*time.Second)); ; {
		err := t.Reach(ctx)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// takeBack makes the network what it was.
func (t Trial) takeBack(ctx context.Context, before []LinkState, want bootspec.Network) error {
	now, err := Links()
	if err != nil {
		return err
	}
	for _, l := range now {
		made := slices.ContainsFunc(want.Links, func(w bootspec.Link) bool { return w.Kind != bootspec.KindPhysical && w.Name == l.Name })
		was := slices.ContainsFunc(before, func(b LinkState) bool { return b.Index == l.Index })
		if made && !was {
			if err := apply(Op{Verb: Remove, Link: l.Name}); err != nil {
				return err
			}
		}
	}
	if err := t.change(ctx, document(before, now, want)); err != nil {
		return err
	}
	for _, b := range before { // documents know no accept_ra of 1
		if readRA(b.Name) != b.RA {
			if err := apply(Op{Verb: SetRA, Link: b.Name, Number: b.RA}); err != nil {
				return err
			}
		}
	}
	return nil
}

// document is a network document of what was, for the links that were changed: those that the other document means, and
// those that had to give it their names.
func document(before, now []LinkState, want bootspec.Network) bootspec.Network {
	touched := map[int]bool{}
	for _, w := range want.Links {
		if l := find(before, want, w); l != nil {
			touched[l.Index] = true
		}
	}
	names := map[int]string{}
	for _, b := range before {
		names[b.Index] = b.Name
		touched[b.Index] = touched[b.Index] || slices.ContainsFunc(now, func(l LinkState) bool { return l.Index == b.Index && l.Name != b.Name }) || isBootVLAN(b)
	}
	var links []bootspec.Link
	for _, b := range before {
		if !touched[b.Index] {
			continue
		}
		l := bootspec.Link{Name: b.Name, Kind: b.Kind, MTU: b.MTU, SLAAC: b.RA == heedRA}
		switch b.Kind {
		case bootspec.KindVLAN:
			l.VLAN = &bootspec.VLAN{Parent: names[b.Parent], ID: b.VLAN}
		case bootspec.KindBond:
			l.Bond = &bootspec.Bond{Mode: b.Bond.Mode, MIIMon: b.Bond.MIIMon, LACP: b.Bond.LACP, Hash: b.Bond.Hash}
		case bootspec.KindBridge:
		default:
			l.Kind, l.Match = bootspec.KindPhysical, &bootspec.Match{MAC: b.MAC}
		}
		for _, m := range before {
			if m.Master == b.Index {
				l.Members = append(l.Members, m.Name)
			}
		}
		for _, a := range b.Addresses {
			if a.Addr().Is4() {
				l.Addresses = append(l.Addresses, a)
			}
		}
		for _, r := range b.Routes {
			if r.Ours {
				l.Routes = append(l.Routes, bootspec.Route{To: r.To, Via: r.Via, Metric: r.Metric})
			}
		}
		links = append(links, l)
	}
	return bootspec.Network{Links: bootspec.Arrange(links)}
}
