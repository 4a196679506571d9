// Package vrrp holds a virtual address on one of several machines: VRRP version 3 for IPv4 (RFC 9568), by multicast.
//
// Words as in the RFC: a virtual router is the group of machines that share an address, told from others by a number, its
// VRID; the active one holds the address and advertises that it does, the others are backups. Messages (packet.go) and
// decisions (machine.go) are pure; sockets and addresses are here and in wire.go.
//
// It has no virtual MAC address: who takes the address over tells neighbours by gratuitous ARP. It doesn't know when a
// machine is fit to hold the address; its user says. Who is no longer fit says so to the others, and has the address until one of
// them takes it.
package vrrp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// protocol is VRRP's number in IP headers, group its multicast address (RFC 9568, section 5.1).
const protocol = 112

func group() netip.Addr { return netip.AddrFrom4([4]byte{224, 0, 0, 18}) }

// Config is one virtual router on one link.
type Config struct {
	Link     string
	Source   netip.Addr // the machine's own address on the link
	Address  netip.Addr // the virtual one, IPv4
	Router   uint8      // VRID, 1..255
	Priority uint8      // 1..254
	Interval time.Duration
	Log      *slog.Logger
}

// holder is a virtual router's machine with its wire.
type holder struct {
	config  Config
	wire    *wire
	machine Machine
	strange map[string]bool // what has been told of foreign messages
}

// maxStrange bounds what is told of foreign messages.
const maxStrange = 16

// Run takes part in the virtual router until ctx ends, as the last value of fit says; it begins as unfit. What an
// earlier run has left on the machine goes first, and the address goes in any case when it returns. The error is nil when
// ctx ended.
func Run(ctx context.Context, c Config, fit <-chan Fitness) error {
	if err := Release(c.Address); err != nil {
		return err
	}
	w, err := open(c.Link, c.Source)
	if err != nil {
		return err
	}
	defer w.close()
	h := &holder{
		config: c, wire: w, strange: map[string]bool{},
		machine: Machine{Priority: c.Priority, Source: c.Source, Interval: c.Interval},
	}
	err = h.run(ctx, fit)
	return errors.Join(err, h.do(h.machine.Stop()))
}

func (h *holder) run(ctx context.Context, fit <-chan Fitness) error {
	packets, failed := make(chan packet), make(chan error, 1)
	receiving, stop := context.WithCancel(ctx)
	defer stop()
	go func() { failed <- h.wire.receive(receiving, packets) }()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if d := h.machine.Deadline(); !d.IsZero() {
			timer.Reset(time.Until(d))
		}
		was, yielded, actions := h.machine.State(), h.machine.Yielding(), []Action(nil)
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case now := <-fit:
			actions = h.machine.Judge(time.Now(), now)
		case <-timer.C:
			actions = h.machine.Expire(time.Now())
		case p := <-packets:
			if a, ok := h.understand(p); ok {
				actions = h.machine.Receive(time.Now(), p.from, a)
			}
		}
		if is, yields := h.machine.State(), h.machine.Yielding(); is != was || yields != yielded {
			h.config.Log.Info("virtual address: "+words(is, yields), "address", h.config.Address, "link", h.config.Link)
		}
		if err := h.do(actions); err != nil {
			return err
		}
	}
}

// words tells people what a state means.
func words(s State, yielding bool) string {
	switch {
	case s == Backup:
		return "this node stands by"
	case yielding:
		return "this node leaves it to whoever can serve it, and has it until then"
	case s == Active:
		return "this node holds it"
	}
	return "this node takes no part"
}

// understand reads a message and says whether it is for this virtual router. What is odd is told once.
func (h *holder) understand(p packet) (Advertisement, bool) {
	if p.from == h.config.Source {
		return Advertisement{}, false
	}
	if p.ttl != 255 { // it has passed a router, so it isn't from this network (RFC 9568, section 7.1)
		h.tell("VRRP message from outside of this network", p.from, "ttl", p.ttl)
		return Advertisement{}, false
	}
	a, err := Decode(p.data, p.from, p.to)
	switch {
	case err != nil:
		h.tell(err.Error(), p.from)
	case a.Router != h.config.Router:
		return Advertisement{}, false
	case !slices.Contains(a.Addresses, h.config.Address):
		h.tell("another virtual router here has the same number (VRID) and other addresses: it is ignored", p.from,
			"number", a.Router, "addresses", fmt.Sprint(a.Addresses))
	default:
		return a, true
	}
	return Advertisement{}, false
}

func (h *holder) tell(message string, from netip.Addr, args ...any) {
	key := message + from.String()
	if h.strange[key] || len(h.strange) >= maxStrange {
		return
	}
	h.strange[key] = true
	h.config.Log.Warn(message, append([]any{"from", from}, args...)...)
}

// do does what the machine wants. A message that can't be sent is no reason to stop: the link may be down for a moment. But a
// link that was made anew needs new sockets.
func (h *holder) do(actions []Action) error {
	var errs []error
	for _, a := range actions {
		switch a {
		case Send:
			if err := h.send(h.config.Priority); errors.Is(err, unix.ENODEV) {
				return errors.Join(append(errs, err)...)
			}
		case Resign:
			_ = h.send(0) // told; the others wait a little longer
		case Take:
			errs = append(errs, take(h.config.Link, h.config.Address))
		case Drop:
			errs = append(errs, Release(h.config.Address))
		case Announce:
			if err := h.wire.announce(h.config.Address); err != nil {
				h.tell(err.Error(), h.config.Source)
			}
		}
	}
	return errors.Join(errs...)
}

func (h *holder) send(priority uint8) error {
	a := Advertisement{
		Router: h.config.Router, Priority: priority, Interval: uint16(h.config.Interval / (10 * time.Millisecond)),
		Addresses: []netip.Addr{h.config.Address},
	}
	err := h.wire.send(a.Encode(h.config.Source, group()))
	if err != nil {
		h.tell(err.Error(), h.config.Source)
	}
	return err
}
