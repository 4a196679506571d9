package manage

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/slipway-os/slipway/agent/units"
	"github.com/slipway-os/slipway/builder/nodeconfig"
	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// recorder is systemd on a node with some of the units that a renewal restarts.
type recorder struct {
	mu        sync.Mutex
	restarted []string
	fails     string // this unit does not start
	starts    func(unit string)
	rebooted  chan struct{}
}

func (c *recorder) Reboot(context.Context) error {
	close(c.rebooted)
	return nil
}

func (c *recorder) Units(context.Context, string) ([]units.State, error) {
	var list []units.State
	for _, name := range []string{"etcd.service", "slipway-etcd-guard.service", "kube-apiserver.service", "kubelet.service", "slipway-api.service"} {
		list = append(list, units.State{Name: name, Active: "active", Sub: "running"})
	}
	return list, nil
}

func (c *recorder) Restart(context.Context, string) error { return errors.New("not asked for") }

func (c *recorder) RestartAndWait(_ context.Context, unit string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restarted = append(c.restarted, unit)
	if c.starts != nil {
		c.starts(unit)
	}
	if unit == c.fails {
		return errors.New("cannot start " + unit)
	}
	return nil
}

// node gives the rack's control plane all its files, as its first boot did.
func (r *rack) node(t *testing.T) {
	t.Helper()
	n, _ := r.cluster.Node("cp-1")
	files, err := nodeconfig.Files(r.cluster, n, r.identity, nodeconfig.Environment{Environment: environment(), Server: "http://10.1.0.1:8080"})
	if err != nil {
		t.Fatal(err)
	}
	r.place(t, r.root, files)
}

func (r *rack) file(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(r.root, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestNodeRenew: a running node gets new certificates and learns of another node; what reads them is restarted, one
// after the other (etcd's guard too, which a lone control plane's successors ask), and the operator is still known afterwards.
func TestNodeRenew(t *testing.T) {
	r := newRack(t)
	needEtcd(t)
	r.node(t)
	control := &recorder{}
	r.control = control
	r.serve(t)
	r.etcd(t)
	before := r.file(t, bootspec.PKIDirectory+"/apiserver.crt")
	authority := r.file(t, bootspec.PKIDirectory+"/ca.crt")

	text := strings.Replace(string(cluster.Lab()), "nodes:\n", "nodes:\n"+`  - name: worker-2
    role: worker
    match: {mac: "52:54:00:00:00:22"}
    links:
      - {name: eth0, mac: "52:54:00:00:00:22", network: mgmt, address: 10.1.0.22}
      - {name: eth1, mac: "52:54:00:00:01:22", network: container, address: 172.16.1.22}
`, 1)
	r.document = filepath.Join(t.TempDir(), "lab.yaml")
	if err := os.WriteFile(r.document, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	has(t, r.slipway(t, 0, "renew", "cp-1"), `cp-1: \d+ files renewed in .* s, certificates are good until 20\d\d-`)

	if got := strings.Join(control.restarted, " "); got != "slipway-etcd-guard.service slipway-api.service kube-apiserver.service kubelet.service" {
		t.Errorf("restarted: %s", got)
	}
	after := r.file(t, bootspec.PKIDirectory+"/apiserver.crt")
	if bytes.Equal(before, after) {
		t.Error("the API server has its old certificate")
	}
	if _, err := tls.X509KeyPair(after, r.file(t, bootspec.PKIDirectory+"/apiserver.key")); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(authority, r.file(t, bootspec.PKIDirectory+"/ca.crt")) {
		t.Error("the authority has changed")
	}
	if !strings.Contains(string(r.file(t, "/etc/hosts")), "10.1.0.22 worker-2") {
		t.Error("the node does not know the new node")
	}
	_ = filepath.WalkDir(r.root, func(path string, e fs.DirEntry, _ error) error {
		if info, err := e.Info(); err == nil && strings.HasSuffix(path, ".key") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if strings.HasSuffix(path, ".renewal") {
			t.Errorf("%s was left", path)
		}
		return nil
	})
	has(t, r.slipway(t, 0, "renew", "cp-1"), "certificates are good until")
}

// TestNodeRenewRefuses: what is wrong is found before anything changes.
func TestNodeRenewRefuses(t *testing.T) {
	r := newRack(t)
	needEtcd(t)
	r.node(t)
	control := &recorder{fails: "kube-apiserver.service"}
	r.control = control
	r.serve(t)
	r.etcd(t)
	lab := r.document
	r.document = filepath.Join(t.TempDir(), "lab.yaml")
	text := strings.ReplaceAll(string(cluster.Lab()), "172.16.1.11", "172.16.1.99")
	if err := os.WriteFile(r.document, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	has(t, r.slipway(t, 1, "renew", "cp-1"), "node cp-1: cannot renew this node: its network has changed in the cluster document: that takes a reboot")
	r.document = lab

	// Another identity's account key, under the same authorities: tokens of pods would no longer count.
	other := t.TempDir() + "/identity"
	stranger, err := pki.Create(other, r.cluster, environment())
	if err != nil {
		t.Fatal(err)
	}
	key := r.identity.ServiceAccount
	r.identity.ServiceAccount = stranger.ServiceAccount
	r.node(t)
	r.identity.ServiceAccount = key
	has(t, r.slipway(t, 1, "renew", "cp-1"), "pki/sa.key is another one|pki/sa.pub is another one")
	r.node(t)
	before := r.file(t, bootspec.PKIDirectory+"/apiserver.crt")

	has(t, r.slipway(t, 2, "renew", "nobody"), `the cluster document has no node "nobody"`)
	if len(control.restarted) > 0 || !bytes.Equal(before, r.file(t, bootspec.PKIDirectory+"/apiserver.crt")) {
		t.Error("a refused renewal has changed something")
	}
	has(t, r.slipway(t, 1, "renew"), "cp-1 has its new configuration, but not all units run with it: cannot start kube-apiserver.service", "not begun: worker-1")
}

// TestNodeRenewKeeps: a node that booted from a medium keeps the new configuration there.
func TestNodeRenewKeeps(t *testing.T) {
	r := newRack(t)
	needEtcd(t)
	r.node(t)
	r.control = &recorder{}
	place := filepath.Join(r.root, "dev/vda6")
	old, err := nodeconfig.Render(r.cluster, "cp-1", r.identity, nodeconfig.Environment{Environment: environment()})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Dir(place), filepath.Join(r.root, bootspec.RunDirectory)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(place)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(f.Truncate(bootspec.ConfigPlaceSize), bootspec.WriteConfig(f, bootspec.Config{Cluster: "lab", Node: "cp-1", Document: old}, f.Sync),
		os.WriteFile(filepath.Join(r.root, bootspec.BootRecord), []byte(`{"config":"/dev/vda6"}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	r.serve(t)
	r.etcd(t)
	has(t, r.slipway(t, 0, "renew", "cp-1"), "kept on /dev/vda6 for its next boot")
	c, err := bootspec.ReadConfig(f)
	if err != nil {
		t.Fatal(err)
	}
	if c.Generation != 2 || c.Node != "cp-1" || c.Cluster != "lab" || bytes.Equal(c.Document, old) {
		t.Errorf("the medium has generation %d of %s/%s", c.Generation, c.Cluster, c.Node)
	}
}
