package network

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

func prefixes(s ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, x := range s {
		p = append(p, netip.MustParsePrefix(x))
	}
	return p
}

func card(index int, name, mac string, addresses ...string) LinkState {
	return LinkState{Index: index, Name: name, Kind: "physical", MAC: mac, Driver: "virtio_net", PCI: "0000:00:0" + string(rune('0'+index)) + ".0", Up: true, MTU: 1500, Addresses: prefixes(addresses...)}
}

func tagged(index int, name string, parent, tag int, addresses ...string) LinkState {
	return LinkState{Index: index, Name: name, Kind: "vlan", MAC: "52:54:00:00:00:11", Parent: parent, VLAN: tag, Up: true, MTU: 1500, Addresses: prefixes(addresses...)}
}

func physical(name, mac string, addresses ...string) bootspec.Link {
	return bootspec.Link{Name: name, Kind: "physical", Match: &bootspec.Match{MAC: mac}, Addresses: prefixes(addresses...)}
}

func plan(ops []Op) string {
	var b strings.Builder
	for _, o := range ops {
		b.WriteString(o.String() + "\n")
	}
	return b.String()
}

func TestDiff(t *testing.T) {
	gateway := netip.MustParseAddr("10.1.0.1")
	boot := card(2, "eth0", "52:54:00:00:00:11", "10.1.0.100/24")
	boot.Routes = []RouteState{{To: defaultRoute, Via: gateway, Ours: true}, {To: netip.MustParsePrefix("10.9.0.0/16"), Via: gateway}}
	mgmt := physical("eth0", "52:54:00:00:00:11", "10.1.0.11/24")
	mgmt.Routes = []bootspec.Route{{To: defaultRoute, Via: gateway, Metric: 100}}
	vlan := bootspec.Link{Name: "eth0.101", Kind: "vlan", VLAN: &bootspec.VLAN{Parent: "eth0", ID: 101}, MTU: 1450, Addresses: prefixes("172.16.1.11/24")}
	for name, c := range map[string]struct {
		have []LinkState
		want []bootspec.Link
		ops  string
	}{
		"boot address gives way, after its successor is there; others' routes stay": {
			[]LinkState{boot}, []bootspec.Link{mgmt}, `
eth0: add address 10.1.0.11/24
eth0: add route 0.0.0.0/0 via 10.1.0.1 metric 100
eth0: remove route 0.0.0.0/0 via 10.1.0.1
eth0: remove address 10.1.0.100/24
`},
		"nothing to do": {
			[]LinkState{card(2, "eth0", "52:54:00:00:00:11", "10.1.0.11/24", "fe80::1/64")},
			[]bootspec.Link{physical("eth0", "52:54:00:00:00:11", "10.1.0.11/24")}, "\n"},
		"vlan": {
			[]LinkState{card(2, "eth0", "52:54:00:00:00:11")}, []bootspec.Link{physical("eth0", "52:54:00:00:00:11"), vlan}, `
eth0.101: add vlan 101 on eth0
eth0.101: set mtu 1450
eth0.101: set accept_ra 0
eth0.101: set up
eth0.101: add address 172.16.1.11/24
`},
		"the VLAN that firmware has booted over becomes the document's": {
			[]LinkState{card(2, "boot", "52:54:00:00:00:11"), tagged(3, "boot.101", 2, 101, "172.16.1.99/24")},
			[]bootspec.Link{physical("eth0", "52:54:00:00:00:11"), vlan}, `
boot: rename to eth0
boot.101: rename to eth0.101
eth0.101: set mtu 1450
eth0.101: add address 172.16.1.11/24
eth0.101: remove address 172.16.1.99/24
`},
		"the VLAN that firmware has booted over is not the document's": {
			[]LinkState{card(2, "boot", "52:54:00:00:00:11"), tagged(3, "boot.102", 2, 102, "10.1.0.99/24")},
			[]bootspec.Link{physical("eth0", "52:54:00:00:00:11", "10.1.0.11/24")}, `
boot: rename to eth0
eth0: add address 10.1.0.11/24
boot.102: remove
`},
		"another's VLAN with that tag on another card stays": {
			[]LinkState{card(2, "eth0", "52:54:00:00:00:11"), card(3, "eth1", "52:54:00:00:00:22"), tagged(4, "theirs", 3, 101)},
			[]bootspec.Link{physical("eth0", "52:54:00:00:00:11"), vlan}, `
eth0.101: add vlan 101 on eth0
eth0.101: set mtu 1450
eth0.101: set accept_ra 0
eth0.101: set up
eth0.101: add address 172.16.1.11/24
`},
		"names swapped": {
			[]LinkState{card(2, "eth0", "52:54:00:00:00:22"), card(3, "eth1", "52:54:00:00:00:11")},
			[]bootspec.Link{physical("eth0", "52:54:00:00:00:11"), physical("eth1", "52:54:00:00:00:22")}, `
eth0: rename to slipway0
eth1: rename to slipway1
slipway0: rename to eth1
slipway1: rename to eth0
`},
		"names moved along": {
			[]LinkState{card(2, "eth1", "52:54:00:00:00:11"), card(3, "eth0", "52:54:00:00:00:22")},
			[]bootspec.Link{physical("eth0", "52:54:00:00:00:11"), physical("lan0", "52:54:00:00:00:22")}, `
eth0: rename to lan0
eth1: rename to slipway0
slipway0: rename to eth0
`},
		"a stranger has the name": {
			[]LinkState{card(2, "eth0", "52:54:00:00:00:99"), card(3, "eth1", "52:54:00:00:00:11")},
			[]bootspec.Link{physical("eth0", "52:54:00:00:00:11")}, `
eth0: rename to slipway0
eth1: rename to slipway1
slipway1: rename to eth0
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

func TestCheckTellsAllFaults(t *testing.T) {
	have := []LinkState{card(2, "eth0", "52:54:00:00:00:11"), card(3, "eth1", "52:54:00:00:00:12")}
	err := Check(have, bootspec.Network{Links: []bootspec.Link{
		physical("eth0", "52:54:00:00:00:77"),
		physical("lan", "52:54:00:00:00:11"),
		physical("lan", "52:54:00:00:00:11"),
		{Name: "bond0", Kind: "bond"},
		{Name: "v", Kind: "vlan", VLAN: &bootspec.VLAN{Parent: "nonesuch", ID: 4}},
		{Name: "v2", Kind: "vlan", VLAN: &bootspec.VLAN{Parent: "eth0", ID: 4095}},
		{Name: "a name too long for it", Kind: "physical"},
		{Name: "x", Kind: "token ring"},
	}})
	for _, want := range []string{
		"no network card matches mac 52:54:00:00:00:77; there are eth0 (mac 52:54:00:00:00:11, driver virtio_net, pci 0000:00:02.0), eth1 (mac 52:54:00:00:00:12",
		"link lan is there twice", "match the same network card", "link bond0: a bond needs a mode",
		`parent "nonesuch" is not a link before it`, "id from 1 to 4094", "1 to 15 bytes", `unknown kind "token ring"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error doesn't say %q:\n%v", want, err)
		}
	}
}
