package adopt

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

func document(t testing.TB, text string) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Parse("cluster.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func machine(mac string) bootspec.Hardware {
	return bootspec.Hardware{
		Version: bootspec.HardwareVersion, MAC: mac, System: bootspec.System{Serial: `A"B\C: #1`, UUID: "4C4C4544-0042-3010-8051-B4C04F4E3132"},
		Disks: []bootspec.HardwareDisk{
			{Name: "sda", Size: 16e9, Removable: true, Serial: "STICK", Bus: "pci-0000:00:14.0"},
			{Name: "sdb", Size: 4e12, Rotational: true, Serial: "BIG", WWN: "naa.5000c500a1b2c3d4", Bus: "pci-0000:00:17.0"},
			{Name: "sdc", Size: 480e9, Serial: "SMALL", Bus: "pci-0000:00:17.0"},
		},
		NICs: []bootspec.HardwareNIC{
			{Name: "eth0", MAC: "52:54:00:00:03:99", PCI: "0000:00:03.0"}, {Name: "eth1", MAC: mac, PCI: "0000:00:04.0", Carrier: true},
			{Name: "eth2", MAC: "52:54:00:00:02:99", PCI: "0000:00:05.0", Carrier: true},
		},
	}
}

const mac = "52:54:00:00:00:99"

func plan(t *testing.T, text string, h bootspec.Hardware, o Options) string {
	t.Helper()
	n, err := Plan(document(t, text), h, o)
	if err != nil {
		return err.Error()
	}
	return strings.Join(n.Lines, "\n")
}

// TestPlan: names and addresses go on where the role's end, the card with a cable is the other network's, the disk is named by what stays.
func TestPlan(t *testing.T) {
	lab := string(cluster.Lab())
	installing := lab + "install: {disk: {minSize: 100GB, smallest: true}}\n"
	pooled := strings.Replace(lab, "mgmt: {cidr: 10.1.0.0/24,", "mgmt: {cidr: 10.1.0.0/24, pool: 10.1.0.50-10.1.0.60,", 1)
	tagged := strings.Replace(lab, "container: {cidr: 172.16.1.0/24}", "container: {cidr: 172.16.1.0/24, vlan: 101}", 1)
	bare := bootspec.Hardware{MAC: mac}
	worker := Options{Role: "worker"}
	const identity = `, uuid: "4c4c4544-0042-3010-8051-b4c04f4e3132", serial: "A\"B\\C: #1"}`
	whole := "name: worker-2\nrole: worker\nmatch: {mac: \"52:54:00:00:00:99\"" + identity + "\nlinks:\n" +
		"  - {name: eth0, mac: \"52:54:00:00:00:99\", network: mgmt, address: 10.1.0.22}\n  - {name: eth1, mac: \"52:54:00:00:02:99\", network: container, address: 172.16.1.22}"
	for name, c := range map[string]struct {
		text string
		h    bootspec.Hardware
		o    Options
		want string
	}{
		"whole":                  {lab, machine(mac), worker, whole},
		"installs itself":        {installing, machine(mac), worker, whole + "\ninstall: {disk: {serial: \"SMALL\"}}"},
		"to another disk":        {lab, machine(mac), Options{Role: "worker", Disk: "BIG"}, whole + "\ninstall: {disk: {wwn: \"naa.5000c500a1b2c3d4\"}}"},
		"no such disk":           {lab, machine(mac), Options{Role: "worker", Disk: "x"}, "0 of its disks fit"},
		"which disk":             {lab + "install: {disk: {minSize: 1GB}}\n", machine(mac), worker, "2 of its disks fit, so it isn't clear where it installs itself (say which with --disk): sda 16.0 GB STICK; sdb"},
		"nothing known":          {installing, bare, worker, "has no card"},
		"nothing known but told": {installing, bare, Options{Role: "worker", Links: map[string]string{"container": "52:54:00:00:07:07"}}, "mac: \"52:54:00:00:07:07\", network: container, address: 172.16.1.22}"},
		"pool":                   {pooled, machine(mac), worker, "{name: eth0, mac: \"52:54:00:00:00:99\", network: mgmt}\n"},
		"tagged":                 {tagged, bare, worker, "{name: pods, parent: eth0, network: container, address: 172.16.1.22}"},
		"named":                  {lab, machine(mac), Options{Role: "worker", Name: "big", MACOnly: true, Addresses: map[string]netip.Addr{"mgmt": netip.MustParseAddr("10.1.0.77")}}, "name: big\nrole: worker\nmatch: {mac: \"52:54:00:00:00:99\"}\nlinks:\n  - {name: eth0, mac: \"52:54:00:00:00:99\", network: mgmt, address: 10.1.0.77}"},
		"control plane":          {lab, machine(mac), Options{Role: "control-plane"}, "name: cp-2\n"},
		"another network":        {lab, machine(mac), Options{Role: "worker", Links: map[string]string{"x": mac}}, `network "x" is neither`},
		"known":                  {lab, bootspec.Hardware{MAC: "52:54:00:00:01:21"}, worker, "it is worker-1 already"},
	} {
		if got := plan(t, c.text, c.h, c.o); !strings.Contains(got, c.want) || strings.HasPrefix(c.want, "name: worker-2") && got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

// TestInsert: all that was there stays, wherever the list stands, and however it is indented.
func TestInsert(t *testing.T) {
	n := Node{Lines: []string{"name: new", "links:", "  - {x: 1}"}}
	for name, c := range map[string][2]string{
		"at the end":          {"a: 1 # one\nnodes:\n  - name: old # the old one\n    note: |\n      text\n", "a: 1 # one\nnodes:\n  - name: old # the old one\n    note: |\n      text\n  - name: new\n    links:\n      - {x: 1}\n"},
		"without a last line": {"nodes:\n- {name: old}", "nodes:\n- {name: old}\n- name: new\n  links:\n    - {x: 1}\n"},
		"in the middle":       {"nodes:\n  - name: old\n    # of the old one\n\n# what follows\n\nz: 1\n", "nodes:\n  - name: old\n    # of the old one\n  - name: new\n    links:\n      - {x: 1}\n\n# what follows\n\nz: 1\n"},
		"carriage returns":    {"nodes:\r\n  - a: 1\r\n", "nodes:\r\n  - a: 1\r\n  - name: new\r\n    links:\r\n      - {x: 1}\r\n"},
		"end of document":     {"nodes:\n  - a: 1\n...\n", "nodes:\n  - a: 1\n  - name: new\n    links:\n      - {x: 1}\n...\n"},
	} {
		if got, err := Insert([]byte(c[0]), []Node{n}); err != nil || string(got) != c[1] {
			t.Errorf("%s: %v, got\n%q\nwant\n%q", name, err, got, c[1])
		}
	}
	for _, text := range []string{"nodes: [{name: a}]\n", "nodes: []\n", "{nodes: [{a: 1}]}", "a: 1\n", "- a\n", "x: &l\n  - a: 1\nnodes: *l\n"} {
		if got, err := Insert([]byte(text), []Node{n}); !errors.Is(err, ErrLayout) {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	}
}

// FuzzAdopt: whatever a machine says of itself, the document with it is right, and has nothing of it but what was meant.
func FuzzAdopt(f *testing.F) {
	dir := f.TempDir()
	file := filepath.Join(dir, "cluster.yaml")
	lab := append(cluster.Lab(), "install: {disk: {smallest: true}}\n"...)
	if err := os.WriteFile(file, lab, 0o600); err != nil {
		f.Fatal(err)
	}
	c := document(f, string(lab))
	data, _ := json.Marshal(machine(mac))
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := bootspec.ParseHardware(strings.NewReader(string(data)))
		if err != nil {
			return
		}
		n, err := Plan(c, h, Options{Role: "worker"})
		if err != nil {
			return
		}
		after, err := Insert(lab, []Node{n})
		if err != nil {
			t.Fatal(err)
		}
		changed, _, _, err := cluster.Propose(file, after)
		if err != nil {
			if strings.Contains(err.Error(), "MAC address") { // a card that it says it has is another node's
				return
			}
			t.Fatalf("%v\n%s", err, after)
		}
		if got := changed.Nodes[2]; len(changed.Nodes) != 3 || string(got.Match.MAC) != h.MAC || got.Match.Serial != "" && got.Match.Serial != h.System.Serial || len(got.Links) != 2 {
			t.Errorf("%+v", got)
		}
	})
}
