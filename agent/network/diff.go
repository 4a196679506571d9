package network

import (
	"fmt"
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
	To      string // Rename: the new name; AddVLAN: the parent
	Number  int    // SetMTU: bytes; AddVLAN: the id
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
	case SetMTU:
		return fmt.Sprintf("%s: set mtu %d", o.Link, o.Number)
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

// Check compares the document with the machine before anything changes. It tells all that is wrong at once.
func Check(have []LinkState, want bootspec.Network) error {
	var faults []string
	add := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	names, taken := map[string]bool{}, map[int]string{}
	for _, w := range want.Links {
		if !validName(w.Name) {
			add("link name %q is not 1 to 15 bytes without white space, slash and colon", w.Name)
		}
		if names[w.Name] {
			add("link %s is there twice", w.Name)
		}
		names[w.Name] = true
		if w.DHCP {
			add("link %s: DHCP in the running system is not supported yet: give it its address", w.Name)
		}
		switch w.Kind {
		case bootspec.KindPhysical:
			h := find(have, w)
			switch {
			case h == nil:
				add("link %s: no network card matches %s; there are %s", w.Name, describeMatch(w), describeLinks(have))
			case taken[h.Index] != "":
				add("link %s and link %s match the same network card %s", taken[h.Index], w.Name, h.MAC)
			default:
				taken[h.Index] = w.Name
			}
		case bootspec.KindVLAN:
			if w.VLAN == nil || w.VLAN.ID < 1 || w.VLAN.ID > 4094 {
				add("link %s: a vlan needs a parent and an id from 1 to 4094", w.Name)
			} else if !names[w.VLAN.Parent] {
				add("link %s: its parent %q is not a link before it", w.Name, w.VLAN.Parent)
			}
		case bootspec.KindBond, bootspec.KindBridge:
			add("link %s: kind %s is not supported yet", w.Name, w.Kind)
		default:
			add("link %s: unknown kind %q", w.Name, w.Kind)
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("network document doesn't fit this machine: %s", strings.Join(faults, "; "))
	}
	return nil
}

// validName is what the kernel takes (dev_valid_name).
func validName(s string) bool {
	return len(s) >= 1 && len(s) <= 15 && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r")
}

// find is the link of the machine that a wanted link means, or nil.
func find(have []LinkState, w bootspec.Link) *LinkState {
	for i, h := range have {
		switch w.Kind {
		case bootspec.KindVLAN:
			if h.Name == w.Name && h.Kind == bootspec.KindVLAN {
				return &have[i]
			}
		case bootspec.KindPhysical:
			if matches(h, w) {
				return &have[i]
			}
		}
	}
	return nil
}

func matches(h LinkState, w bootspec.Link) bool {
	m := w.Match
	if m == nil || *m == (bootspec.Match{}) {
		return h.Name == w.Name && h.Kind != bootspec.KindVLAN
	}
	// A VLAN has its parent's MAC address.
	return h.Kind != bootspec.KindVLAN &&
		(m.MAC == "" || strings.EqualFold(h.MAC, m.MAC)) &&
		(m.Driver == "" || h.Driver == m.Driver) &&
		(m.PCI == "" || h.PCI == m.PCI)
}

func describeMatch(w bootspec.Link) string {
	if w.Match == nil || *w.Match == (bootspec.Match{}) {
		return "name " + w.Name
	}
	var words []string
	for _, f := range [][2]string{{"mac", w.Match.MAC}, {"driver", w.Match.Driver}, {"pci", w.Match.PCI}} {
		if f[1] != "" {
			words = append(words, f[0]+" "+f[1])
		}
	}
	return strings.Join(words, ", ")
}

func describeLinks(have []LinkState) string {
	var words []string
	for _, h := range have {
		if h.Kind == bootspec.KindPhysical || h.Kind == "veth" || h.Kind == "dummy" {
			words = append(words, fmt.Sprintf("%s (mac %s, driver %s, pci %s)", h.Name, h.MAC, orNone(h.Driver), orNone(h.PCI)))
		}
	}
	if len(words) == 0 {
		return "none at all"
	}
	return strings.Join(words, ", ")
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Diff is what has to be done so that the machine has what the document wants; nothing when it has. The document must
// have passed Check. New addresses and routes come before old ones go: connections live on.
func Diff(have []LinkState, want bootspec.Network) []Op {
	ops := renames(have, want)
	var adds, removes []Op
	for _, w := range want.Links {
		h := find(have, w)
		if h == nil { // a VLAN that isn't there yet
			h = &LinkState{}
			adds = append(adds, Op{Verb: AddVLAN, Link: w.Name, To: w.VLAN.Parent, Number: w.VLAN.ID})
		} else if v := w.VLAN; v != nil && h.VLAN != v.ID {
			adds = append(adds, Op{Verb: AddVLAN, Link: w.Name, To: v.Parent, Number: v.ID})
			h = &LinkState{}
		}
		a, r := linkOps(*h, w)
		adds, removes = append(adds, a...), append(removes, r...)
	}
	return slices.Concat(ops, adds, removes)
}

// linkOps is the changes of one link that has its name already.
func linkOps(h LinkState, w bootspec.Link) (adds, removes []Op) {
	if w.MTU != 0 && w.MTU != h.MTU {
		adds = append(adds, Op{Verb: SetMTU, Link: w.Name, Number: w.MTU})
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
		// IPv6 addresses may come from the router (SLAAC).
		if a.Addr().Is4() && !slices.Contains(w.Addresses, a) {
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
		if h := find(have, w); h != nil {
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
