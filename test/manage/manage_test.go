// Package manage tries the management API as operators use it: the built slipway program against the agent's server, with
// the certificates that nodes get, a real etcd, and a network namespace in which this machine has a node's address.
package manage

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipway-os/slipway/agent/manage"
	"github.com/slipway-os/slipway/builder/nodes"
	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// TestInNamespace runs the tests whose names begin with TestNode in a network namespace of their own, and those of TestRack in
// another one.
func TestInNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may make network namespaces")
	}
	programs := []string{"SLIPWAY_TEST_PROGRAM=" + build(t, "../..", "./builder/slipway")}
	if !testing.Short() {
		programs = append(programs, "SLIPWAY_TEST_ETCD="+build(t, "../../images/components/etcd", "."),
			"SLIPWAY_TEST_S3="+build(t, "../s3", "github.com/versity/versitygw/cmd/versitygw"))
	}
	for _, tests := range []string{"TestNode", "TestRack"} {
		t.Run(tests, func(t *testing.T) {
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+tests, "-test.v="+fmt.Sprint(testing.Verbose()))
			child.Env = append(os.Environ(), programs...)
			child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Unshareflags: syscall.CLONE_NEWNS}
			out, err := child.CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// build builds a program.
func build(t *testing.T, dir, target string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	b := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, target)
	b.Dir, b.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := b.CombinedOutput(); err != nil {
		t.Fatalf("cannot build %s in %s: %v\n%s", target, dir, err, out)
	}
	return program
}

// namespace skips outside of the namespace; inside it gives the machine the address of the lab's control plane.
func namespace(t *testing.T) {
	t.Helper()
	if os.Getenv("SLIPWAY_TEST_PROGRAM") == "" {
		t.Skip("TestInNamespace runs it")
	}
	for _, command := range []string{"link set lo up", "addr replace 10.1.0.11/32 dev lo"} {
		if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", command, err, out)
		}
	}
}

func environment() pki.Environment { return pki.Environment{Now: time.Now(), Rand: rand.Reader} }

// rack is the lab with its identity, and the files of its control plane below root.
type rack struct {
	cluster  *cluster.Cluster
	document string // as --cluster takes it
	identity *pki.Identity
	folder   string // of the identity
	root     string
	program  string // slipway
	backup   *bootspec.EtcdBackup
	journal  string // what it says besides
	control  manage.Control
	etcdTool []string
}

func newRack(t *testing.T) *rack {
	t.Helper()
	namespace(t)
	c, err := cluster.Parse("lab.yaml", cluster.Lab())
	if err != nil {
		t.Fatal(err)
	}
	r := &rack{cluster: c, document: "lab", folder: filepath.Join(t.TempDir(), "identity"), root: t.TempDir(), program: os.Getenv("SLIPWAY_TEST_PROGRAM")}
	if r.identity, err = pki.Create(r.folder, c, environment()); err != nil {
		t.Fatal(err)
	}
	node, _ := c.Node("cp-1")
	files, err := r.identity.NodeFiles(c, node, environment())
	if err != nil {
		t.Fatal(err)
	}
	r.place(t, r.root, files)
	return r
}

// serve runs the agent's server until the test ends, or stop. The journal is a program that prints how it was called.
func (r *rack) serve(t *testing.T) (stop func()) {
	t.Helper()
	journal := filepath.Join(t.TempDir(), "journalctl")
	script := "#!/bin/sh\nfor a; do case $a in --unit=missing.service) echo 'no such unit' >&2; exit 1;; esac; done\n" +
		"echo \"journal $*\"\ncase \"$*\" in *--follow*) exec sleep 60;; esac\n"
	if r.journal != "" {
		script += "cat <<'END'\n" + r.journal + "\nEND\n"
	}
	if err := os.WriteFile(journal, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	server := manage.New(manage.Node{
		Name: "cp-1", Role: "control-plane", Target: "slipway-control-plane.target", Root: r.root, Journal: journal,
		Address: "10.1.0.11:" + fmt.Sprint(bootspec.ManagePort), EtcdMetrics: "http://127.0.0.1:2381", EtcdClient: "https://127.0.0.1:2379",
		Log: slog.New(slog.DiscardHandler), Backup: r.backup, Control: r.control, EtcdTool: r.etcdTool,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); server.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	wait(t, "the management API", func() bool { return reachable("10.1.0.11:" + fmt.Sprint(bootspec.ManagePort)) })
	return stop
}

func reachable(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err == nil {
		c.Close()
	}
	return err == nil
}

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s doesn't come", what)
		}
	}
}

// check runs slipway etcd check.
func (r *rack) check(t *testing.T, code int, args ...string) string {
	t.Helper()
	return r.execute(t, code, append([]string{"etcd", "check"}, args...)...)
}

// slipway runs the program for the cluster; it wants that exit code.
func (r *rack) slipway(t *testing.T, code int, args ...string) string {
	t.Helper()
	return r.execute(t, code, append(args, "--cluster", r.document, "--identity", r.folder)...)
}

func (r *rack) execute(t *testing.T, code int, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, r.program, args...).CombinedOutput()
	got := 0
	if exit, ok := err.(*exec.ExitError); ok {
		got = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if got != code {
		t.Fatalf("slipway %s: exit code %d, not %d:\n%s", strings.Join(args, " "), got, code, out)
	}
	return string(out)
}

func has(t *testing.T, text string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(text) {
			t.Errorf("no %q in\n%s", p, text)
		}
	}
}

// TestNodeRefusesOthers: only operators of this cluster get an answer.
func TestNodeRefusesOthers(t *testing.T) {
	r := newRack(t)
	r.serve(t)
	foreign, err := pki.Create(filepath.Join(t.TempDir(), "identity"), r.cluster, environment())
	if err != nil {
		t.Fatal(err)
	}
	issue := func(id *pki.Identity, l pki.Leaf) *tls.Certificate {
		l.Lifetime = time.Hour
		pair, err := id.CA.Issue(l, environment())
		if err != nil {
			t.Fatal(err)
		}
		c, err := tls.X509KeyPair(pair.Certificate, pair.Key)
		if err != nil {
			t.Fatal(err)
		}
		return &c
	}
	masters, nodesGroup := []string{"system:masters"}, []string{"system:nodes"}
	for _, tt := range []struct {
		name        string
		certificate *tls.Certificate
		version     uint16
		welcome     bool
	}{
		{name: "operator", certificate: issue(r.identity, pki.Leaf{CommonName: "o", Organization: masters, Client: true}), welcome: true},
		{name: "none"},
		{name: "kubelet", certificate: issue(r.identity, pki.Leaf{CommonName: "system:node:cp-1", Organization: nodesGroup, Client: true})},
		{name: "no organisation", certificate: issue(r.identity, pki.Leaf{CommonName: "system:masters", Client: true})},
		{name: "server certificate", certificate: issue(r.identity, pki.Leaf{CommonName: "o", Organization: masters, Server: true})},
		{name: "other cluster", certificate: issue(foreign, pki.Leaf{CommonName: "o", Organization: masters, Client: true})},
		{name: "TLS 1.2", certificate: issue(r.identity, pki.Leaf{CommonName: "o", Organization: masters, Client: true}), version: tls.VersionTLS12},
	} {
		t.Run(tt.name, func(t *testing.T) {
			trusted := x509.NewCertPool()
			trusted.AddCert(r.identity.CA.Certificate)
			config := &tls.Config{RootCAs: trusted, ServerName: "cp-1", MaxVersion: tt.version}
			if tt.certificate != nil {
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tt.certificate, nil }
			}
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}, Timeout: 20 * time.Second}
			defer client.CloseIdleConnections()
			answer, err := client.Get("https://10.1.0.11:" + fmt.Sprint(bootspec.ManagePort) + bootspec.RouteLiveStatus)
			if err == nil {
				answer.Body.Close()
			}
			if welcome := err == nil && answer.StatusCode == http.StatusOK; welcome != tt.welcome {
				t.Errorf("welcome is %v: %v", welcome, err)
			}
		})
	}
}

// TestNodeLogs: the journal, chosen by unit and time, whole or followed; what can't be given is said.
func TestNodeLogs(t *testing.T) {
	r := newRack(t)
	r.serve(t)
	has(t, r.slipway(t, 0, "logs", "cp-1"), `^journal --boot --no-pager --quiet --output=short-iso\n$`)
	has(t, r.slipway(t, 0, "logs", "cp-1", "--unit", "etcd.service", "--since", "90s"), `--unit=etcd.service --since=-90s\n$`)
	has(t, r.slipway(t, 1, "logs", "cp-1", "--unit", "missing.service"), "cannot ask node cp-1: it says 500.*no such unit")
	has(t, r.slipway(t, 1, "logs", "cp-1", "--unit", "--file=/etc/shadow"), "is not the name of a unit")
	has(t, r.slipway(t, 1, "logs", "cp-1", "--unit", "a b"), "is not the name of a unit")
	has(t, r.slipway(t, 2, "logs", "cp-9"), `no node "cp-9"`)

	follow := exec.Command(r.program, "logs", "cp-1", "--follow", "--cluster", "lab", "--identity", r.folder)
	pipe, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 8)
	if _, err := pipe.Read(line); err != nil || !bytes.HasPrefix(line, []byte("journal ")) {
		t.Errorf("following says %q, %v", line, err)
	}
	if err := follow.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = follow.Wait()
	if code := follow.ProcessState.ExitCode(); code != 130 {
		t.Errorf("an interrupt ends with %d", code)
	}
}

func needEtcd(t *testing.T) {
	t.Helper()
	if os.Getenv("SLIPWAY_TEST_ETCD") == "" {
		t.Skip("in short there is no etcd")
	}
}

// TestNodeEtcd: with a real etcd, status tells of it, and a snapshot is whole.
func TestNodeEtcd(t *testing.T) {
	r := newRack(t)
	needEtcd(t)
	r.serve(t)
	has(t, r.slipway(t, 0, "status", "--nodes"), `cp-1 .*slipway-control-plane-0\.1\.0-amd64 .* no answer `, `worker-1 +worker +10\.1\.0\.\d+ +no answer`,
		"etcd has lost its quorum: 0 of 1 members run, 1 are needed", "Next: power the missing machines on", "worker-1: cannot ask node worker-1")
	has(t, r.slipway(t, 1, "etcd", "snapshot", "--out", filepath.Join(t.TempDir(), "s")), "no control plane has a healthy etcd")

	etcd := r.etcd(t)
	r.put(t, "color", "blue")
	r.put(t, "color", "red")
	r.put(t, "shape", "round")
	r.put(t, "gone", "soon")
	r.ask(t, "/v3/kv/deleterange", fmt.Sprintf(`{"key":%q}`, base64.StdEncoding.EncodeToString([]byte("gone"))))
	has(t, r.slipway(t, 0, "status", "--nodes"), `cp-1 .* leader \d+ MiB`)
	file := filepath.Join(t.TempDir(), "etcd.snapshot")
	has(t, r.slipway(t, 0, "etcd", "snapshot", "-o", file), "took a snapshot of etcd on cp-1", "revision 6, 2 keys", "SHA-256 [0-9a-f]{64}")
	data, err := os.ReadFile(file)
	if err != nil || !bytes.Contains(data, []byte("color")) {
		t.Errorf("the snapshot hasn't what was written: %v", err)
	}
	if st, _ := os.Stat(file); st.Mode().Perm() != 0o600 {
		t.Errorf("others may read the snapshot: %v", st.Mode())
	}
	if _, err := nodes.CheckSnapshot(file); err != nil {
		t.Error(err)
	}
	has(t, r.check(t, 0, file, "--drill", "--etcd", os.Getenv("SLIPWAY_TEST_ETCD")), "revision 6, 2 keys", `etcd \d+\.\d+\.\d+ was started with it, read all 2 keys \(8 bytes, hash [0-9a-f]{8}\)`)
	has(t, r.check(t, 1, file, "--drill", "--etcd", "/bin/true"), "the drill failed: /bin/true is not etcd of an image")
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := nodes.CheckSnapshot(file); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged snapshot: %v", err)
	}
	// etcd dies while it is asked: no file is left that looks like a snapshot.
	_ = etcd.Process.Kill()
	_ = etcd.Wait()
	broken := filepath.Join(t.TempDir(), "broken")
	has(t, r.slipway(t, 1, "etcd", "snapshot", "-o", broken, "--node", "cp-1"), "cannot ask node cp-1: it says 502.*cannot ask etcd")
	if left, _ := os.ReadDir(filepath.Dir(broken)); len(left) > 0 {
		t.Errorf("%s is left", left[0].Name())
	}
}

// TestNodeBundle: what was asked for is in it, and no key of the cluster or the node, in any form.
func TestNodeBundle(t *testing.T) {
	r := newRack(t)
	key, err := os.ReadFile(filepath.Join(r.root, bootspec.PKIDirectory, bootspec.ManageKey))
	if err != nil {
		t.Fatal(err)
	}
	r.journal = "a careless program said:\n" + string(key) + "that was it"
	r.serve(t)
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	has(t, r.slipway(t, 0, "bundle", "-o", file), "1 of 2 nodes answered")
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("others may read the bundle: %v, %v", st.Mode(), err)
	}
	out, err := exec.Command("tar", "-xzOf", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	has(t, string(out), "kind: Cluster", "a careless program said", "that was it", "cannot ask node worker-1", "slipway-control-plane-0.1.0-amd64")
	list, _ := exec.Command("tar", "-tzf", file).Output()
	has(t, string(list), "(?m)^cp-1/status.json$", "(?m)^cp-1/journal.txt$", "(?m)^worker-1/status.json$")
	searched := 0
	for _, dir := range []string{r.folder, r.root} {
		err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, ".key") {
				return err
			}
			secret, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			searched++
			for line := range strings.Lines(string(secret)) {
				line = strings.TrimSpace(line)
				if !strings.HasPrefix(line, "-----") && strings.Contains(string(out), line) {
					t.Errorf("the bundle has a line of %s", path)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if searched < 10 {
		t.Errorf("only %d keys were looked for", searched)
	}
}

// TestNodeKeepsSnapshots: what a node keeps is a whole snapshot to whom it is encrypted, and no use to anybody else.
func TestNodeKeepsSnapshots(t *testing.T) {
	r := newRack(t)
	needEtcd(t)
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	document := strings.Replace(string(cluster.Lab()), "provisioning:", "etcd: {backup: {every: 10m, keep: 2, recipients: ["+key.Recipient().String()+"]}}\nprovisioning:", 1)
	c, err := cluster.Parse("lab.yaml", []byte(document))
	if err != nil {
		t.Fatal(err)
	}
	node, _ := c.Node("cp-1")
	r.backup = c.EtcdBackup(node)
	r.backup.Directory = filepath.Join(t.TempDir(), "backup")
	if err := os.Mkdir(r.backup.Directory, 0o700); err != nil {
		t.Fatal(err)
	}
	// A file system with room, whatever this machine has; it goes with the namespace.
	if err := syscall.Mount("tmpfs", r.backup.Directory, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(r.backup.Directory, 0) })
	r.etcd(t)
	r.put(t, "color", "blue")
	r.serve(t)
	var files []string
	wait(t, "a scheduled snapshot", func() bool {
		files, _ = filepath.Glob(filepath.Join(r.backup.Directory, "cp-1-*.etcd.age"))
		return len(files) == 1
	})
	sealed, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("color")) {
		t.Error("the snapshot isn't encrypted")
	}
	open, err := age.Decrypt(bytes.NewReader(sealed), key)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(open)
	if err != nil || !bytes.Contains(data, []byte("color")) {
		t.Errorf("it hasn't what was written: %v", err)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := nodes.CheckSnapshot(plain); err != nil {
		t.Error(err)
	}
	wait(t, "the snapshot in the status", func() bool {
		return strings.Contains(r.slipway(t, 0, "status", "--nodes", "--output", "json"), `"newest": "20`)
	})
}

// etcd runs the etcd that images have, as its unit does.
func (r *rack) etcd(t *testing.T) *exec.Cmd {
	t.Helper()
	file := func(name string) string { return filepath.Join(r.root, bootspec.PKIDirectory, "etcd", name) }
	etcd := exec.Command(os.Getenv("SLIPWAY_TEST_ETCD"), "--name=cp-1", "--data-dir="+t.TempDir(), "--listen-client-urls=https://127.0.0.1:2379",
		"--advertise-client-urls=https://127.0.0.1:2379", "--listen-peer-urls=https://127.0.0.1:2380",
		"--initial-advertise-peer-urls=https://127.0.0.1:2380", "--initial-cluster=cp-1=https://127.0.0.1:2380",
		"--listen-metrics-urls=http://127.0.0.1:2381", "--client-cert-auth=true", "--trusted-ca-file="+file("ca.crt"),
		"--cert-file="+file("server.crt"), "--key-file="+file("server.key"), "--peer-client-cert-auth=true",
		"--peer-trusted-ca-file="+file("ca.crt"), "--peer-cert-file="+file("peer.crt"), "--peer-key-file="+file("peer.key"),
		"--tls-min-version=TLS1.3", "--unsafe-no-fsync")
	var words bytes.Buffer
	etcd.Stderr = &words
	if err := etcd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = etcd.Process.Kill()
		_ = etcd.Wait()
		if t.Failed() {
			lines := strings.Split(strings.TrimSpace(words.String()), "\n")
			t.Logf("etcd said at the end:\n%s", strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
	})
	wait(t, "etcd", func() bool {
		answer, err := http.Get("http://127.0.0.1:2381/health")
		if err == nil {
			answer.Body.Close()
		}
		return err == nil && answer.StatusCode == http.StatusOK
	})
	return etcd
}

// put writes a key.
func (r *rack) put(t *testing.T, key, value string) {
	t.Helper()
	base := base64.StdEncoding.EncodeToString
	r.ask(t, "/v3/kv/put", fmt.Sprintf(`{"key":%q,"value":%q}`, base([]byte(key)), base([]byte(value))))
}

// ask asks etcd's JSON gateway.
func (r *rack) ask(t *testing.T, route, body string) {
	t.Helper()
	file := func(name string) string { return filepath.Join(r.root, bootspec.PKIDirectory, "etcd", name) }
	own, err := tls.LoadX509KeyPair(file("apiserver-client.crt"), file("apiserver-client.key"))
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(r.identity.Etcd.Certificate)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted, Certificates: []tls.Certificate{own}}}}
	defer client.CloseIdleConnections()
	answer, err := client.Post("https://127.0.0.1:2379"+route, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status)
	}
}
