package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/ulikunitz/xz"
)

// today is the clock of these tests.
var today = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// signer is a key made for a test.
type signer struct{ entity *openpgp.Entity }

func newSigner(t testing.TB, name string) signer {
	t.Helper()
	config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return today.Add(-time.Hour) }}
	e, err := openpgp.NewEntity(name, "", name+"@example.org", config)
	if err != nil {
		t.Fatal(err)
	}
	return signer{e}
}

// armored is the public key as a file.
func (s signer) armored(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.entity.Serialize(w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return b.Bytes()
}

func (s signer) keys() Keys { return Keys{openpgp.EntityList{s.entity}} }

// sign makes an InRelease of text, signed by all signers.
func sign(t testing.TB, text string, by ...signer) []byte {
	t.Helper()
	var keys []*packet.PrivateKey
	for _, s := range by {
		keys = append(keys, s.entity.PrivateKey)
	}
	var b bytes.Buffer
	w, err := clearsign.EncodeMulti(&b, keys, &packet.Config{Time: func() time.Time { return today.Add(-time.Minute) }})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, text)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func xzOf(t testing.TB, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, text)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// mirror is an archive in memory, served over HTTP on loopback, that remembers what it was asked.
type mirror struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string][]byte
	asked []string // "path" or "path from N"
	hook  func(w http.ResponseWriter, r *http.Request) bool
}

func newMirror(t testing.TB) *mirror {
	m := &mirror{files: map[string][]byte{}}
	m.Server = httptest.NewServer(m)
	t.Cleanup(m.Close)
	return m
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	ask := r.URL.Path
	if rng := r.Header.Get("Range"); rng != "" {
		ask += " from " + strings.Trim(rng, "bytes=-")
	}
	m.asked = append(m.asked, ask)
	data, ok := m.files[r.URL.Path]
	hook := m.hook
	m.mu.Unlock()
	if hook != nil && hook(w, r) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

func (m *mirror) requests() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.asked...)
}

// source is a client of the mirror with an empty cache that does not wait between attempts.
func (m *mirror) source(t testing.TB) *Source {
	t.Helper()
	mirrors, err := FindMirrors(Choice{Flag: m.URL + "/debian"})
	if err != nil {
		t.Fatal(err)
	}
	client := NewClient()
	client.backoff = time.Millisecond
	return &Source{Mirrors: mirrors, Cache: NewCache(t.TempDir()), Client: client}
}

const packagesText = `Package: demo
Version: 1.0-1
Architecture: all
Depends: libdemo (>= 1)
Filename: pool/main/d/demo/demo_1.0-1_all.deb
Size: 4
SHA256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

Package: libdemo
Version: 1.0-1
Architecture: amd64
Provides: libdemo-api (= 1)
Filename: pool/main/d/demo/libdemo_1.0-1_amd64.deb
Size: 4
SHA256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

Package: foreign
Version: 1
Architecture: arm64
Filename: pool/f.deb
Size: 4
SHA256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
`

// release is a Release text for the list, with lines changed by old, new pairs.
func release(list []byte, changes ...string) string {
	text := fmt.Sprintf(`Origin: Demo
Suite: stable
Codename: trixie
Date: Sun, 03 May 2026 09:15:44 UTC
Valid-Until: Sun, 10 May 2026 09:15:44 UTC
Acquire-By-Hash: yes
Architectures: all amd64
Components: main
SHA256:
 %s %d main/binary-amd64/Packages.xz
`, digest(list), len(list))
	return strings.NewReplacer(changes...).Replace(text)
}

// publish puts a suite into the mirror.
func (m *mirror) publish(inRelease, list []byte) {
	m.files["/debian/dists/trixie/InRelease"] = inRelease
	m.files["/debian/dists/trixie/main/binary-amd64/by-hash/SHA256/"+digest(list)] = list
}

func suite(keys Keys) Suite {
	return Suite{Archive: "debian", Name: "trixie", Components: []string{"main"}, Arch: "amd64", Keys: keys}
}
