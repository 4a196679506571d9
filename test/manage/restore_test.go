package manage

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipway-os/slipway/builder/nodes"
	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// site is the reference cluster's three control planes in namespaces, and the operator.
type site struct {
	rack
	machines []*machine
	power    []func()
}

func newSite(t *testing.T) *site {
	t.Helper()
	if os.Getenv("SLIPWAY_TEST_ETCD") == "" {
		t.Skip("TestInNamespace runs it, not in short")
	}
	for _, command := range []string{"link set lo up", "link add rack type bridge", "addr add 10.1.0.1/24 dev rack", "link set rack up"} {
		ip(t, command)
	}
	t.Cleanup(func() { ip(t, "link del rack") })
	document := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(document, cluster.Reference(), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Parse(document, cluster.Reference())
	if err != nil {
		t.Fatal(err)
	}
	s := &site{rack: rack{cluster: c, document: document, folder: filepath.Join(t.TempDir(), "identity"), program: os.Getenv("SLIPWAY_TEST_PROGRAM")}}
	if s.identity, err = pki.Create(s.folder, c, environment()); err != nil {
		t.Fatal(err)
	}
	var members []string
	for _, name := range []string{"cp-1", "cp-2", "cp-3"} {
		n, _ := c.Node(name)
		m := &machine{Name: name, Address: c.NodeAddress(n).String(), Root: t.TempDir(), Etcd: os.Getenv("SLIPWAY_TEST_ETCD")}
		m.Log = filepath.Join(m.Root, "log")
		files, err := s.identity.NodeFiles(c, n, environment())
		if err != nil {
			t.Fatal(err)
		}
		s.place(t, m.Root, files)
		if err := os.Symlink(m.Etcd, m.tool()); err != nil {
			t.Fatal(err)
		}
		members = append(members, name+"=https://"+m.Address+":2380")
		s.machines = append(s.machines, m)
	}
	for _, m := range s.machines {
		m.Members = strings.Join(members, ",")
	}
	s.root = s.machines[0].Root
	s.power = make([]func(), len(s.machines))
	t.Cleanup(func() { s.explain(t) })
	return s
}

// explain shows what the machines said when the test failed.
func (s *site) explain(t *testing.T) {
	if !t.Failed() {
		return
	}
	for _, m := range s.machines {
		text, _ := os.ReadFile(m.Log)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		t.Logf("%s said at the end:\n%s", m.Name, strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
}

func (s *site) on(t *testing.T, numbers ...int) {
	t.Helper()
	for _, i := range numbers {
		s.power[i] = s.machines[i].on(t, i+1)
	}
}

func (s *site) off(numbers ...int) {
	for _, i := range numbers {
		s.power[i]()
	}
}

// wipe is a new disk.
func (s *site) wipe(t *testing.T, i int) {
	t.Helper()
	if err := os.RemoveAll(s.machines[i].data("")); err != nil {
		t.Fatal(err)
	}
}

// healthy waits until etcd of these machines is.
func (s *site) healthy(t *testing.T, numbers ...int) {
	t.Helper()
	wait(t, fmt.Sprintf("a healthy etcd on %v", numbers), func() bool {
		var answers struct {
			Nodes []nodes.Answer `json:"nodes"`
		}
		if err := json.Unmarshal([]byte(s.slipway(t, 0, "status", "--nodes", "--output", "json")), &answers); err != nil {
			t.Fatal(err)
		}
		for _, i := range numbers {
			a := answers.Nodes[i]
			if a.Status == nil || a.Status.Etcd == nil || !a.Status.Etcd.Healthy {
				return false
			}
		}
		return true
	})
}

// etcdctl asks etcd of a machine as its API server does.
func (s *site) ask(t *testing.T, i int, route, body string) (answer []byte, err error) {
	t.Helper()
	m := s.machines[i]
	own, err := tls.LoadX509KeyPair(m.pki("apiserver-client.crt"), m.pki("apiserver-client.key"))
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(s.identity.Etcd.Certificate)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted, Certificates: []tls.Certificate{own}}}}
	defer client.CloseIdleConnections()
	got, err := client.Post("https://"+m.Address+":2379"+route, "application/json", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer got.Body.Close()
	answer, err = io.ReadAll(got.Body)
	if err == nil && got.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", got.Status, answer)
	}
	return answer, err
}

func (s *site) write(t *testing.T, i int, key, value string) {
	t.Helper()
	base := base64.StdEncoding.EncodeToString
	if _, err := s.ask(t, i, "/v3/kv/put", fmt.Sprintf(`{"key":%q,"value":%q}`, base([]byte(key)), base([]byte(value)))); err != nil {
		t.Fatal(err)
	}
}

// read is the value of a key, empty for none, and the revision.
func (s *site) read(t *testing.T, i int, key string) (value string, revision string) {
	t.Helper()
	text, err := s.ask(t, i, "/v3/kv/range", fmt.Sprintf(`{"key":%q}`, base64.StdEncoding.EncodeToString([]byte(key))))
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Header struct{ Revision string }
		Kvs    []struct{ Value []byte }
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatal(err)
	}
	if len(answer.Kvs) == 1 {
		value = string(answer.Kvs[0].Value)
	}
	return value, answer.Header.Revision
}

// TestRackRestore: two of three control planes lose their disks while the third is away. The snapshot comes back by one command,
// and all three run with it in the end, with the data of before beside.
func TestRackRestore(t *testing.T) {
	s := newSite(t)
	s.on(t, 0, 1, 2)
	s.healthy(t, 0, 1, 2)
	s.write(t, 0, "word", "kept")
	plain := filepath.Join(t.TempDir(), "plain")
	s.slipway(t, 0, "etcd", "snapshot", "--out", plain, "--node", "cp-2")
	sealed, key := seal(t, plain)
	s.write(t, 1, "word", "later")
	s.write(t, 1, "new", "later")

	// What must not happen by mistake.
	restore := []string{"etcd", "restore", sealed, "--key", key, "--node", "cp-1"}
	has(t, s.slipway(t, 1, append(restore, "--yes")...), "the cluster has its quorum, as cp-1, cp-2, cp-3 says?: nothing was changed")
	has(t, s.slipway(t, 2, append(restore, "--running")...), "nobody can be asked here: add --yes")
	has(t, s.slipway(t, 2, "etcd", "restore", plain, "--node", "worker-1", "--yes"), `no control plane "worker-1"`)
	has(t, s.slipway(t, 1, "etcd", "restore", sealed, "--node", "cp-1", "--yes"), "it is encrypted: name the file")
	if value, _ := s.read(t, 2, "word"); value != "later" {
		t.Errorf("a refused restore has changed the cluster: %q", value)
	}

	s.off(0, 1, 2)
	s.wipe(t, 0)
	s.wipe(t, 1)
	s.on(t, 0, 1)
	wait(t, "the management API", func() bool { return reachable("10.1.0.11:7444") && reachable("10.1.0.12:7444") })
	out := s.slipway(t, 0, append(restore, "--yes")...)
	has(t, out, "etcd runs from the snapshot on cp-1", "joined: cp-2", "not changed: cp-3: cannot ask node cp-3", "Next: power on cp-3 while cp-1 runs")
	for _, i := range []int{0, 1} {
		value, revision := s.read(t, i, "word")
		if lost, _ := s.read(t, i, "new"); value != "kept" || lost != "" {
			t.Errorf("%s has %q and %q", s.machines[i].Name, value, lost)
		}
		if len(revision) < len("1000000000") {
			t.Errorf("%s is at revision %s: who watched the cluster before would wait for what has been", s.machines[i].Name, revision)
		}
	}
	s.write(t, 1, "word", "after")

	s.on(t, 2) // with the data of before
	s.healthy(t, 0, 1, 2)
	wait(t, "cp-3 with the restored data", func() bool { value, _ := s.read(t, 2, "word"); return value == "after" })
	if old, _ := filepath.Glob(s.machines[2].data("slipway/set-aside-*/member/wal/*.wal")); len(old) == 0 {
		t.Error("cp-3 hasn't kept its data of before")
	}
	has(t, s.said(2), "the cluster was restored from a snapshot on cp-1 at .* without this node: its data is of before that")

	// Back again, from a running cluster: everybody's data is kept, and everybody follows.
	started := time.Now()
	has(t, s.slipway(t, 0, "etcd", "restore", plain, "--node", "cp-3", "--yes", "--running"), "etcd runs from the snapshot on cp-3", "joined: cp-1, cp-2",
		"the data of before: cp-1:/var/lib/etcd/slipway/set-aside-")
	t.Logf("three restored and joined in %s", time.Since(started).Round(time.Second))
	for i := range s.machines {
		if value, _ := s.read(t, i, "word"); value != "kept" {
			t.Errorf("%s has %q", s.machines[i].Name, value)
		}
	}
}

func (s *site) said(i int) string {
	text, _ := os.ReadFile(s.machines[i].Log)
	return string(text)
}

// seal encrypts a file as control planes do.
func seal(t *testing.T, file string) (sealed, key string) {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, identity.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sealed, key = filepath.Join(t.TempDir(), "snapshot.age"), filepath.Join(t.TempDir(), "key.txt")
	for name, text := range map[string][]byte{sealed: out.Bytes(), key: []byte(identity.String() + "\n")} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return sealed, key
}

// place writes a node's files.
func (r *rack) place(t *testing.T, root string, files []pki.File) {
	t.Helper()
	files = append(files, pki.File{Path: bootspec.ImageRelease, Mode: 0o644, Data: []byte("IMAGE_ID=x\nSLIPWAY_IMAGE=slipway-control-plane-0.1.0-amd64\n")})
	for _, f := range files {
		path := filepath.Join(root, f.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, os.FileMode(f.Mode)); err != nil {
			t.Fatal(err)
		}
	}
}
