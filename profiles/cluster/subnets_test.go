package cluster_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// withSubnets is the lab with further subnets, and a network for one of them.
func withSubnets(subnets string) string {
	doc := strings.Replace(string(cluster.Lab()), "\nnetworks:", "  subnets:\n    - "+subnets+"\n\nnetworks:\n  far: {cidr: 10.3.0.0/16, gateway: 10.3.0.1}", 1)
	return strings.Replace(doc, `address: 172.16.1.21}`, "address: 172.16.1.21}\n"+`      - {name: eth2, mac: "52:54:00:00:02:21", network: far, address: 10.3.0.21}`, 1)
}

// TestSubnets: a node that has an address in a further subnet boots there, unless it boots from its management link.
func TestSubnets(t *testing.T) {
	for _, c := range []struct{ subnets, match, want string }{
		{"{subnet: 10.3.0.0/24}", "52:54:00:00:00:21", "10.1.0.21 52:54:00:00:00:21 10.1.0.1"},
		{"{subnet: 10.3.0.0/24}", "52:54:00:00:02:21", "10.3.0.21 52:54:00:00:02:21 10.1.0.1"},
		{"{subnet: 10.3.0.0/24, server: 10.3.0.2}", "52:54:00:00:02:21", "10.3.0.21 52:54:00:00:02:21 10.3.0.2"},
		{"{subnet: 10.3.0.0/24, server: 10.3.0.2}", "", "10.1.0.21 52:54:00:00:00:21 10.1.0.1"},
	} {
		match := fmt.Sprintf("match: {mac: %q}", c.match)
		if c.match == "" {
			match = "match: {}"
		}
		doc, err := cluster.Parse("lab.yaml", []byte(strings.Replace(withSubnets(c.subnets), `match: {mac: "52:54:00:00:00:21"}`, match, 1)))
		if err != nil {
			t.Errorf("%s: %v", c.subnets, err)
			continue
		}
		n, _ := doc.Node("worker-1")
		if got := fmt.Sprintf("%s %s %s", doc.BootAddress(n), doc.BootMAC(n), doc.BootServer(n)); got != c.want {
			t.Errorf("%s, %s: %s, want %s", c.subnets, match, got, c.want)
		}
		if gateway := doc.Provisioning.Subnets[0].Gateway.String(); gateway != "10.3.0.1" {
			t.Errorf("the gateway is %s, want that of its network", gateway)
		}
	}
	// Its management network is none where machines boot, so it boots from the other link.
	doc, err := cluster.Parse("lab.yaml", []byte(strings.NewReplacer("subnet: 10.1.0.0/24", "subnet: 10.1.0.0/28", "pool: 10.1.0.100-10.1.0.199", "pool: 10.1.0.2-10.1.0.9",
		`match: {mac: "52:54:00:00:00:21"}`, "match: {}").Replace(withSubnets("{subnet: 10.3.0.0/24}"))))
	if err != nil {
		t.Fatal(err)
	}
	n, _ := doc.Node("worker-1")
	if got := fmt.Sprintf("%s %s", doc.BootAddress(n), doc.BootMAC(n)); got != "10.3.0.21 52:54:00:00:02:21" {
		t.Errorf("it boots at %s", got)
	}
}

// TestSubnetFaults: what is wrong with a further subnet, each with its place.
func TestSubnetFaults(t *testing.T) {
	for subnets, want := range map[string]string{
		"{server: 10.3.0.2}":                                                "provisioning.subnets[0].subnet: is missing",
		"{subnet: 10.3.0.1/24}":                                             "provisioning.subnets[0].subnet: 10.3.0.1/24 has bits set beyond its length",
		"{subnet: 10.1.0.128/25, server: 10.1.0.200}":                       "provisioning.subnets[0].subnet: 10.1.0.128/25 overlaps 10.1.0.0/24",
		"{subnet: 10.3.0.0/24, server: 10.4.0.1}":                           "provisioning.subnets[0].server: 10.4.0.1 is not in the subnet (10.3.0.0/24)",
		"{subnet: 10.3.0.0/24, gateway: 10.4.0.1}":                          "provisioning.subnets[0].gateway: 10.4.0.1 is not in the subnet (10.3.0.0/24)",
		"{subnet: 10.4.0.0/24}":                                             "provisioning.subnets[0].gateway: is missing: behind a relay machines reach the boot server through a router",
		"{subnet: 10.3.0.0/24, pool: 10.3.0.1-10.3.0.9}":                    "the pool 10.3.0.1-10.3.0.9 contains the gateway's address 10.3.0.1",
		"{subnet: 10.3.0.0/24, server: 10.3.0.9, pool: 10.3.0.9-10.3.0.10}": "the pool 10.3.0.9-10.3.0.10 contains the server's address 10.3.0.9",
		"{subnet: 10.3.0.0/24, pool: 10.3.0.20-10.3.0.30}":                  "the pool 10.3.0.20-10.3.0.30 contains worker-1's address 10.3.0.21",
		"{subnet: 10.3.0.0/24, pool: 10.3.1.20-10.3.1.30}":                  "provisioning.subnets[0].pool: 10.3.1.20 is not in the subnet",
		"{subnet: 10.3.0.0/24, server: 10.3.0.21}":                          "address 10.3.0.21 is also that of provisioning.subnets[0].server",
	} {
		_, err := cluster.Parse("lab.yaml", []byte(withSubnets(subnets)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want: %s", subnets, err, want)
		}
	}
}
