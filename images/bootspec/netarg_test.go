package bootspec

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// bonded has everything on a bond of two cards.
func bonded() Network {
	return Network{DNS: []netip.Addr{netip.MustParseAddr("10.1.0.2")}, Links: []Link{
		{Name: "eth0", Kind: KindPhysical, Match: &Match{MAC: "52:54:00:00:00:11"}},
		{Name: "eth1", Kind: KindPhysical, Match: &Match{Driver: "igb", PCI: "0000:01:00.0"}},
		{Name: "bond0", Kind: KindBond, Members: []string{"eth0", "eth1"}, Bond: &Bond{Mode: BondLACP, LACP: "fast"}},
		{Name: "bond0.102", Kind: KindVLAN, Network: "mgmt", VLAN: &VLAN{Parent: "bond0", ID: 102}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.11/24")}},
		{Name: "eth2", Kind: KindPhysical, Match: &Match{MAC: "52:54:00:00:00:13"}},
		{Name: "br0", Kind: KindBridge, Members: []string{"eth2"}},
		{Name: "br0.7", Kind: KindVLAN, VLAN: &VLAN{Parent: "br0", ID: 7}},
	}}
}

func TestNetworkArgumentComesBack(t *testing.T) {
	value, err := bonded().Argument()
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(value, " \"=,") {
		t.Errorf("%q is no single word", value)
	}
	got, err := ParseNetworkArgument(value)
	want := bonded().Shape()
	if len(want.Links) != 5 {
		t.Errorf("bridges and what is on them are no way to a boot server: %+v", want.Links)
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if strings.Contains(value, "MTAuMS4w") || len(got.Links[3].Addresses) > 0 {
		t.Error("addresses are in it")
	}
	if top := strings.Join(got.Top(), " "); top != "bond0.102 eth2" {
		t.Errorf("the links that carry addresses are %q", top)
	}
}

// TestBootArgument: a machine needs one only where its address is on a bond or a VLAN, and the card that it boots by gives a bond its MAC address.
func TestBootArgument(t *testing.T) {
	n := bonded()
	n.Links[1].Match = &Match{MAC: "52:54:00:00:00:12"}
	value, err := n.BootArgument("52:54:00:00:00:12", netip.MustParseAddr("10.1.0.11"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseNetworkArgument(value)
	if members := strings.Join(got.Links[2].Members, " "); err != nil || members != "eth1 eth0" {
		t.Errorf("the bond has the members %s, %v", members, err)
	}
	if members := strings.Join(n.Links[2].Members, " "); members != "eth0 eth1" {
		t.Errorf("the document itself was changed: %s", members)
	}
	n.Links[4].Addresses = []netip.Prefix{netip.MustParsePrefix("10.9.0.11/24")}
	for _, address := range []string{"10.9.0.11", "10.1.0.99"} {
		if value, err := n.BootArgument("52:54:00:00:00:13", netip.MustParseAddr(address)); value != "" || err != nil {
			t.Errorf("%s: got %q, %v", address, value, err)
		}
	}
}

func TestNetworkArgumentRefuses(t *testing.T) {
	for name, value := range map[string]string{"not base64": "{}", "not JSON": "AAAA", "unknown field": "eyJ4IjoxfQ", "no links": "e30", "too long": strings.Repeat("A", 2000)} {
		if n, err := ParseNetworkArgument(value); err == nil || !strings.Contains(err.Error(), "kernel argument slipway.network") {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
	}
	long := Network{}
	for range 40 {
		long.Links = append(long.Links, bonded().Links...)
	}
	if _, err := long.Argument(); err == nil {
		t.Error("no kernel takes an argument of that length")
	}
}

func FuzzParseNetworkArgument(f *testing.F) {
	value, _ := bonded().Argument()
	f.Add(value)
	f.Fuzz(func(t *testing.T, value string) {
		if n, err := ParseNetworkArgument(value); err == nil && len(n.Links) == 0 {
			t.Error("a network without links")
		}
	})
}
