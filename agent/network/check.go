package network

import (
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Check compares the document with the machine before anything changes. It tells all that is wrong at once.
func Check(have []LinkState, want bootspec.Network) error {
	k := &check{have: have, before: map[string]bootspec.Link{}, cards: map[int]string{}, masters: map[string]string{}}
	for _, w := range want.Links {
		k.link(w)
		k.before[w.Name] = w
	}
	if len(k.faults) > 0 {
		return fmt.Errorf("network document doesn't fit this machine: %s", strings.Join(k.faults, "; "))
	}
	return nil
}

// check collects what is wrong with a network document.
type check struct {
	have    []LinkState
	before  map[string]bootspec.Link // links that came already
	cards   map[int]string           // who has a network card, by its index
	masters map[string]string        // whose member a link is
	faults  []string
}

func (k *check) fault(format string, args ...any) {
	k.faults = append(k.faults, fmt.Sprintf(format, args...))
}

func (k *check) link(w bootspec.Link) {
	if !validName(w.Name) {
		k.fault("link name %q is not 1 to 15 bytes without white space, slash and colon", w.Name)
	}
	if _, ok := k.before[w.Name]; ok {
		k.fault("link %s is there twice", w.Name)
	}
	switch w.Kind {
	case bootspec.KindPhysical:
		k.card(w)
	case bootspec.KindVLAN:
		if w.VLAN == nil || w.VLAN.ID < 1 || w.VLAN.ID > 4094 {
			k.fault("link %s: a vlan needs a parent and an id from 1 to 4094", w.Name)
		} else if _, ok := k.before[w.VLAN.Parent]; !ok {
			k.fault("link %s: its parent %q is not a link before it", w.Name, w.VLAN.Parent)
		}
	case bootspec.KindBond:
		k.bond(w)
		k.members(w)
	case bootspec.KindBridge:
		k.members(w)
	default:
		k.fault("link %s: unknown kind %q", w.Name, w.Kind)
	}
}

// card finds the network card that a physical link means: one, and nobody else's.
func (k *check) card(w bootspec.Link) {
	var found []LinkState
	for _, h := range k.have {
		if matches(h, w) {
			found = append(found, h)
		}
	}
	switch {
	case len(found) == 0:
		k.fault("link %s: no network card matches %s; there are %s", w.Name, describeMatch(w), describeLinks(k.have))
	case len(found) > 1:
		k.fault("link %s: %d network cards match %s: say which by mac or pci; there are %s", w.Name, len(found), describeMatch(w), describeLinks(found))
	case k.cards[found[0].Index] != "":
		k.fault("link %s and link %s match the same network card %s", k.cards[found[0].Index], w.Name, found[0].MAC)
	default:
		k.cards[found[0].Index] = w.Name
	}
}

func (k *check) bond(w bootspec.Link) {
	switch {
	case w.Bond == nil || !slices.Contains(bootspec.BondModes, w.Bond.Mode):
		k.fault("link %s: a bond needs a mode, one of %s", w.Name, strings.Join(bootspec.BondModes, ", "))
	case w.Bond.Hash != "" && !slices.Contains(bootspec.BondHashes, w.Bond.Hash):
		k.fault("link %s: unknown hash %q, known are %s", w.Name, w.Bond.Hash, strings.Join(bootspec.BondHashes, ", "))
	case w.Bond.LACP != "" && w.Bond.LACP != "slow" && w.Bond.LACP != "fast":
		k.fault("link %s: lacp %q is not slow or fast", w.Name, w.Bond.LACP)
	case w.Bond.MIIMon < 0:
		k.fault("link %s: miimon %d is not a time in milliseconds", w.Name, w.Bond.MIIMon)
	}
}

// members checks that the members of a bond or bridge are links that have nothing of their own.
func (k *check) members(w bootspec.Link) {
	if len(w.Members) == 0 && w.Kind == bootspec.KindBond {
		k.fault("link %s: a bond needs members", w.Name)
	}
	for _, name := range w.Members {
		m, ok := k.before[name]
		switch {
		case !ok:
			k.fault("link %s: its member %q is not a link before it", w.Name, name)
		case w.Kind == bootspec.KindBond && m.Kind != bootspec.KindPhysical:
			k.fault("link %s: its member %s is not a network card", w.Name, name)
		case m.Kind == bootspec.KindBridge:
			k.fault("link %s: its member %s is a bridge", w.Name, name)
		case len(m.Addresses) > 0 || m.DHCP || m.SLAAC:
			k.fault("link %s: its member %s has addresses of its own: give them to %s", w.Name, name, w.Name)
		case k.masters[name] != "":
			k.fault("link %s is a member of %s and of %s", name, k.masters[name], w.Name)
		}
		k.masters[name] = w.Name
	}
}

// validName is what the kernel takes (dev_valid_name).
func validName(s string) bool {
	return len(s) >= 1 && len(s) <= 15 && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r")
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
