package publish

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/release"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// newSealing has a new key.
func newSealing(t *testing.T) *Sealing {
	t.Helper()
	name := filepath.Join(t.TempDir(), "k")
	_, err := release.Generate(name, "", rand.Reader)
	must(t, err)
	key, err := release.ReadSigningKey(name+release.ExtSecret, nil)
	must(t, err)
	return &Sealing{By: release.Signers{Minisign: &key}, Now: noon, Entropy: rand.Reader}
}

// reader trusts a key, and remembers.
func reader(t *testing.T, s *Sealing) *Guard {
	t.Helper()
	return &Guard{Trust: s.By.Trust("k.pub"), Now: noon, Memory: &Memory{Dir: filepath.Join(t.TempDir(), "deep", "memory")}}
}

// signedPlace is a place with versions 1.0.0 and 1.1.0, each of which was stable when it was published, and the bytes of its two indexes.
func signedPlace(t *testing.T) (dir string, s *Sealing, indexes [2][]byte) {
	t.Helper()
	dir, s = t.TempDir(), newSealing(t)
	f := openFolder(t, dir)
	for i, v := range []string{"1.0.0", "1.1.0"} {
		_, err := publish(t, f, baked(t, v, v), Order{Channels: []string{Stable}, Sealing: s})
		must(t, err)
		indexes[i], err = os.ReadFile(filepath.Join(dir, IndexName))
		must(t, err)
	}
	return dir, s, indexes
}

func openFolder(t *testing.T, dir string) *Folder {
	t.Helper()
	f, err := CreateFolder(dir)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	f.Patience = time.Minute
	return f
}

func find(t *testing.T, dir string, g *Guard, w Want) (string, error) {
	t.Helper()
	f := openFolder(t, dir)
	f.Guard = g
	r, err := f.Find(context.Background(), w)
	return r.Version, err
}

func putIndex(t *testing.T, dir string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, IndexName), data, 0o600))
}

func TestSignedIndex(t *testing.T) {
	dir, s, indexes := signedPlace(t)
	if x, err := DecodeIndex(indexes[1]); err != nil || x.Seal.Counter != 2 || x.Seal.Expires != "" || len(x.Seal.Place) != 32 {
		t.Fatalf("%+v, %v", x.Seal, err)
	}
	g := reader(t, s)
	if v, err := find(t, dir, g, Want{}); err != nil || v != "1.1.0" {
		t.Errorf("%s, %v", v, err)
	}
	if v, err := find(t, dir, nil, Want{}); err != nil || v != "1.1.0" {
		t.Errorf("who trusts nobody: %s, %v", v, err)
	}
	if v, err := find(t, dir, g, Want{Version: "1.0.0"}); err != nil || v != "1.0.0" {
		t.Errorf("%s, %v", v, err)
	}
}

// TestWhatAReaderRefuses is what somebody can do who can write to the place and has no key.
func TestWhatAReaderRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string, indexes [2][]byte)
		words string
	}{
		"an older index": {func(t *testing.T, dir string, indexes [2][]byte) { putIndex(t, dir, indexes[0]) }, "this is index 1, and 2 was seen before"},
		"another channel": {func(t *testing.T, dir string, indexes [2][]byte) {
			putIndex(t, dir, bytes.Replace(indexes[1], []byte(`"stable": "1.1.0"`), []byte(`"stable": "1.0.0"`), 1))
		}, "is not what key"},
		"a higher counter": {func(t *testing.T, dir string, indexes [2][]byte) {
			putIndex(t, dir, bytes.Replace(indexes[0], []byte(`"counter": 1`), []byte(`"counter": 9`), 1))
		}, "is not what key"},
		"no signature": {func(t *testing.T, dir string, indexes [2][]byte) {
			x, err := DecodeIndex(indexes[1])
			must(t, err)
			x.Seal = nil
			putIndex(t, dir, x.Encode())
		}, "it was signed before (index 2)"},
		"an empty signature": {func(t *testing.T, dir string, indexes [2][]byte) {
			x, err := DecodeIndex(indexes[1])
			must(t, err)
			x.Seal.Signature = ""
			putIndex(t, dir, x.Encode())
		}, "index.json is not signed"},
		"a damaged signature": {func(t *testing.T, dir string, indexes [2][]byte) {
			x, err := DecodeIndex(indexes[1])
			must(t, err)
			x.Seal.Signature = "x"
			putIndex(t, dir, x.Encode())
		}, "is no minisign signature"},
		"another place": {func(t *testing.T, dir string, _ [2][]byte) {
			other := t.TempDir()
			f := openFolder(t, other)
			for _, v := range []string{"1.0.0", "1.1.0", "1.2.0"} {
				_, err := publish(t, f, baked(t, v, v), Order{Channels: []string{Stable}, Sealing: &Sealing{By: stolen, Now: noon, Entropy: rand.Reader}})
				must(t, err)
			}
			data, err := os.ReadFile(filepath.Join(other, IndexName))
			must(t, err)
			putIndex(t, dir, data)
		}, "the index of another place than before"},
		"another key": {func(t *testing.T, dir string, _ [2][]byte) {
			must(t, os.Remove(filepath.Join(dir, IndexName)), os.RemoveAll(filepath.Join(dir, Releases)))
			_, err := publish(t, openFolder(t, dir), baked(t, "9.0.0", "x"), Order{Channels: []string{Stable}, Sealing: newSealing(t)})
			must(t, err)
		}, "index.json is signed with key"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, s, indexes := signedPlace(t)
			stolen = s.By
			g := reader(t, s)
			if _, err := find(t, dir, g, Want{}); err != nil {
				t.Fatal(err)
			}
			c.spoil(t, dir, indexes)
			for _, w := range []Want{{}, {Version: "1.0.0"}} {
				if _, err := find(t, dir, g, w); !errors.Is(err, release.ErrSignature) || !strings.Contains(err.Error(), c.words) {
					t.Errorf("%+v: %v\nwant: %s", w, err, c.words)
				}
			}
		})
	}
}

// stolen are the keys of the place that a test is about, for another place of the same owner.
var stolen release.Signers

func TestUnsignedIndex(t *testing.T) {
	dir, s := t.TempDir(), newSealing(t)
	_, err := publish(t, openFolder(t, dir), baked(t, "1.0.0", "x"), Order{Channels: []string{Stable}})
	must(t, err)
	g := reader(t, s)
	if _, err := find(t, dir, g, Want{}); !errors.Is(err, release.ErrSignature) || !strings.Contains(err.Error(), "--unsigned-index") {
		t.Error(err)
	}
	if _, err := find(t, dir, g, Want{Version: "1.0.0"}); err != nil {
		t.Error(err)
	}
	g.Unsigned = true
	if _, err := find(t, dir, g, Want{}); err != nil {
		t.Error(err)
	}
	f := openFolder(t, dir)
	if _, err := f.Apply(context.Background(), Order{Version: "1.0.0", Channels: []string{"candidate"}, Sealing: s}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "publish sign") {
		t.Errorf("what nobody signed was signed in passing: %v", err)
	}
	adopt := *s
	adopt.Adopt = true
	_, err = f.Apply(context.Background(), Order{Sealing: &adopt})
	must(t, err)
	g.Unsigned = false
	if _, err := find(t, dir, g, Want{}); err != nil {
		t.Error(err)
	}
}

func TestExpiry(t *testing.T) {
	dir, s, _ := signedPlace(t)
	s.Lasts = time.Hour
	f := openFolder(t, dir)
	_, err := f.Apply(context.Background(), Order{Sealing: s})
	must(t, err)
	g := reader(t, s)
	g.Now = noon.Add(time.Hour - time.Second)
	if _, err := find(t, dir, g, Want{}); err != nil {
		t.Error(err)
	}
	g.Now = noon.Add(time.Hour)
	if _, err := find(t, dir, g, Want{}); !errors.Is(err, release.ErrSignature) || !strings.Contains(err.Error(), "has expired at 2026-01-01T13:00:00Z") {
		t.Error(err)
	}
	s.Now = g.Now
	_, err = f.Apply(context.Background(), Order{Sealing: s})
	must(t, err)
	if _, err := find(t, dir, g, Want{}); err != nil {
		t.Error(err)
	}
}

// TestWhatAPublisherRefuses: nobody signs what an attacker has put there, and nobody takes a signature away.
func TestWhatAPublisherRefuses(t *testing.T) {
	dir, s, indexes := signedPlace(t)
	f := openFolder(t, dir)
	f.Guard = &Guard{Memory: &Memory{Dir: t.TempDir()}}
	if _, err := publish(t, f, baked(t, "1.2.0", "x"), Order{}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "--key") {
		t.Errorf("without a key: %v", err)
	}
	if _, err := publish(t, f, baked(t, "1.2.0", "x"), Order{Sealing: newSealing(t)}); !errors.Is(err, release.ErrSignature) {
		t.Errorf("with another key: %v", err)
	}
	putIndex(t, dir, bytes.Replace(indexes[1], []byte(`"stable": "1.1.0"`), []byte(`"stable": "1.0.0"`), 1))
	if _, err := publish(t, f, baked(t, "1.2.0", "x"), Order{Sealing: s}); !errors.Is(err, release.ErrSignature) {
		t.Errorf("a changed index: %v", err)
	}
	putIndex(t, dir, indexes[1])
	_, err := publish(t, f, baked(t, "1.2.0", "x"), Order{Sealing: s})
	must(t, err)
	putIndex(t, dir, indexes[0])
	if _, err := publish(t, f, baked(t, "1.3.0", "x"), Order{Sealing: s}); !errors.Is(err, release.ErrSignature) || !strings.Contains(err.Error(), "and 3 was seen before") {
		t.Errorf("an older index: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, Releases, "1.2.0")); err != nil {
		t.Errorf("an older index took a release away: %v", err)
	}
}

// TestTheKeyChanges: who has the new key and trusts the old one signs the next index.
func TestTheKeyChanges(t *testing.T) {
	dir, old, _ := signedPlace(t)
	s := newSealing(t)
	s.Trust = old.By.Trust("old.pub")
	_, err := openFolder(t, dir).Apply(context.Background(), Order{Sealing: s})
	must(t, err)
	g := reader(t, s)
	if _, err := find(t, dir, g, Want{}); err != nil {
		t.Error(err)
	}
}

func TestMemoryThatCannotBe(t *testing.T) {
	dir, s, _ := signedPlace(t)
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	var said error
	g := &Guard{Trust: s.By.Trust("k"), Now: noon, Memory: &Memory{Dir: t.TempDir()}}
	must(t, os.WriteFile(g.Memory.file(openFolder(t, dir).address()), []byte("{"), 0o600))
	if _, err := find(t, dir, g, Want{}); err == nil || !strings.Contains(err.Error(), "remove it to begin anew") {
		t.Error(err)
	}
	if os.Geteuid() == 0 {
		g.Memory = &Memory{Dir: "/proc/none", Warn: func(err error) { said = err }}
		if _, err := find(t, dir, g, Want{}); err != nil || said == nil {
			t.Errorf("%v, said %v", err, said)
		}
	}
}

// FuzzSealedIndex: an index that is vouched for has the channels that were signed.
func FuzzSealedIndex(f *testing.F) {
	name := filepath.Join(f.TempDir(), "k")
	if _, err := release.Generate(name, "", rand.Reader); err != nil {
		f.Fatal(err)
	}
	key, err := release.ReadSigningKey(name+release.ExtSecret, nil)
	if err != nil {
		f.Fatal(err)
	}
	s := &Sealing{By: release.Signers{Minisign: &key}, Now: noon, Entropy: rand.Reader}
	x := NewIndex()
	x.Releases = append(x.Releases, Release{Version: "1.0.0", Digest: strings.Repeat("a", 64)})
	x.Channels[Stable] = "1.0.0"
	if err := s.Seal(x); err != nil {
		f.Fatal(err)
	}
	trust := s.By.Trust("k")
	f.Add(x.Encode())
	f.Add([]byte(`{"apiVersion":"slipway.dev/v1alpha1","kind":"ReleaseIndex","channels":{},"releases":[],"seal":{"place":"00000000000000000000000000000000","counter":1}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := DecodeIndex(data)
		if err != nil || got.Seal == nil {
			return
		}
		if _, err := got.Verify(trust); err == nil && !bytes.Equal(got.text(), x.text()) {
			t.Fatalf("vouched for %s", got.Encode())
		}
	})
}
