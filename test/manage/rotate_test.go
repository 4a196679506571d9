package manage

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/nodes"
	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// alone is the lab without its worker.
func (r *rack) alone(t *testing.T) {
	t.Helper()
	text, _, ok := strings.Cut(string(cluster.Lab()), "  - name: worker-1")
	if !ok {
		t.Fatal("the lab has no worker-1")
	}
	r.document = filepath.Join(t.TempDir(), "lab.yaml")
	if err := os.WriteFile(r.document, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// accepts says whether a server takes a client's certificate: with TLS 1.3 that shows at the first read.
func accepts(t *testing.T, address string, config *tls.Config) bool {
	t.Helper()
	config = config.Clone()
	config.InsecureSkipVerify, config.NextProtos = true, []string{"http/1.1"}
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		return false
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /nothing HTTP/1.1\r\nHost: cp-1\r\nConnection: close\r\n\r\n")); err != nil {
		return false
	}
	_, err = conn.Read(make([]byte, 1))
	return err == nil
}

// TestNodeRotate: a node and its etcd get other authorities step by step, and in the end refuse everybody of before.
func TestNodeRotate(t *testing.T) {
	r := newRack(t)
	needEtcd(t)
	r.node(t)
	r.alone(t)
	control := &recorder{}
	r.control = control
	r.serve(t)
	etcd := r.etcd(t)
	control.starts = func(unit string) {
		if unit == "etcd.service" {
			_ = etcd.Process.Kill()
			_ = etcd.Wait()
			etcd = r.etcd(t)
		}
	}
	operator, err := nodes.NewOperator(r.cluster, r.identity, environment())
	if err != nil {
		t.Fatal(err)
	}
	member := func() *tls.Config {
		file := filepath.Join(r.root, bootspec.PKIDirectory, "etcd/peer.")
		own, err := tls.LoadX509KeyPair(file+"crt", file+"key")
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{Certificates: []tls.Certificate{own}}
	}
	before := member()
	const etcdClients, etcdPeers, management = "127.0.0.1:2379", "127.0.0.1:2380", "10.1.0.11:7444"
	everybody := func(want bool) {
		t.Helper()
		if accepts(t, etcdClients, before) != want || accepts(t, etcdPeers, before) != want || accepts(t, management, operator.TLS()) != want {
			t.Errorf("certificates of before: want %v", want)
		}
	}
	kubelet := filepath.Join(r.root, "var/lib/kubelet/pki/kubelet-client-current.pem")
	if err := errors.Join(os.MkdirAll(filepath.Dir(kubelet), 0o755), os.WriteFile(kubelet, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	everybody(true)

	control.fails = "kube-apiserver.service"
	has(t, r.slipway(t, 1, "rotate", "--yes"), "cannot start kube-apiserver.service", "the same command goes on")
	control.fails, control.restarted = "", nil
	has(t, r.slipway(t, 0, "rotate", "--yes"), `step 1 of 3`, `kubectl rollout restart`)
	if _, err := os.Lstat(kubelet); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the kubelet has its old certificate: %v", err)
	}
	everybody(true)
	control.restarted = nil
	has(t, r.slipway(t, 0, "rotate", "--yes"), `step 2 of 3`)
	if got := strings.Join(control.restarted, " "); got != "slipway-etcd-guard.service etcd.service slipway-api.service kube-apiserver.service kubelet.service" {
		t.Errorf("restarted: %s", got)
	}
	everybody(true)
	if !accepts(t, etcdPeers, member()) {
		t.Error("a member's new certificate does not count")
	}
	has(t, r.slipway(t, 1, "rotate", "--yes"), `pods may have tokens until .* finish after that, or with --now`)
	everybody(true)
	has(t, r.slipway(t, 0, "rotate", "--yes", "--now"), `step 3 of 3`)
	everybody(false)
	if !accepts(t, etcdPeers, member()) || !accepts(t, etcdClients, member()) {
		t.Error("a member's new certificate does not count")
	}
	has(t, r.slipway(t, 0, "status", "--nodes"), `cp-1 .*control-plane`)

	// Whoever has a copy of the identity from before can't renew the node any more.
	if id, err := pki.Load(r.folder); err != nil || id.Rotation != nil {
		t.Errorf("the identity: %+v %v", id, err)
	}
	has(t, r.slipway(t, 0, "renew"), "certificates are good until")
}
