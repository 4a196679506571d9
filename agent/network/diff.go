package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Verb is what an Op does.
type Verb string

// Verbs.
const (
	Rename        Verb = "rename"
	AddVLAN       Verb = "add vlan"
	AddBond       Verb = "add bond"
	AddBridge     Verb = "add bridge"
	Remove        Verb = "remove"
	Enslave       Verb = "make member of"
	Release       Verb = "release"
	SetRA         Verb = "set accept_ra"
	SetMTU        Verb = "set mtu"
	SetUp         Verb = "set up"
	AddAddress    Verb = "add address"
	AddRoute      Verb = "add route"
	RemoveRoute   Verb = "remove route"
	RemoveAddress Verb = "remove address"
)

// Op is one change to one link. Link is the link's name when the op's turn comes.
type Op struct {
	Verb    Verb
	Link    string
	To      string // Rename: the new name; AddVLAN: the parent; Enslave: the bond or bridge
	Number  int    // SetMTU: bytes; AddVLAN: the id; SetRA: accept_ra
	Bond    BondState
	Address netip.Prefix
	Route   RouteState
}

// String is the op for people: "eth1: add address 172.16.1.11/24".
func (o Op) String() string {
	switch o.Verb {
	case Rename:
		return fmt.Sprintf("%s: rename to %s", o.Link, o.To)
	case AddVLAN:
		return fmt.Sprintf("%s: add vlan %d on %s", o.Link, o.Number, o.To)
	case AddBond:
		return fmt.Sprintf("%s: add bond %v", o.Link, o.Bond)
	case Enslave:
		return fmt.Sprintf("%s: make member of %s", o.Link, o.To)
	case SetMTU, SetRA:
		return fmt.Sprintf("%s: %s %d", o.Link, o.Verb, o.Number)
	case AddAddress, RemoveAddress:
		return fmt.Sprintf("%s: %s %v", o.Link, o.Verb, o.Address)
	case AddRoute, RemoveRoute:
		return fmt.Sprintf("%s: %s %v", o.Link, o.Verb, o.Route)
	}
	return fmt.Sprintf("%s: %s", o.Link, o.Verb)
}

// String is the route for people: "0.0.0.0/0 via 10.1.0.1 metric 100".
func (r RouteState) String() string {
	s := r.To.String()
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	if r.Metric != 0 {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	return s
}

// find is the link of the machine that a wanted link means, or nil. A VLAN is the one of its name, else the one with its tag on the same
// link: there can't be two of these.
func find(have []LinkState, want bootspec.Network, w bootspec.Link) *LinkState {
	for i, h := range have {
		switch w.Kind {
		case bootspec.KindVLAN, bootspec.KindBond, bootspec.KindBridge:
			if h.Name == w.Name && h.Kind == w.Kind {
				return &have[i]
			}
		case bootspec.KindPhysical:
			if matches(h, w) {
				return &have[i]
			}
		}
	}
	if w.Kind != bootspec.KindVLAN {
		return nil
	}
	parent := parentOf(have, want, w)
	for i, h := range have {
		if parent != nil && h.Kind == bootspec.KindVLAN && h.Parent == parent.Index && h.VLAN == w.VLAN.ID {
			return &have[i]
		}
	}
	return nil
}

// parentOf is the link of the machine that a wanted VLAN shall be on, or nil.
func parentOf(have []LinkState, want bootspec.Network, w bootspec.Link) *LinkState {
	i := slices.IndexFunc(want.Links, func(p bootspec.Link) bool { return p.Name == w.VLAN.Parent })
	if i < 0 {
		return nil
	}
	return find(have, want, want.Links[i])
}

func matches(h LinkState, w bootspec.Link) bool {
	m := w.Match
	switch {
	case h.Kind == bootspec.KindVLAN || h.Kind == bootspec.KindBond || h.Kind == bootspec.KindBridge:
		return false // it has the MAC address of what it is on
	case m == nil || *m == (bootspec.Match{}):
		return h.Name == w.Name
	}
	return (m.MAC == "" || strings.EqualFold(h.MAC, m.MAC)) && (m.Driver == "" || h.Driver == m.Driver) && (m.PCI == "" || h.PCI == m.PCI)
}

// Diff is what has to be done so that the machine has what the document wants; nothing when it has. The document must
// have passed Check. New addresses and routes come before old ones go: connections live on.
func Diff(have []LinkState, want bootspec.Network) []Op {
	ops := renames(have, want)
	masters, current := members(want), currentMasters(have, want)
	fresh := map[string]bool{} // links that this diff makes
	var adds, removes []Op
	for _, w := range want.Links {
		h := find(have, want, w)
		if h == nil || !alike(have, want, *h, w) || w.VLAN != nil && fresh[w.VLAN.Parent] {
			adds, fresh[w.Name] = append(adds, create(w)), true
			h = &LinkState{RA: 1}
		}
		for _, m := range w.Members {
			if fresh[w.Name] || current[m] != w.Name {
				adds = append(adds, Op{Verb: Enslave, Link: m, To: w.Name})
			}
		}
		if masters[w.Name] == "" && current[w.Name] != "" && !fresh[w.Name] {
			adds = append(adds, Op{Verb: Release, Link: w.Name})
		}
		a, r := linkOps(*h, w)
		if masters[w.Name] != "" { // what it has goes to its master, which comes later
			a, r = append(r, a...), nil
		}
		adds, removes = append(adds, a...), append(removes, r...)
	}
	for _, h := range have {
		if isBootVLAN(h) && !slices.ContainsFunc(want.Links, func(w bootspec.Link) bool { f := find(have, want, w); return f != nil && f.Index == h.Index }) {
			removes = append(removes, Op{Verb: Remove, Link: h.Name})
		}
	}
	return slices.Concat(ops, adds, removes)
}

// bootCard is what a machine's first stage calls the card that firmware has booted over with a VLAN, until the document's name comes.
const bootCard = "boot"

// BootVLAN is the network of a first stage whose firmware has booted over a card with a VLAN tag: it can be reached by no other way. The
// document's network takes both links over, or removes the VLAN.
func BootVLAN(mac net.HardwareAddr, tag int) bootspec.Network {
	return bootspec.Network{Links: []bootspec.Link{
		{Name: bootCard, Kind: bootspec.KindPhysical, Match: &bootspec.Match{MAC: mac.String()}},
		{Name: fmt.Sprintf("%s.%d", bootCard, tag), Kind: bootspec.KindVLAN, VLAN: &bootspec.VLAN{Parent: bootCard, ID: tag}},
	}}
}

func isBootVLAN(h LinkState) bool {
	return h.Kind == bootspec.KindVLAN && strings.HasPrefix(h.Name, bootCard+".")
}

// members is the bond or bridge of each link that shall be a member.
func members(want bootspec.Network) map[string]string {
	masters := map[string]string{}
	for _, w := range want.Links {
		for _, m := range w.Members {
			masters[m] = w.Name
		}
	}
	return masters
}

// currentMasters is the bond or bridge that each of the document's links is a member of now.
func currentMasters(have []LinkState, want bootspec.Network) map[string]string {
	names, current := map[int]string{}, map[string]string{}
	for _, h := range have {
		names[h.Index] = h.Name
	}
	for _, w := range want.Links {
		if h := find(have, want, w); h != nil && h.Master != 0 {
			current[w.Name] = names[h.Master]
		}
	}
	return current
}

// alike says whether a link can become the wanted one without being made anew.
func alike(have []LinkState, want bootspec.Network, h LinkState, w bootspec.Link) bool {
	switch w.Kind {
	case bootspec.KindVLAN:
		parent := parentOf(have, want, w)
		return parent != nil && parent.Index == h.Parent && h.VLAN == w.VLAN.ID
	case bootspec.KindBond:
		return h.Bond == wantedBond(*w.Bond)
	}
	return true
}

// create is the op that makes a virtual link.
func create(w bootspec.Link) Op {
	switch w.Kind {
	case bootspec.KindBond:
		return Op{Verb: AddBond, Link: w.Name, Bond: wantedBond(*w.Bond)}
	case bootspec.KindBridge:
		return Op{Verb: AddBridge, Link: w.Name}
	}
	return Op{Verb: AddVLAN, Link: w.Name, To: w.VLAN.Parent, Number: w.VLAN.ID}
}

// linkOps is the changes of one link that has its name already.
func linkOps(h LinkState, w bootspec.Link) (adds, removes []Op) {
	if w.MTU != 0 && w.MTU != h.MTU {
		adds = append(adds, Op{Verb: SetMTU, Link: w.Name, Number: w.MTU})
	}
	if ra := wantedRA(w); ra != h.RA {
		adds = append(adds, Op{Verb: SetRA, Link: w.Name, Number: ra})
	}
	if !h.Up {
		adds = append(adds, Op{Verb: SetUp, Link: w.Name})
	}
	for _, a := range w.Addresses {
		if !slices.Contains(h.Addresses, a) {
			adds = append(adds, Op{Verb: AddAddress, Link: w.Name, Address: a})
		}
	}
	for _, r := range w.Routes {
		if s := wanted(r); !slices.ContainsFunc(h.Routes, func(x RouteState) bool { return same(x, s) }) {
			adds = append(adds, Op{Verb: AddRoute, Link: w.Name, Route: s})
		}
	}
	for _, r := range h.Routes {
		if r.Ours && !slices.ContainsFunc(w.Routes, func(x bootspec.Route) bool { return same(wanted(x), r) }) {
			removes = append(removes, Op{Verb: RemoveRoute, Link: w.Name, Route: r})
		}
	}
	for _, a := range h.Addresses {
		// IPv6 addresses may come from the router (SLAAC), IPv4 ones by DHCP (see Keep).
		if a.Addr().Is4() && !w.DHCP && !slices.Contains(w.Addresses, a) {
			removes = append(removes, Op{Verb: RemoveAddress, Link: w.Name, Address: a})
		}
	}
	return adds, removes
}

func wanted(r bootspec.Route) RouteState {
	s := RouteState{To: r.To.Masked(), Via: r.Via, Metric: r.Metric, Ours: true}
	if s.Metric == 0 && s.To.Addr().Is6() {
		s.Metric = 1024 // the kernel's own default
	}
	return s
}

func same(a, b RouteState) bool { return a.To == b.To && a.Via == b.Via && a.Metric == b.Metric }

// renames is the renamings, by way of names that nobody has where names are swapped. A link that isn't in the document
// but has a wanted name gets out of the way.
func renames(have []LinkState, want bootspec.Network) []Op {
	names := map[string]bool{}
	for _, h := range have {
		names[h.Name] = true
	}
	var free, away, home []Op
	goal := map[int]string{}
	for _, w := range want.Links {
		if h := find(have, want, w); h != nil {
			goal[h.Index] = w.Name
		}
	}
	wantedName := func(name string) bool {
		return slices.ContainsFunc(want.Links, func(w bootspec.Link) bool { return w.Name == name })
	}
	for _, h := range have {
		to, ours := goal[h.Index]
		switch {
		case ours && to == h.Name, !ours && !wantedName(h.Name):
			continue
		case ours && !names[to]:
			free = append(free, Op{Verb: Rename, Link: h.Name, To: to})
			continue
		}
		temporary := freeName(names)
		names[temporary] = true
		away = append(away, Op{Verb: Rename, Link: h.Name, To: temporary})
		if ours {
			home = append(home, Op{Verb: Rename, Link: temporary, To: to})
		}
	}
	return slices.Concat(free, away, home)
}

func freeName(names map[string]bool) string {
	for i := 0; ; i++ {
		if n := fmt.Sprintf("slipway%d", i); !names[n] {
			return n
		}
	}
}
