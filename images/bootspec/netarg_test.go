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
