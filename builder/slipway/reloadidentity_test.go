package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/securetest"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// bench is a boot server of the lab in this process, with a depot and an identity whose keys are encrypted.
type bench struct {
	t    *testing.T
	dir  string
	said *written
}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }

// slipway runs a command and returns what it says, and whether it went well.
func (b *bench) slipway(words ...string) (string, bool) {
	b.t.Helper()
	out := &written{}
	code := run(b.t.Context(), &app{in: strings.NewReader(""), out: out, words: out, env: func(string) string { return "" }}, words)
	return out.String(), code == 0
}

func (b *bench) must(words ...string) {
	b.t.Helper()
	if said, ok := b.slipway(words...); !ok {
		b.t.Fatalf("slipway %s: %s", words, said)
	}
}

func (b *bench) reload() (string, bool) {
	b.t.Helper()
	return b.slipway("reload", "--cluster", b.file("lab.yaml"), "--state", b.file("states"))
}

// identity reads the identity as its operator does.
func (b *bench) identity() *pki.Identity {
	b.t.Helper()
	lock, err := pki.ReadLock(b.file("lock"))
	if err != nil {
		b.t.Fatal(err)
	}
	id, err := pki.Open(b.file("identity"), func(bool) (*pki.Lock, error) { return lock, nil })
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

func environmentNow() pki.Environment { return pki.Environment{Now: time.Now(), Rand: rand.Reader} }

func newBench(t *testing.T) *bench {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("a network namespace needs root")
	}
	b := &bench{t: t, dir: t.TempDir(), said: &written{}}
	for _, words := range []string{"ip link set lo up", "ip link add br2 type bridge", "ip addr add 10.1.0.1/24 dev br2", "ip addr add 10.1.0.21/24 dev br2", "ip link set br2 up"} {
		fields := strings.Fields(words)
		if out, err := exec.Command(fields[0], fields[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", words, err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "br2").Run() })
	lock, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	document := string(cluster.Lab()) + "\netcd: {backup: {recipients: [" + lock.Recipient().String() + "], to: [{server: true}]}}\n"
	if err := errors.Join(os.WriteFile(b.file("lab.yaml"), []byte(document), 0o600), os.WriteFile(b.file("lock"), []byte(lock.String()+"\n"), 0o600),
		os.Mkdir(b.file("images"), 0o755), served(b.file("images"), "control-plane"), served(b.file("images"), "worker")); err != nil {
		t.Fatal(err)
	}
	b.must("identity", "--cluster", b.file("lab.yaml"), "--encrypt-to", b.file("lock"))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	a := &app{in: strings.NewReader(""), out: b.said, words: b.said, env: func(string) string { return "" }}
	go func() {
		ended <- run(ctx, a, []string{"serve", "--cluster", b.file("lab.yaml"), "--artifacts", b.file("images"), "--interface", "br2", "--state", b.file("states"), "--identity-key", b.file("lock")})
	}()
	t.Cleanup(func() { stop(); <-ended })
	for deadline := time.Now().Add(time.Minute); !strings.Contains(b.said.String(), "msg=serving"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the boot server doesn't come up: %s", b.said)
		}
	}
	return b
}

// claims has worker-1 claim its configuration of a server of this authority, and returns the files in it.
func (b *bench) claims(authority []byte) (files map[string]string, err error) {
	b.t.Helper()
	_, own := securetest.Certificate(b.t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	text, _ := json.Marshal(bootspec.Claim{Version: bootspec.ClaimVersion, MAC: "52:54:00:00:00:21", UUID: "u", Serial: "s"})
	dialer := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("10.1.0.21:0"))}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext,
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: bootspec.SecureName, Certificates: []tls.Certificate{*own}}}}
	answer, err := client.Post("https://10.1.0.1:7446"+bootspec.RouteClaim, "application/json", strings.NewReader(string(text)))
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	var document struct {
		Storage struct {
			Files []struct {
				Path     string
				Contents struct{ Source string }
			}
		}
	}
	if err := json.NewDecoder(answer.Body).Decode(&document); answer.StatusCode != http.StatusOK || err != nil {
		return nil, fmt.Errorf("%s: %w", answer.Status, err)
	}
	files = map[string]string{}
	for _, f := range document.Storage.Files {
		if _, encoded, ok := strings.Cut(f.Contents.Source, ";base64,"); ok {
			text, err := base64.StdEncoding.DecodeString(encoded)
			if err != nil {
				return nil, err
			}
			files[f.Path] = string(text)
		}
	}
	return files, nil
}

// issuers are who has signed the certificates of a text.
func issuers(t *testing.T, text string) (names []string) {
	t.Helper()
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return names
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, c.Issuer.CommonName)
	}
}

// given is by which authorities the configuration of worker-1 is, and which it trusts.
func (b *bench) given(authority []byte) string {
	b.t.Helper()
	files, err := b.claims(authority)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, b.said)
	}
	return fmt.Sprintf("manage by %s, trusts %s", issuers(b.t, files[bootspec.PKIDirectory+"/"+bootspec.ManageCertificate]), issuers(b.t, files["/etc/kubernetes/pki/ca.crt"]))
}

// operator is a client of the depot with the certificate of an identity, that believes the authorities of another.
func (b *bench) operator(own, trusts *pki.Identity) *http.Client {
	b.t.Helper()
	pair, err := own.Operator(environmentNow())
	if err != nil {
		b.t.Fatal(err)
	}
	shown, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		b.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(trusts.CA.Certificate)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{shown}, ServerName: bootspec.DepotName}}}
	b.t.Cleanup(c.CloseIdleConnections)
	return c
}

// lists is what the depot answers to an operator.
func (b *bench) lists(c *http.Client) string {
	answer, err := c.Get("https://10.1.0.1:7445" + bootspec.RouteDepot)
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.Status
}

// TestReloadReadsTheIdentity: after each step of a rotation `slipway reload` is enough: configurations, and what the depot of snapshots shows and
// believes, are of the authorities of then. An identity that can't be read changes nothing.
func TestReloadReadsTheIdentity(t *testing.T) {
	b := newBench(t)
	first := b.identity()
	boot := first.Boot.PEM()
	old := b.operator(first, first)
	step := func(want string) *pki.Identity {
		t.Helper()
		id := b.identity()
		if err := id.Advance(b.file("identity"), environmentNow()); err != nil {
			t.Fatal(err)
		}
		before := b.given(boot)
		if said, ok := b.reload(); !ok {
			t.Fatalf("%s", said)
		}
		if got := b.given(boot); got != want || got == before {
			t.Errorf("got  %s\nwant %s\nbefore: %s", got, want, before)
		}
		return id
	}
	if got := b.given(boot); got != "manage by [lab cluster CA], trusts [lab cluster CA]" {
		t.Errorf("got %s", got)
	}
	if got := b.lists(old); got != "200 OK" {
		t.Errorf("the depot: %s", got)
	}
	step("manage by [lab cluster CA], trusts [lab cluster CA lab cluster CA 2]")
	second := step("manage by [lab cluster CA 2], trusts [lab cluster CA 2 lab cluster CA]")
	next := b.operator(second, second)
	if got, still := b.lists(next), b.lists(old); got != "200 OK" || still != "200 OK" {
		t.Errorf("the depot between two authorities: the new one's operator: %s, the old one's on his connection: %s", got, still)
	}
	step("manage by [lab cluster CA 2], trusts [lab cluster CA 2]")
	if got := b.lists(next); got != "200 OK" {
		t.Errorf("the depot after all: %s", got)
	}
	for name, c := range map[string]*http.Client{"on his connection": old, "on a new one": b.operator(first, second)} {
		if got := b.lists(c); got == "200 OK" {
			t.Errorf("the depot still takes an operator of the old authority, %s", name)
		}
	}

	for what, spoil := range map[string]func() (restore func() error){
		"cannot load identity": func() func() error { return moved(t, b.file("identity/2-ca.crt")) },
		"its keys are encrypted for another key": func() func() error {
			other, err := age.GenerateX25519Identity()
			if err != nil {
				t.Fatal(err)
			}
			key, _ := pki.ReadLock(b.file("lock"))
			lock, err := pki.PublicLock(other.Recipient().String())
			if err != nil {
				t.Fatal(err)
			}
			kept, err := os.ReadFile(b.file("identity/keys.age"))
			if err == nil {
				_, err = pki.Encrypt(b.file("identity"), func(bool) (*pki.Lock, error) { return key, nil }, lock, environmentNow())
			}
			if err != nil {
				t.Fatal(err)
			}
			return func() error { return os.WriteFile(b.file("identity/keys.age"), kept, 0o600) }
		},
	} {
		restore := spoil()
		said, ok := b.reload()
		if ok || !strings.Contains(said, what) {
			t.Errorf("reload with a spoilt identity: %s\nwant %s", said, what)
		}
		if got := b.given(boot); got != "manage by [lab cluster CA 2], trusts [lab cluster CA 2]" {
			t.Errorf("%s: then %s", what, got)
		}
		if got := b.lists(next); got != "200 OK" {
			t.Errorf("%s: then the depot: %s", what, got)
		}
		if err := restore(); err != nil {
			t.Fatal(err)
		}
	}
	if said, ok := b.reload(); !ok {
		t.Errorf("%s", said)
	}

	// The key's file is away, and the server still has what opened the identity. With another identity in the folder's place, TLS is that one's.
	back := moved(t, b.file("lock"))
	if said, ok := b.reload(); !ok {
		t.Errorf("%s", said)
	}
	if err := back(); err != nil {
		t.Fatal(err)
	}
	moved(t, b.file("identity"))
	b.must("identity", "--cluster", b.file("lab.yaml"), "--encrypt-to", b.file("lock"))
	if said, ok := b.reload(); !ok {
		t.Errorf("%s", said)
	}
	if got := b.given(b.identity().Boot.PEM()); got != "manage by [lab cluster CA], trusts [lab cluster CA]" {
		t.Errorf("another identity: %s", got)
	}
	if _, err := b.claims(boot); err == nil {
		t.Error("TLS still is the old identity's")
	}
	answer, err := http.Get("http://10.1.0.1:8080" + bootspec.RouteSecure)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	if over, err := bootspec.ParseSecure(text); err != nil || over.Authority != string(b.identity().Boot.PEM()) {
		t.Errorf("%v: the authority that is told: %s", err, text)
	}
}

// moved takes a file away until it's put back.
func moved(t *testing.T, file string) (back func() error) {
	t.Helper()
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	return func() error { return os.Rename(file+".away", file) }
}

// TestOpenAgain: what opens an identity when it is read again without anybody to ask.
func TestOpenAgain(t *testing.T) {
	dir := t.TempDir()
	c, err := cluster.Parse("lab.yaml", cluster.Lab())
	if err != nil {
		t.Fatal(err)
	}
	var files, keys []string
	var locks []*pki.Lock
	for i := range 2 {
		key, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		lock, err := pki.ParseLock([]byte(key.String()))
		if err != nil {
			t.Fatal(err)
		}
		keys, locks, files = append(keys, key.String()), append(locks, lock), append(files, filepath.Join(dir, fmt.Sprint(i)))
		if err := os.WriteFile(files[i], []byte(key.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plain, err := pki.Create(filepath.Join(dir, "plain"), c, environmentNow())
	if err != nil {
		t.Fatal(err)
	}
	locked, err := pki.CreateLocked(filepath.Join(dir, "locked"), c, locks[0], environmentNow())
	if err != nil {
		t.Fatal(err)
	}
	a := &app{in: strings.NewReader(""), env: func(string) string { return "" }}
	for _, one := range []struct {
		what, folder, key string
		before            *pki.Identity
		want              []string // empty: it opens
	}{
		{"plain, as it was", "plain", "", plain, nil},
		{"plain, and was encrypted", "plain", "", locked, nil},
		{"typed at the start", "locked", "", locked, nil},
		{"a file", "locked", files[0], locked, nil},
		{"a file that is gone", "locked", files[0] + ".gone", locked, nil},
		{"encrypted since, and a file is named", "locked", files[0], plain, nil},
		{"encrypted since, and nothing is named", "locked", "", plain, []string{"its keys are encrypted, and were not when the server was started", "--identity-key"}},
		{"encrypted since, and the file is gone", "locked", files[0] + ".gone", plain, []string{"cannot read the identity's key " + files[0] + ".gone"}},
		{"the file has another key", "locked", files[1], locked, []string{"encrypted for another key"}},
		{"no folder", "none", files[1], locked, []string{"no such file"}},
	} {
		id, err := a.openAgain(&clusterFlags{key: one.key}, filepath.Join(dir, one.folder), one.before)
		if (err == nil) != (one.want == nil) || err == nil && id.Cluster != "lab" ||
			slices.ContainsFunc(one.want, func(w string) bool { return err == nil || !strings.Contains(err.Error(), w) }) ||
			err != nil && slices.ContainsFunc(keys, func(k string) bool { return strings.Contains(err.Error(), k) }) {
			t.Errorf("%s: %v", one.what, err)
		}
	}
	if _, err := pki.Encrypt(filepath.Join(dir, "locked"), func(bool) (*pki.Lock, error) { return locks[0], nil }, locks[1], environmentNow()); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"": "the passphrase that was typed at the start is all that the server has: start it anew", files[0] + ".gone": "cannot read the identity's key"} {
		if _, err := a.openAgain(&clusterFlags{key: key}, filepath.Join(dir, "locked"), locked); err == nil || !strings.Contains(err.Error(), "encrypted for another key") || !strings.Contains(err.Error(), want) {
			t.Errorf("encrypted for another key, %q: %v", key, err)
		}
	}
}
