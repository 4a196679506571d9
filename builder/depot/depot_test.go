package depot_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/depot"
	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// site is a depot of the reference cluster that serves, and its identity.
type site struct {
	id      *pki.Identity
	cluster *cluster.Cluster
	base    string
	dir     string
}

func environment() pki.Environment { return pki.Environment{Now: time.Now(), Rand: rand.Reader} }

func newSite(t *testing.T) *site {
	t.Helper()
	c, err := cluster.Parse("reference.yaml", cluster.Reference())
	if err != nil {
		t.Fatal(err)
	}
	s := &site{cluster: c, dir: filepath.Join(t.TempDir(), "etcd-snapshots")}
	if s.id, err = pki.Create(filepath.Join(t.TempDir(), "identity"), c, environment()); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	d, err := depot.New(depot.Config{
		Address: address, Dir: s.dir, Keep: 2, Nodes: []string{"cp-1", "cp-2", "cp-3"}, Authority: s.id.CA.PEM(),
		Certificate: func() (*tls.Certificate, error) {
			pair, err := s.id.Depot(environment())
			if err != nil {
				return nil, err
			}
			c, err := tls.X509KeyPair(pair.Certificate, pair.Key)
			return &c, err
		},
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	s.base = "https://" + address
	return s
}

// client presents a pair.
func (s *site) client(t *testing.T, pair pki.Pair) *http.Client {
	t.Helper()
	own, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.id.CA.Certificate)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{own}, ServerName: bootspec.DepotName}}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// node is a node's management certificate.
func (s *site) node(t *testing.T, name string) *http.Client {
	t.Helper()
	n, _ := s.cluster.Node(name)
	files, err := s.id.NodeFiles(s.cluster, n, environment())
	if err != nil {
		t.Fatal(err)
	}
	var pair pki.Pair
	for _, f := range files {
		switch f.Path {
		case bootspec.PKIDirectory + "/" + bootspec.ManageCertificate:
			pair.Certificate = f.Data
		case bootspec.PKIDirectory + "/" + bootspec.ManageKey:
			pair.Key = f.Data
		}
	}
	return s.client(t, pair)
}

func (s *site) operator(t *testing.T) *http.Client {
	t.Helper()
	pair, err := s.id.Operator(environment())
	if err != nil {
		t.Fatal(err)
	}
	return s.client(t, pair)
}

// put sends a snapshot, and tells what came of it: a status, or that there was none.
func (s *site) put(t *testing.T, c *http.Client, name string, body io.Reader, size int64, sum string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.base+bootspec.RouteDepot+name, body)
	if err != nil {
		t.Fatal(err)
	}
	request.ContentLength = size
	request.Header.Set(bootspec.HeaderSHA256, sum)
	answer, err := c.Do(request)
	if err != nil {
		return "refused: " + err.Error()
	}
	defer answer.Body.Close()
	words, _ := io.ReadAll(answer.Body)
	return answer.Status + " " + string(words)
}

func (s *site) bring(t *testing.T, c *http.Client, name, content string) string {
	t.Helper()
	return s.put(t, c, name, strings.NewReader(content), int64(len(content)), fmt.Sprintf("%x", sha256.Sum256([]byte(content))))
}

// files are what lies in the folder.
func (s *site) files(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}

const sealed = bootspec.SnapshotHead + "-> X25519 what only its owner can read"

func snapshot(node string, hour int) string {
	return bootspec.SnapshotName(node, time.Date(2026, 3, 1, hour, 0, 0, 0, time.UTC))
}

// TestKeeps: control planes bring theirs, the newest two of each stay, and an operator gets them back as they were.
func TestKeeps(t *testing.T) {
	s := newSite(t)
	one, two := s.node(t, "cp-1"), s.node(t, "cp-2")
	for hour := range 4 {
		if got := s.bring(t, one, snapshot("cp-1", hour), sealed); !strings.HasPrefix(got, "204") {
			t.Fatal(got)
		}
	}
	if got := s.bring(t, two, snapshot("cp-2", 0), sealed+"two"); !strings.HasPrefix(got, "204") {
		t.Fatal(got)
	}
	want := strings.Join([]string{snapshot("cp-1", 2), snapshot("cp-1", 3), snapshot("cp-2", 0)}, " ")
	if got := s.files(t); got != want {
		t.Errorf("it keeps %s, not %s", got, want)
	}
	list := func(c *http.Client) (names []string) {
		answer, err := c.Get(s.base + bootspec.RouteDepot)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var kept []bootspec.KeptSnapshot
		if err := json.NewDecoder(answer.Body).Decode(&kept); err != nil {
			t.Fatal(err)
		}
		for _, k := range kept {
			names = append(names, k.Name)
		}
		return names
	}
	if got := strings.Join(list(s.operator(t)), " "); got != want {
		t.Errorf("an operator sees %s", got)
	}
	if got := strings.Join(list(two), " "); got != snapshot("cp-2", 0) {
		t.Errorf("cp-2 sees %s", got)
	}
	answer, err := s.operator(t).Get(s.base + bootspec.RouteDepot + snapshot("cp-2", 0))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if got, err := io.ReadAll(answer.Body); err != nil || string(got) != sealed+"two" {
		t.Errorf("%q, %v", got, err)
	}
	if st, _ := os.Stat(filepath.Join(s.dir, snapshot("cp-2", 0))); st.Mode().Perm() != 0o600 {
		t.Errorf("others may read it: %s", st.Mode())
	}
}

// TestRefuses: nobody writes but the control plane whose it is, nobody reads but operators, and nothing is kept that isn't whole.
func TestRefuses(t *testing.T) {
	s := newSite(t)
	one := s.node(t, "cp-1")
	name := snapshot("cp-1", 0)
	if got := s.bring(t, one, name, sealed); !strings.HasPrefix(got, "204") {
		t.Fatal(got)
	}
	before := s.files(t)
	foreign, err := pki.Create(filepath.Join(t.TempDir(), "identity"), s.cluster, environment())
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := foreign.Operator(environment())
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := s.id.CA.Issue(pki.Leaf{CommonName: "system:node:cp-1", Organization: []string{"system:nodes"}, Client: true, Lifetime: time.Hour}, environment())
	if err != nil {
		t.Fatal(err)
	}
	whole := fmt.Sprintf("%x", sha256.Sum256([]byte(sealed)))
	long := int64(len(sealed))
	for _, tt := range []struct{ what, got, want string }{
		{"another cluster's operator", s.bring(t, s.client(t, wrong), name, sealed), "refused: "},
		{"a worker", s.bring(t, s.node(t, "worker-1"), name, sealed), "refused: "},
		{"a kubelet", s.bring(t, s.client(t, proxy), name, sealed), "refused: "},
		{"an operator who writes", s.bring(t, s.operator(t), snapshot("cp-1", 1), sealed), "403"},
		{"another control plane", s.bring(t, s.node(t, "cp-2"), snapshot("cp-1", 1), sealed), "403"},
		{"no name of a snapshot", s.bring(t, one, "cp-1-notes", sealed), "403"},
		{"a path", s.bring(t, one, "..%2f"+snapshot("cp-1", 1), sealed), "403"},
		{"in the clear", s.bring(t, one, snapshot("cp-1", 1), "all that the cluster keeps"), "400.*not encrypted"},
		{"nothing", s.bring(t, one, snapshot("cp-1", 1), ""), "413"},
		{"no length", s.put(t, one, snapshot("cp-1", 1), io.MultiReader(strings.NewReader(sealed)), -1, whole), "413"},
		{"too long", s.put(t, one, snapshot("cp-1", 1), strings.NewReader(sealed), bootspec.MaxEtcdSnapshot+1, whole), ""},
		{"damaged", s.put(t, one, snapshot("cp-1", 1), strings.NewReader(sealed), long, strings.Repeat("0", 64)), "400.*SHA-256"},
		{"cut", s.put(t, one, snapshot("cp-1", 1), bytes.NewReader([]byte(sealed)[:20]), long, whole), "refused: "},
	} {
		want, more, _ := strings.Cut(tt.want, ".*")
		if !strings.HasPrefix(tt.got, want) || !strings.Contains(tt.got, more) {
			t.Errorf("%s: %s, not %s", tt.what, tt.got, tt.want)
		}
		if strings.HasPrefix(tt.got, "2") {
			t.Errorf("%s was taken", tt.what)
		}
	}
	answer, err := one.Get(s.base + bootspec.RouteDepot + name)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusForbidden {
		t.Errorf("a node reads what it has brought: %s", answer.Status)
	}
	for deadline := time.Now().Add(20 * time.Second); s.files(t) != before; time.Sleep(10 * time.Millisecond) { // the server learns late that a body was cut
		if time.Now().After(deadline) {
			t.Fatalf("it keeps %s, not %s", s.files(t), before)
		}
	}
}
