package network

import (
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

func bondLink(name, mode string, members []string, addresses ...string) bootspec.Link {
	return bootspec.Link{Name: name, Kind: bootspec.KindBond, Members: members, Bond: &bootspec.Bond{Mode: mode}, Addresses: prefixes(addresses...)}
}

func vlanLink(name, parent string, id int, addresses ...string) bootspec.Link {
	return bootspec.Link{Name: name, Kind: bootspec.KindVLAN, VLAN: &bootspec.VLAN{Parent: parent, ID: id}, Addresses: prefixes(addresses...)}
}

// member is a card of a bond or bridge.
func member(index int, name, mac string, master int) LinkState {
	l := card(index, name, mac)
	l.Master = master
	return l
}

func TestDiffOfBondsAndBridges(t *testing.T) {
	cards := []bootspec.Link{physical("eth0", "52:54:00:00:00:11"), physical("eth1", "52:54:00:00:00:12")}
	both := []string{"eth0", "eth1"}
	lacp := BondState{Mode: "802.3ad", MIIMon: 100, LACP: "slow", Hash: "layer3+4"}
	bond := LinkState{Index: 9, Name: "bond0", Kind: "bond", Up: true, MTU: 1500, Bond: lacp, Addresses: prefixes("10.1.0.11/24")}
	onBond := LinkState{Index: 10, Name: "bond0.7", Kind: "vlan", Up: true, MTU: 1500, Parent: 9, VLAN: 7}
	for name, c := range map[string]struct {
		have []LinkState
		want []bootspec.Link
		ops  string
	}{
		"what a member has goes, its bond gets it": {
			[]LinkState{card(2, "eth0", "52:54:00:00:00:11", "10.1.0.100/24"), card(3, "eth1", "52:54:00:00:00:12")},
			append(cards, bondLink("bond0", "802.3ad", both, "10.1.0.11/24"), vlanLink("bond0.7", "bond0", 7)), `
eth0: remove address 10.1.0.100/24
bond0: add bond 802.3ad miimon 100 lacp slow hash layer3+4
eth0: make member of bond0
eth1: make member of bond0
bond0: set accept_ra 0
bond0: set up
bond0: add address 10.1.0.11/24
bond0.7: add vlan 7 on bond0
bond0.7: set accept_ra 0
bond0.7: set up
`},
		"nothing to do": {
			[]LinkState{member(2, "eth0", "52:54:00:00:00:11", 9), member(3, "eth1", "52:54:00:00:00:12", 9), bond, onBond},
			append(cards, bondLink("bond0", "802.3ad", both, "10.1.0.11/24"), vlanLink("bond0.7", "bond0", 7)), "\n"},
		"another mode makes it and what is on it anew": {
			[]LinkState{member(2, "eth0", "52:54:00:00:00:11", 9), member(3, "eth1", "52:54:00:00:00:12", 9), bond, onBond},
			append(cards, bondLink("bond0", "active-backup", both), vlanLink("bond0.7", "bond0", 7)), `
bond0: add bond active-backup miimon 100
eth0: make member of bond0
eth1: make member of bond0
bond0: set accept_ra 0
bond0: set up
bond0.7: add vlan 7 on bond0
bond0.7: set accept_ra 0
bond0.7: set up
`},
		"a member less": {
			[]LinkState{member(2, "eth0", "52:54:00:00:00:11", 9), member(3, "eth1", "52:54:00:00:00:12", 9), bond},
			append(cards, bondLink("bond0", "802.3ad", []string{"eth0"}, "10.1.0.11/24")), `
eth1: release
`},
		"a bridge over a card": {
			[]LinkState{card(2, "eth0", "52:54:00:00:00:11")},
			[]bootspec.Link{cards[0], {Name: "br0", Kind: "bridge", Members: []string{"eth0"}, SLAAC: true}}, `
br0: add bridge
eth0: make member of br0
br0: set accept_ra 2
br0: set up
`},
	} {
		want := bootspec.Network{Links: c.want}
		if err := Check(c.have, want); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := plan(Diff(c.have, want)); got != c.ops[1:] {
			t.Errorf("%s: ops are\n%swanted are\n%s", name, got, c.ops[1:])
		}
	}
}

func TestCheckOfBondsAndBridges(t *testing.T) {
	have := []LinkState{card(2, "eth0", "52:54:00:00:00:11"), card(3, "eth1", "52:54:00:00:00:12")}
	driver := bootspec.Link{Name: "lan", Kind: "physical", Match: &bootspec.Match{Driver: "virtio_net"}}
	err := Check(have, bootspec.Network{Links: []bootspec.Link{
		driver,
		physical("eth0", "52:54:00:00:00:11", "10.1.0.1/24"), physical("eth1", "52:54:00:00:00:12"),
		{Name: "b0", Kind: "bond", Members: []string{"eth1"}},
		bondLink("b1", "802.3AD", []string{"eth1", "eth7"}),
		bondLink("b2", "802.3ad", nil),
		{Name: "b3", Kind: "bond", Members: []string{"eth0"}, Bond: &bootspec.Bond{Mode: "802.3ad", Hash: "layer9"}},
		{Name: "b4", Kind: "bond", Members: []string{"b3"}, Bond: &bootspec.Bond{Mode: "802.3ad", LACP: "quick"}},
		{Name: "br0", Kind: "bridge"}, {Name: "br1", Kind: "bridge", Members: []string{"br0"}},
	}})
	for _, want := range []string{
		"link lan: 2 network cards match driver virtio_net: say which by mac or pci; there are eth0 (mac 52:54:00:00:00:11",
		"link b0: a bond needs a mode, one of active-backup, 802.3ad", "link b1: a bond needs a mode", "link eth1 is a member of b0 and of b1", `link b1: its member "eth7" is not a link before it`,
		"link b2: a bond needs members", `unknown hash "layer9"`, "its member eth0 has addresses of its own: give them to b3", `lacp "quick"`, "its member b3 is not a network card", "its member br0 is a bridge",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error doesn't say %q:\n%v", want, err)
		}
	}
}
