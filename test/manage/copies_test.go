package manage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"filippo.io/age"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// backedUp gives the rack a document with scheduled snapshots that are pushed to places, and the file with the secret key.
func (r *rack) backedUp(t *testing.T, to string) (key string) {
	t.Helper()
	secret, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	key = filepath.Join(t.TempDir(), "key.txt")
	folder := filepath.Dir(r.folder)
	r.document = filepath.Join(folder, "cluster.yaml")
	text := strings.Replace(string(cluster.Lab()), "provisioning:",
		"etcd: {backup: {every: 10m, keep: 2, recipients: ["+secret.Recipient().String()+"], to: "+to+"}}\nprovisioning:", 1)
	for file, content := range map[string]string{key: secret.String() + "\n", r.document: text} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r.cluster, err = cluster.ParseFile(r.document); err != nil {
		t.Fatal(err)
	}
	node, _ := r.cluster.Node("cp-1")
	r.backup = r.cluster.EtcdBackup(node)
	// File systems with room, whatever this machine has; they go with the namespace.
	for _, dir := range append([]string{r.backup.Directory}, directories(r.backup)...) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(dir, 0) })
	}
	return key
}

func directories(b *bootspec.EtcdBackup) (list []string) {
	for _, to := range b.To {
		if to.Directory != "" {
			list = append(list, to.Directory)
		}
	}
	return list
}

// artifacts are stand-ins of images: nothing boots here.
func artifacts(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, role := range []string{"control-plane", "worker"} {
		base := bootspec.ArtifactBase(role, "0.1.0", "amd64")
		m := &manifest.Manifest{
			APIVersion: manifest.Version, Kind: manifest.Kind, Role: role, Version: "0.1.0", Arch: "amd64",
			Plan: strings.Repeat("a", 64), Root: manifest.Root{Hash: strings.Repeat("b", 64), Data: 4096},
		}
		for kind, extension := range map[string]string{manifest.KindUKI: bootspec.ExtUKI, manifest.KindRoot: bootspec.ExtRoot} {
			content := []byte(kind + " of " + base)
			if err := os.WriteFile(filepath.Join(dir, base+extension), content, 0o600); err != nil {
				t.Fatal(err)
			}
			m.Artifacts = append(m.Artifacts, manifest.Artifact{Name: base + extension, Kind: kind, Size: int64(len(content)), SHA256: fmt.Sprintf("%x", sha256.Sum256(content))})
		}
		if err := os.WriteFile(filepath.Join(dir, base+bootspec.ExtManifest), m.Encode(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// bootServer runs slipway serve until the test ends.
func (r *rack) bootServer(t *testing.T, state string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	serve := exec.CommandContext(ctx, r.program, "serve", "--cluster", r.document, "--identity", r.folder, "--artifacts", artifacts(t), "--state", state)
	serve.Cancel = func() error { return serve.Process.Signal(os.Interrupt) }
	var words bytes.Buffer
	serve.Stderr = &words
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = serve.Wait()
		if code := serve.ProcessState.ExitCode(); code != 0 || t.Failed() {
			t.Errorf("the boot server ended with %d:\n%s", code, words.String())
		}
	})
}

// listed is what slipway etcd list says.
func (r *rack) listed(t *testing.T) (list struct {
	Snapshots []struct {
		Name  string
		Where []string
	}
	Silent []string
}) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.slipway(t, 0, "etcd", "list", "--output", "json")), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestNodePushesSnapshots: what a control plane keeps comes to another folder and to the boot server, also when that was away; the
// operator sees where it is, and can fetch it from there when no control plane is left.
func TestNodePushesSnapshots(t *testing.T) {
	r := newRack(t)
	needEtcd(t)
	for _, command := range []string{"link add install type bridge", "addr add 10.1.0.1/24 dev install", "link set install up"} {
		ip(t, command)
	}
	t.Cleanup(func() { ip(t, "link del install") })
	key := r.backedUp(t, "[{directory: /var/lib/slipway/test-copies}, {server: true}]")
	etcd := r.etcd(t)
	r.put(t, "color", "blue")
	stop := r.serve(t)

	wait(t, "the fault in the status", func() bool {
		return strings.Contains(r.slipway(t, 0, "status", "--nodes"), "cp-1: cannot push snapshots of etcd to the boot server at 10.1.0.1:7445: cannot list what is there: dial tcp")
	})
	wait(t, "the copy in the other folder", func() bool {
		l := r.listed(t)
		return len(l.Snapshots) == 1 && len(l.Snapshots[0].Where) == 2
	})
	has(t, r.slipway(t, 0, "etcd", "list"), `cp-1-20\d{6}T\d{6}Z\.etcd\.age .* cp-1:/var/lib/slipway/etcd-backup, cp-1:/var/lib/slipway/test-copies\n`, `boot-server: cannot ask 10\.1\.0\.1:7445`)

	state := t.TempDir()
	r.bootServer(t, state)
	wait(t, "the copy on the boot server", func() bool {
		l := r.listed(t)
		return len(l.Snapshots) == 1 && len(l.Snapshots[0].Where) == 3 && len(l.Silent) == 0
	})
	wait(t, "the end of the fault", func() bool {
		text := r.slipway(t, 0, "status", "--nodes")
		return !strings.Contains(text, "cannot push") && !strings.Contains(text, "are late")
	})
	name := r.listed(t).Snapshots[0].Name
	out := filepath.Join(t.TempDir(), "fetched")
	for _, from := range []string{"cp-1", "boot-server"} {
		has(t, r.slipway(t, 0, "etcd", "fetch", name, "--from", from, "--out", out, "--key", key), "fetched "+name+" from "+from, "encrypted\nit is whole: revision 2, 1 keys")
	}

	// All control planes are lost.
	stop()
	_ = etcd.Process.Kill()
	_ = etcd.Wait()
	has(t, r.slipway(t, 0, "etcd", "list"), name+` .* boot-server\n`, `cp-1: cannot ask node cp-1`)
	latest := filepath.Join(t.TempDir(), "latest")
	has(t, r.slipway(t, 0, "etcd", "fetch", "--latest", "--out", latest, "--key", key), "from boot-server into "+latest, "revision 2, 1 keys")
	if st, err := os.Stat(latest); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("others may read it: %v, %v", st, err)
	}
	has(t, r.check(t, 0, latest, "--key", key), "revision 2, 1 keys")
	has(t, r.slipway(t, 1, "etcd", "fetch", "cp-1-20200101T000000Z.etcd.age", "--out", latest+"2"), `no place has cp-1-20200101T000000Z\.etcd\.age \(not asked: cp-1: cannot ask`)
	has(t, r.slipway(t, 2, "etcd", "fetch", "--latest", "--from", "moon", "--out", latest+"2"), `there is no place "moon" \(cp-1, boot-server\)`)
	has(t, r.slipway(t, 1, "etcd", "list", "--from", "cp-1"), "no place tells which snapshots it has")

	// What lies on the boot server is cut.
	if err := os.Truncate(filepath.Join(state, "etcd-snapshots", name), 300); err != nil {
		t.Fatal(err)
	}
	has(t, r.slipway(t, 1, "etcd", "fetch", name, "--out", latest, "--key", key), "was fetched, but: cannot decrypt")
}
