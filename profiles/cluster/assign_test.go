package cluster_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// pooled is the lab whose worker takes its addresses from pools, with more workers.
func pooled(workers ...string) string {
	doc := strings.Replace(string(cluster.Lab()), "gateway: 10.1.0.1}", "gateway: 10.1.0.1, pool: 10.1.0.20-10.1.0.22}", 1)
	head, _, _ := strings.Cut(doc, "  - name: worker-1\n")
	for i, name := range workers {
		head += fmt.Sprintf("  - name: %s\n    role: worker\n    links:\n      - {name: eth0, mac: \"52:54:00:00:01:%02d\", network: mgmt}\n"+
			"      - {name: eth1, mac: \"52:54:00:00:02:%02d\", network: container, address: 172.16.1.%d}\n", name, i+30, i+30, i+30)
	}
	return head
}

// assign writes the document and runs an assignment as the command does.
func assign(t *testing.T, file, doc string) []cluster.Assigned {
	t.Helper()
	if err := os.WriteFile(file, []byte(doc), 0o644); err != nil {
		t.Fatal(err)
	}
	record, chosen, err := cluster.Assign(file)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := record.Write(&text); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+cluster.AddressesExt, text.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return chosen
}

// TestAssign: nodes keep their addresses whatever comes, goes and moves in the document.
func TestAssign(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rack.yaml")
	address := func(node string) string {
		t.Helper()
		c, err := cluster.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		n, _ := c.Node(node)
		return c.NodeAddress(n).String()
	}
	if got := fmt.Sprint(assign(t, file, pooled("b", "a"))); got != "[{mgmt b 10.1.0.20} {mgmt a 10.1.0.21}]" {
		t.Errorf("assigned are %s", got)
	}
	if got := assign(t, file, pooled("c", "a")); len(got) != 1 || got[0].Address.String() != "10.1.0.22" {
		t.Errorf("assigned are %v: an address of a node that is gone is kept for it", got)
	}
	if a, c := address("a"), address("c"); a != "10.1.0.21" || c != "10.1.0.22" {
		t.Errorf("a has %s, c has %s", a, c)
	}
	if got := assign(t, file, pooled("c", "b", "a")); len(got) != 0 || address("b") != "10.1.0.20" {
		t.Errorf("a node that comes back has %s, assigned are %v", address("b"), got)
	}
	for name, tt := range map[string]struct{ doc, want string }{
		"not assigned yet": {pooled("a", "new"), "new has no address of network mgmt's pool 10.1.0.20-10.1.0.22 yet (run `slipway net assign`, or write its address)"},
		"pool moved":       {strings.Replace(pooled("a"), "10.1.0.20-10.1.0.22", "10.1.0.30-10.1.0.32", 1), "a has 10.1.0.21, which is not in the pool 10.1.0.30-10.1.0.32"},
		"taken": {strings.Replace(pooled("a", "b"), "network: mgmt, address: 10.1.0.11", "network: mgmt, address: 10.1.0.21", 1),
			"address 10.1.0.21 is also that of nodes[0].links[0].address"},
	} {
		if err := os.WriteFile(file, []byte(tt.doc), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := cluster.ParseFile(file); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(file, []byte(pooled("a", "b", "c", "d")), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := cluster.Assign(file); err == nil || !strings.Contains(err.Error(), "has no address left for d") {
		t.Errorf("the pool is empty: %v", err)
	}
	if err := os.WriteFile(file+cluster.AddressesExt, []byte("mgmt:\n  a: 10.1.0.999\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.ParseFile(file); err == nil || !strings.Contains(err.Error(), "rack.yaml.addresses:2:6: mgmt.a") {
		t.Errorf("a bad record: %v", err)
	}
}
