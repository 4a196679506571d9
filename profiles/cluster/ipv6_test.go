package cluster

import (
	"strings"
	"testing"
)

// six is the lab with an IPv6 provisioning network; the pairs of words are replaced in it.
func six(pairs ...string) string {
	text := strings.Replace(string(Lab()), "  server: 10.1.0.1 ", "  server6: fd00:1::1\n  server: 10.1.0.1 ", 1)
	text = strings.Replace(text, "cidr: 10.1.0.0/24", "cidr: 10.1.0.0/24, cidr6: fd00:1::/64", 1)
	return strings.NewReplacer(pairs...).Replace(text)
}

func TestIPv6Defaults(t *testing.T) {
	c, err := Parse("six.yaml", []byte(six()))
	if err != nil {
		t.Fatal(err)
	}
	p := c.Provisioning
	if p.Subnet6.String() != "fd00:1::/64" || !p.RouterAdvertisements {
		t.Errorf("%+v", p)
	}
	if a := c.BootAddress6(&c.Nodes[0]); a.String() != "fd00:1::a01:b" {
		t.Errorf("cp-1 boots with %s", a)
	}
	c, err = Parse("six.yaml", []byte(six("cidr6: fd00:1::/64", "cidr6: fd00:1::/64, gateway6: fe80::1", "address: 10.1.0.11", "address: 10.1.0.11, address6: fd00:1::11")))
	if err != nil {
		t.Fatal(err)
	}
	if a := c.BootAddress6(&c.Nodes[0]); a.String() != "fd00:1::11" || c.Provisioning.RouterAdvertisements {
		t.Errorf("cp-1 boots with %s, advertised: %v", a, c.Provisioning.RouterAdvertisements)
	}
	c, err = Parse("lab.yaml", Lab())
	if err != nil || c.BootAddress6(&c.Nodes[0]).IsValid() || c.Provisioning.RouterAdvertisements {
		t.Errorf("without server6: %+v, %v", c.Provisioning, err)
	}
}

func TestIPv6Faults(t *testing.T) {
	for want, pairs := range map[string][]string{
		"six.yaml:12:12: provisioning.server6: fd00:2::1 is no machine's address in the provisioning subnet (fd00:1::/64) (use an address like fd00:1::1)": {"fd00:1::1\n", "fd00:2::1\n"},
		"provisioning.server6: the provisioning network has no IPv6 (set cidr6":                                                                            {", cidr6: fd00:1::/64", ""},
		"provisioning.subnet6: fd00:1::/112 is too small":                                                                                                  {"  server6: fd00:1::1\n", "  server6: fd00:1::1\n  subnet6: fd00:1::/112\n"},
		"provisioning.subnet6: fd00:1::5/64 has bits set beyond its length (write fd00:1::/64)":                                                            {"  server6: fd00:1::1\n", "  server6: fd00:1::1\n  subnet6: fd00:1::5/64\n"},
		"provisioning.subnet6: 10.1.0.0/24 is IPv4":                                                                                                        {"  server6: fd00:1::1\n", "  server6: fd00:1::1\n  subnet6: 10.1.0.0/24\n"},
		"provisioning.routerAdvertisements: means nothing":                                                                                                 {"  server6: fd00:1::1\n", "  routerAdvertisements: true\n"},
		"nodes[0]: its IPv6 address while it boots, fd00:1::a01:b, is also that of provisioning.server6 (give one of them another address":                 {"fd00:1::1\n", "fd00:1::a01:b\n"},
		"nodes[1]: its IPv6 address while it boots, fd00:1::a01:b, is also that of cp-1 (give one of them another address, perhaps by an address6)":        {"address: 10.1.0.21", "address: 10.1.0.21, address6: fd00:1::a01:b"},
	} {
		_, err := Parse("six.yaml", []byte(six(pairs...)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
}
