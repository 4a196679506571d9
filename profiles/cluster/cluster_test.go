package cluster_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/profiles/cluster"
)

func TestExamples(t *testing.T) {
	for name, data := range map[string][]byte{"lab": cluster.Lab(), "reference": cluster.Reference()} {
		c, err := cluster.Parse(name+".yaml", data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.Metadata.Name != name || c.Kubernetes.ClusterDomain != "cluster.local" || c.Provisioning.HTTPPort != 8080 || c.Provisioning.UnknownMachines != "list" {
			t.Errorf("%s: wrong defaults: %+v", name, c)
		}
	}
}

func TestHelpers(t *testing.T) {
	c, err := cluster.Parse("lab.yaml", cluster.Lab())
	if err != nil {
		t.Fatal(err)
	}
	w, ok := c.NodeByMAC("52-54-00-00-01-21")
	if !ok || w.Name != "worker-1" {
		t.Fatalf("NodeByMAC: %v %v", w, ok)
	}
	if _, ok := c.NodeByMAC("52:54:00:00:00:99"); ok {
		t.Error("a strange machine was recognised")
	}
	if _, ok := c.NodeByMAC(""); ok {
		t.Error("no MAC address was recognised")
	}
	for what, got := range map[string][2]string{
		"management":   {c.Management(), "mgmt"},
		"container":    {c.Container(), "container"},
		"node address": {c.NodeAddress(w).String(), "10.1.0.21"},
		"pod address":  {c.PodAddress(w).String(), "172.16.1.21"},
		"boot address": {c.BootAddress(w).String(), "10.1.0.21"},
		"boot MAC":     {string(c.BootMAC(w)), "52:54:00:00:00:21"},
		"endpoint":     {c.Endpoint(), "10.1.0.11:6443"},
		"service":      {c.KubernetesService().String(), "10.96.0.1"},
		"dns":          {c.ClusterDNS().String(), "10.96.0.10"},
		"planes":       {c.ControlPlanes()[0].Name, "cp-1"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: got %s, want %s", what, got[0], got[1])
		}
	}
	if w.Address("storage").IsValid() {
		t.Error("an address on a network that isn't there")
	}
}

// TestOneNetwork has the smallest document: pods share the management network, the boot MAC is that of its link.
func TestOneNetwork(t *testing.T) {
	c, err := cluster.Parse("one.yaml", []byte(`
apiVersion: slipway.dev/v1alpha1
kind: Cluster
metadata: {name: one}
provisioning: {server: 10.1.0.1}
networks:
  mgmt: {cidr: 10.1.0.0/24, vlan: 10, mtu: 9000}
nodes:
  - {name: a, role: control-plane, links: [{name: eth0, mac: "52:54:00:00:00:0A"}, {name: eth0.10, parent: eth0, network: mgmt, address: 10.1.0.2}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	n := &c.Nodes[0]
	if got := c.BootMAC(n); got != "52:54:00:00:00:0a" {
		t.Errorf("boot MAC %s", got)
	}
	if c.PodAddress(n) != netip.MustParseAddr("10.1.0.2") || c.Provisioning.Subnet.String() != "10.1.0.0/24" {
		t.Errorf("%s %s", c.PodAddress(n), c.Provisioning.Subnet)
	}
	if l := n.Links[1]; l.Kind != "vlan" || l.VLAN != 10 || l.MTU != 9000 {
		t.Errorf("VLAN link: %+v", l)
	}
}

func TestSnippets(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("all.ign", "A")
	write("one.ign", "B")
	doc := strings.Replace(string(cluster.Lab()), "networks:\n", "ignition: [all.ign]\nnetworks:\n", 1)
	doc = strings.Replace(doc, "    role: worker\n", "    role: worker\n    ignition: [one.ign]\n", 1)
	write("cluster.yaml", doc)
	c, err := cluster.ParseFile(filepath.Join(dir, "cluster.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	w, _ := c.Node("worker-1")
	cp, _ := c.Node("cp-1")
	if got := c.Snippets(w); len(got) != 2 || got[0].Path != "all.ign" || string(got[1].Data) != "B" {
		t.Errorf("worker: %v", got)
	}
	if got := c.Snippets(cp); len(got) != 1 || string(got[0].Data) != "A" {
		t.Errorf("control plane: %v", got)
	}
	write("cluster.yaml", strings.Replace(doc, "[all.ign]", "[../all.ign, gone.ign]", 1))
	_, err = cluster.ParseFile(filepath.Join(dir, "cluster.yaml"))
	want := `cluster.yaml:15:12: ignition[0]: "../all.ign" is not a path in the document's folder (write it relative to the cluster document, without ..)`
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "cluster.yaml:15:24: ignition[1]: cannot read Ignition file: ") {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if _, err := cluster.ParseFile(filepath.Join(dir, "none.yaml")); err == nil || !strings.HasPrefix(err.Error(), "cannot read cluster document: ") {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(cluster.Lab())
	f.Add(cluster.Reference())
	for _, tt := range faults {
		f.Add([]byte(tt.document()))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := cluster.Parse("f", data)
		if err != nil {
			return
		}
		for i := range c.Nodes {
			n := &c.Nodes[i]
			if !c.NodeAddress(n).IsValid() || !c.PodAddress(n).IsValid() || c.BootMAC(n) == "" {
				t.Fatalf("a node without addresses passed: %+v", n)
			}
		}
		if len(c.ControlPlanes())%2 == 0 || c.Endpoint() == "" || !c.ClusterDNS().IsValid() {
			t.Fatalf("%+v", c)
		}
	})
}
