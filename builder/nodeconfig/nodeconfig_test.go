package nodeconfig_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	ignition "github.com/coreos/ignition/v2/config/v3_5"

	"github.com/slipway-os/slipway/builder/nodeconfig"
	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

var update = flag.Bool("update", false, "write the golden files anew")

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func environment(seed byte) pki.Environment {
	return pki.Environment{Now: now, Rand: mathrand.NewChaCha8([32]byte{seed})}
}

func parse(t *testing.T, doc string) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Parse("cluster.yaml", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func identity(t *testing.T, c *cluster.Cluster) *pki.Identity {
	t.Helper()
	id, err := pki.Create(filepath.Join(t.TempDir(), "identity"), c, environment(1))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// render is a node's configuration as a tree that people read: path, mode and content of each file.
func render(t *testing.T, c *cluster.Cluster, id *pki.Identity, node string) (raw []byte, tree string) {
	t.Helper()
	raw, err := nodeconfig.Render(c, node, id, nodeconfig.Environment{Environment: environment(2), Server: "http://10.1.0.1:8080"})
	if err != nil {
		t.Fatal(err)
	}
	config, report, err := ignition.Parse(raw)
	if err != nil || len(report.Entries) > 0 {
		t.Fatalf("%v\n%s", err, report)
	}
	var b strings.Builder
	for _, f := range config.Storage.Files {
		if f.Overwrite == nil || !*f.Overwrite {
			t.Errorf("%s would not replace the image's", f.Path)
		}
		fmt.Fprintf(&b, "-- %04o %s --\n%s", *f.Mode, f.Path, content(t, *f.Contents.Source))
	}
	return raw, b.String()
}

func content(t *testing.T, source string) []byte {
	t.Helper()
	encoded, ok := strings.CutPrefix(source, "data:;base64,")
	if !ok {
		t.Fatalf("not a data URL: %.30s", source)
	}
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var (
	armoured = regexp.MustCompile(`(?s)-----BEGIN ([A-Z ]+)-----.*?-----END [A-Z ]+-----`)
	embedded = regexp.MustCompile(`((?:-data|secret): )[A-Za-z0-9+/=]{40,}`)
)

// redact replaces keys and certificates by their kind: what is in them is asserted in builder/pki.
func redact(tree string) string {
	return embedded.ReplaceAllString(armoured.ReplaceAllString(tree, "($1)"), "$1(base64)")
}

// TestGolden renders both nodes of the lab document. Run with -update to write the golden files anew.
func TestGolden(t *testing.T) {
	c := parse(t, string(cluster.Lab()))
	id := identity(t, c)
	for _, node := range []string{"cp-1", "worker-1"} {
		_, tree := render(t, c, id, node)
		got := redact(tree)
		path := filepath.Join("testdata", "lab-"+node+".txt")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, path, got, string(want))
	}
}

// compare reports the first line that differs.
func compare(t *testing.T, path, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			t.Errorf("%s:%d: got\n%s\nwant\n%s", path, i+1, g[i], w[i])
			return
		}
	}
	if len(g) != len(w) {
		t.Errorf("%s: %d lines, want %d", path, len(g), len(w))
	}
}

func TestPure(t *testing.T) {
	c := parse(t, string(cluster.Lab()))
	id := identity(t, c)
	first, _ := render(t, c, id, "cp-1")
	second, _ := render(t, c, id, "cp-1")
	if !bytes.Equal(first, second) {
		t.Error("the same arguments gave different bytes")
	}
}

// TestWorkerHoldsNoSecretOfTheCluster walks all that a worker's configuration holds, decoded as deep as it goes, for the
// keys that only control planes may have.
func TestWorkerHoldsNoSecretOfTheCluster(t *testing.T) {
	c := parse(t, string(cluster.Lab()))
	id := identity(t, c)
	secrets := map[string][]byte{"encryption key": id.EncryptionKey}
	for name, a := range map[string]*pki.Authority{"cluster CA": id.CA, "etcd CA": id.Etcd, "front proxy CA": id.FrontProxy} {
		raw, err := a.Key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		secrets[name] = raw
	}
	raw, err := id.ServiceAccount.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	secrets["service account key"] = raw
	finds := func(node string) map[string]bool {
		config, _ := render(t, c, id, node)
		found := map[string]bool{}
		for _, blob := range unwrap(config) {
			for name, secret := range secrets {
				found[name] = found[name] || bytes.Contains(blob, secret)
			}
		}
		return found
	}
	for name, found := range finds("worker-1") {
		if found {
			t.Errorf("the worker's configuration holds the %s", name)
		}
	}
	// The search finds what is there, and no authority but the cluster's leaves the identity.
	want := map[string]bool{"cluster CA": true, "etcd CA": false, "front proxy CA": false, "service account key": true, "encryption key": true}
	for name, found := range finds("cp-1") {
		if found != want[name] {
			t.Errorf("the control plane's configuration holds the %s: %v, want %v", name, found, want[name])
		}
	}
}

// unwrap is data and all that is in it as JSON strings, data URLs, PEM or base64.
func unwrap(data []byte) [][]byte {
	out := [][]byte{data}
	for i := 0; i < len(out) && i < 10_000; i++ {
		rest := out[i]
		for block, next := pem.Decode(rest); block != nil; block, next = pem.Decode(next) {
			out = append(out, block.Bytes)
		}
		for _, word := range strings.FieldsFunc(string(rest), func(r rune) bool { return strings.ContainsRune(" \n\t\",;:{}[]", r) }) {
			if b, err := base64.StdEncoding.DecodeString(word); err == nil && len(b) > 16 {
				out = append(out, b)
			}
		}
	}
	return out
}

func TestNodeDocument(t *testing.T) {
	c := parse(t, string(cluster.Lab()))
	id := identity(t, c)
	for _, n := range c.Nodes {
		files, err := nodeconfig.Files(c, &n, id, nodeconfig.Environment{Environment: environment(2), Server: "http://10.1.0.1:8080"})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			switch f.Path {
			case bootspec.NodeDocument:
				if d, err := bootspec.ParseNode(f.Data); err != nil || d.Name != n.Name || d.Role != n.Role {
					t.Errorf("%s: %+v %v", n.Name, d, err)
				}
			case bootspec.NodeEnvironment:
				for line := range strings.Lines(string(f.Data)) {
					if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); !ok || name == "" || strings.ContainsAny(value, "\"' \t\\$") {
						t.Errorf("%s: %q is not a plain line for systemd", n.Name, line)
					}
				}
			}
		}
	}
}

// TestReference has what three control planes say of each other.
func TestReference(t *testing.T) {
	c := parse(t, string(cluster.Reference()))
	_, tree := render(t, c, identity(t, c), "cp-2")
	for _, want := range []string{
		"SLIPWAY_ETCD_ENDPOINTS=https://10.1.0.12:2379,https://10.1.0.11:2379,https://10.1.0.13:2379\n",
		"SLIPWAY_ETCD_CLUSTER=cp-1=https://10.1.0.11:2380,cp-2=https://10.1.0.12:2380,cp-3=https://10.1.0.13:2380\n",
		"SLIPWAY_API_SERVER=https://127.0.0.1:7443\n",
		`"api": {
    "servers": [
      "10.1.0.11:6443",
      "10.1.0.12:6443",
      "10.1.0.13:6443"
    ],
    "virtualAddress": {
      "address": "10.1.0.5",
      "link": "eth0",
      "server": "10.1.0.12:6443",
      "router": 5,
      "priority": 215
    }
  },`,
		"SLIPWAY_API_SERVER_COUNT=3\n",
		"10.1.0.22 worker-2\n",
	} {
		if !strings.Contains(tree, want) {
			t.Errorf("%q is missing", want)
		}
	}
	_, tree = render(t, c, identity(t, c), "worker-2")
	if want := `"10.1.0.13:6443"`; !strings.Contains(tree, want) || strings.Contains(tree, "virtualAddress") {
		t.Errorf("a worker must know all API servers, and hold no virtual address:\n%s", tree)
	}
}

// TestHeartbeat: etcd has its own default unless the document says otherwise, and then elects after ten of them.
func TestHeartbeat(t *testing.T) {
	c := parse(t, string(cluster.Reference()))
	if _, tree := render(t, c, identity(t, c), "cp-1"); strings.Contains(tree, "SLIPWAY_ETCD_HEARTBEAT=") {
		t.Error("the document doesn't say it")
	}
	c = parse(t, string(cluster.Reference())+"\netcd: {heartbeat: 1500ms}\n")
	if _, tree := render(t, c, identity(t, c), "cp-1"); !strings.Contains(tree, "SLIPWAY_ETCD_HEARTBEAT=1500\nSLIPWAY_ETCD_ELECTION=15000\n") {
		t.Errorf("the heartbeat is missing in\n%s", redact(tree))
	}
	for _, bad := range []string{"10ms", "6s", "-1s"} {
		if _, err := cluster.Parse("c.yaml", []byte(string(cluster.Reference())+"\netcd: {heartbeat: "+bad+"}\n")); err == nil || !strings.Contains(err.Error(), "etcd.heartbeat") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestVirtualAddressOnVLAN: the link is the kernel's, and the name of the endpoint is in the document.
func TestVirtualAddressOnVLAN(t *testing.T) {
	doc := strings.Replace(string(cluster.Reference()), "gateway: 10.1.0.1}", "gateway: 10.1.0.1, vlan: 10}", 1)
	doc = strings.Replace(doc, "  virtualAddress: 10.1.0.5 ", "  endpoint: api.example.com\n  virtualAddress: 10.1.0.5 ", 1)
	c := parse(t, doc)
	_, tree := render(t, c, identity(t, c), "cp-3")
	want := `"virtualAddress": {
      "address": "10.1.0.5",
      "link": "eth0.10",
      "server": "10.1.0.13:6443",
      "router": 5,
      "priority": 180
    }`
	if !strings.Contains(tree, want) {
		t.Errorf("%s is missing in\n%s", want, tree)
	}
}

const rich = `
apiVersion: slipway.dev/v1alpha1
kind: Cluster
metadata: {name: rich}
kubernetes: {podCIDR: 10.200.0.0/16, serviceCIDR: 10.100.0.0/20, clusterDomain: k8s.example.com, endpoint: api.example.com}
provisioning: {server: 10.1.0.1}
dns: [10.1.0.2]
ntp: [10.1.0.1, ntp.example.com]
networks:
  mgmt: {cidr: 10.1.0.0/24, gateway: 10.1.0.1, dns: [10.1.0.2, 10.1.0.3], domains: [example.com]}
  pods: {cidr: 172.16.1.0/24, vlan: 101, mtu: 9000, role: container}
  out: {cidr: 192.0.2.0/26, gateway: 192.0.2.1, vlan: 7, role: external}
nodes:
  - name: a
    role: control-plane
    links:
      - {name: stor0, parent: eth1, vlan: 300, dhcp: true}
      - {name: eth0, mac: "52:54:00:00:00:11", network: mgmt, address: 10.1.0.11}
      - {name: eth1, mac: "52:54:00:00:01:11", network: pods, address: 172.16.1.11}
      - {name: out0, parent: eth0, network: out, address: 192.0.2.11}
    labels: {rack: r1, example.com/disk: ssd}
    taints: ["dedicated=db:NoSchedule", "slow:PreferNoSchedule"]
`

// TestNetwork has the kernel links of a node with VLANs, as lines.
func TestNetwork(t *testing.T) {
	c := parse(t, rich)
	network := nodeconfig.Network(c, &c.Nodes[0])
	var lines []string
	for _, l := range network.Links {
		data, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(data))
	}
	lines = append(lines, fmt.Sprint("dns ", network.DNS, " domains ", network.Domains))
	want := `{"name":"eth0","kind":"physical","network":"mgmt","match":{"mac":"52:54:00:00:00:11"},"addresses":["10.1.0.11/24"],"routes":[{"to":"0.0.0.0/0","via":"10.1.0.1","metric":200}]}
{"name":"eth1","kind":"physical","match":{"mac":"52:54:00:00:01:11"},"mtu":9000}
{"name":"stor0","kind":"vlan","dhcp":true,"metric":300,"vlan":{"parent":"eth1","id":300}}
{"name":"eth1.101","kind":"vlan","network":"pods","mtu":9000,"addresses":["172.16.1.11/24"],"vlan":{"parent":"eth1","id":101}}
{"name":"out0","kind":"vlan","network":"out","addresses":["192.0.2.11/26"],"routes":[{"to":"0.0.0.0/0","via":"192.0.2.1","metric":100}],"vlan":{"parent":"eth0","id":7}}
dns [10.1.0.2 10.1.0.3] domains [example.com]`
	compare(t, "links", strings.Join(lines, "\n"), want)
}

// TestNetworkOfBonds has the kernel links of a node whose networks are all on one bond, and of one with a bridge and IPv6.
func TestNetworkOfBonds(t *testing.T) {
	doc := strings.Replace(rich, "mgmt: {cidr: 10.1.0.0/24, gateway: 10.1.0.1,", "mgmt: {cidr: 10.1.0.0/24, vlan: 102, gateway: 10.1.0.1, cidr6: \"2001:db8::/64\", gateway6: fe80::1, routes: [{to: 10.8.0.0/16, via: 10.1.0.2, metric: 50}],", 1)
	head, _, _ := strings.Cut(doc, "    links:\n")
	c := parse(t, head+`    match: {mac: "52:54:00:00:01:11"}
    links:
      - {name: pods, parent: bond0, network: pods, address: 172.16.1.11}
      - {name: bond0, members: [lan0, lan1], bond: {mode: 802.3ad, lacp: fast, hash: layer2+3}, network: mgmt, address: 10.1.0.11, address6: "2001:db8::11"}
      - {name: br0, kind: bridge, members: [lan2], slaac: true, mtu: 2000}
      - {name: lan0, driver: igb, pci: "0000:01:00.0"}
      - {name: lan1, mac: "52:54:00:00:00:12"}
      - {name: lan2, mac: "52:54:00:00:00:13"}
`)
	data, err := json.Marshal(nodeconfig.Network(c, &c.Nodes[0]).Links)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"name":"lan0","kind":"physical","match":{"driver":"igb","pci":"0000:01:00.0"},"mtu":9000}
{"name":"lan1","kind":"physical","match":{"mac":"52:54:00:00:00:12"},"mtu":9000}
{"name":"lan2","kind":"physical","match":{"mac":"52:54:00:00:00:13"},"mtu":2000}
{"name":"bond0","kind":"bond","mtu":9000,"members":["lan0","lan1"],"bond":{"mode":"802.3ad","lacp":"fast","hash":"layer2+3"}}
{"name":"pods","kind":"vlan","network":"pods","mtu":9000,"addresses":["172.16.1.11/24"],"vlan":{"parent":"bond0","id":101}}
{"name":"bond0.102","kind":"vlan","network":"mgmt","addresses":["10.1.0.11/24","2001:db8::11/64"],"routes":[{"to":"0.0.0.0/0","via":"10.1.0.1","metric":200},{"to":"::/0","via":"fe80::1","metric":200},{"to":"10.8.0.0/16","via":"10.1.0.2","metric":50}],"vlan":{"parent":"bond0","id":102}}
{"name":"br0","kind":"bridge","mtu":2000,"slaac":true,"members":["lan2"]}`
	compare(t, "links", strings.ReplaceAll(strings.Trim(string(data), "[]"), "},{\"name", "}\n{\"name"), want)
}

// TestChoices has what the document's other fields change.
func TestChoices(t *testing.T) {
	c := parse(t, rich)
	_, tree := render(t, c, identity(t, c), "a")
	for _, want := range []string{
		"SLIPWAY_NODE_LABELS=example.com/disk=ssd,rack=r1\n",
		"SLIPWAY_CLUSTER_DNS=10.100.0.10\n",
		"SLIPWAY_SERVICE_ACCOUNTS=https://kubernetes.default.svc.k8s.example.com\n",
		"SLIPWAY_POD_ADDRESS=172.16.1.11\n",
		"[Time]\nNTP=10.1.0.1 ntp.example.com\n",
		"        kubernetes k8s.example.com in-addr.arpa ip6.arpa {\n",
		"        forward . 10.1.0.2 10.1.0.3\n",
		"registerWithTaints:\n  - key: dedicated\n    value: db\n    effect: NoSchedule\n  - key: slow\n    effect: PreferNoSchedule\n",
		"clusterDomain: k8s.example.com\n",
	} {
		if !strings.Contains(tree, want) {
			t.Errorf("%q is missing in\n%s", want, redact(tree))
		}
	}
}

// withSnippet is the lab cluster with one Ignition file for the worker.
func withSnippet(t *testing.T, content string) *cluster.Cluster {
	t.Helper()
	dir := t.TempDir()
	doc := strings.Replace(string(cluster.Lab()), "    role: worker\n", "    role: worker\n    ignition: [own.ign]\n", 1)
	for name, data := range map[string]string{"cluster.yaml": doc, "own.ign": content} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := cluster.ParseFile(filepath.Join(dir, "cluster.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSnippet(t *testing.T) {
	c := withSnippet(t, `{"ignition": {"version": "3.2.0"},
  "storage": {"files": [{"path": "/etc/motd", "contents": {"source": "data:,hello"}}]},
  "systemd": {"units": [{"name": "mine.service", "enabled": true, "contents": "[Service]\nExecStart=/usr/bin/true\n"}]}}`)
	id := identity(t, c)
	env := nodeconfig.Environment{Environment: environment(2)}
	worker, err := nodeconfig.Render(c, "worker-1", id, env)
	if err != nil {
		t.Fatal(err)
	}
	other, err := nodeconfig.Render(c, "cp-1", id, env)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"/etc/motd"`, `"data:,hello"`, `"mine.service"`, `"/etc/kubernetes/kubelet.yaml"`} {
		if !bytes.Contains(worker, []byte(want)) {
			t.Errorf("the worker lacks %s", want)
		}
	}
	if bytes.Contains(other, []byte("mine.service")) {
		t.Error("the other node got it too")
	}
}

func TestSnippetRefused(t *testing.T) {
	const disks = " can't be used (disk layout is described in the cluster document, not by Ignition)"
	const remote = " can't be used (put its content into a file beside the cluster document and name it there)"
	for _, tt := range []struct{ name, in, want string }{
		{"disks", `{"ignition": {"version": "3.5.0"}, "storage": {"disks": [{"device": "/dev/sda", "wipeTable": true}]}}`, "own.ign: storage.disks" + disks},
		{"raid", `{"ignition": {"version": "3.5.0"}, "storage": {"raid": [{"name": "a", "level": "raid1", "devices": ["/dev/sda", "/dev/sdb"]}]}}`, "own.ign: storage.raid" + disks},
		{"luks", `{"ignition": {"version": "3.5.0"}, "storage": {"luks": [{"name": "a", "device": "/dev/sda"}]}}`, "own.ign: storage.luks" + disks},
		{"filesystems", `{"ignition": {"version": "3.5.0"}, "storage": {"filesystems": [{"device": "/dev/sda", "format": "ext4", "path": "/data"}]}}`, "own.ign: storage.filesystems" + disks},
		{"kernel arguments", `{"ignition": {"version": "3.5.0"}, "kernelArguments": {"shouldExist": ["quiet"]}}`, "own.ign: kernelArguments can't be used (they are part of the image: kernelArguments of the image definition)"},
		{"replace", `{"ignition": {"version": "3.5.0", "config": {"replace": {"source": "http://10.1.0.1/x"}}}}`, "own.ign: ignition.config.replace" + remote},
		{"source in a cloud", `{"ignition": {"version": "3.5.0"}, "storage": {"files": [{"path": "/a", "contents": {"source": "s3://bucket/key"}}]}}`,
			"own.ign: a source from a cloud's storage (s3, arn, gs) can't be used (images have Ignition without the clients of clouds; use https, or put its content into a file beside the cluster document and name it there)"},
		{"merge", `{"ignition": {"version": "3.5.0", "config": {"merge": [{"source": "http://10.1.0.1/x"}]}}}`, "own.ign: ignition.config.merge" + remote},
		{"ours", `{"ignition": {"version": "3.5.0"}, "storage": {"files": [{"path": "/etc/kubernetes/pki/ca.crt", "overwrite": true, "contents": {"source": "data:,x"}}]}}`,
			"own.ign: /etc/kubernetes/pki/ca.crt is Slipway's own (it is made from the cluster document)"},
		{"place", "{\"ignition\": {\"version\": \"3.5.0\"},\n \"storage\": {\"files\": [{\"path\": \"etc/motd\"}]}}",
			"own.ign:2:33: storage.files.0.path: path not absolute"},
		{"no JSON", "hello", "own.ign:1:2: invalid character 'h' looking for beginning of value"},
		{"empty", "", "own.ign: not a valid Ignition configuration: "},
		{"version", `{"ignition": {"version": "9.0.0"}}`, "own.ign: not a valid Ignition configuration: unsupported config version (Slipway takes Ignition configurations of spec 3.0.0 to 3.5.0)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := withSnippet(t, tt.in)
			_, err := nodeconfig.Render(c, "worker-1", identity(t, c), nodeconfig.Environment{Environment: environment(2)})
			var snippet *nodeconfig.SnippetError
			if !errors.As(err, &snippet) {
				t.Fatalf("%v", err)
			}
			if want := "cannot render configuration of node worker-1: " + tt.want; !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got\n%s\nwant\n%s", err, want)
			}
		})
	}
}

func TestRenderRefuses(t *testing.T) {
	c := parse(t, string(cluster.Lab()))
	id := identity(t, c)
	late := nodeconfig.Environment{Environment: pki.Environment{Now: now.AddDate(20, 0, 0), Rand: mathrand.NewChaCha8([32]byte{})}}
	if _, err := nodeconfig.Render(c, "cp-1", id, late); !errors.Is(err, pki.ErrExpired) || !strings.Contains(err.Error(), "this machine's clock says 2046-03-01T12:00:00Z") {
		t.Errorf("an expired authority: %v", err)
	}
	env := nodeconfig.Environment{Environment: environment(2)}
	if _, err := nodeconfig.Render(c, "cp-9", id, env); err == nil || err.Error() != "cannot render configuration of node cp-9: the cluster document has no such node" {
		t.Errorf("a node that isn't there: %v", err)
	}
	other := parse(t, rich)
	if _, err := nodeconfig.Render(other, "a", id, env); err == nil || !strings.Contains(err.Error(), `the identity was made for cluster "lab", the document's is "rich"`) {
		t.Errorf("another cluster's identity: %v", err)
	}
}

// FuzzSnippet: whatever the user's file holds, Render ends with a configuration that Ignition takes or with an error
// that names the file.
func FuzzSnippet(f *testing.F) {
	f.Add([]byte(`{"ignition": {"version": "3.5.0"}, "storage": {"files": [{"path": "/etc/motd", "contents": {"source": "data:,x"}}]}}`))
	f.Add([]byte(`{"ignition": {"version": "3.0.0"}, "systemd": {"units": [{"name": "a.service", "contents": "[Unit]"}]}}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := nodeconfig.ParseSnippet(cluster.Snippet{Path: "own.ign", Data: data}, nil)
		if err != nil && !strings.HasPrefix(err.Error(), "own.ign:") {
			t.Fatal(err)
		}
	})
}
