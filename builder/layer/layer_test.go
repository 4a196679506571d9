package layer

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/rootfs"
)

func sample() []byte {
	return fixture.Deb("Package: demo\nVersion: 1.2-3\nReplaces: old (<< 2)\n",
		fixture.File{Path: "usr/bin/"},
		fixture.File{Path: "usr/bin/ping", Mode: 0o4755, Content: "ELF ping", Xattrs: map[string]string{"security.capability": "caps"}},
		fixture.File{Path: "usr/bin/ping6", Hard: "usr/bin/ping"},
		fixture.File{Path: "etc/shadow", Mode: 0o640, GID: 42, Content: "root"},
		fixture.File{Path: "lib", Link: "usr/lib"},
	)
}

func store(t *testing.T, deb []byte) (*Store, string, func() (string, error)) {
	t.Helper()
	s, err := NewStore(filepath.Join(t.TempDir(), "layers"), nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "demo.deb")
	if err := os.WriteFile(path, deb, 0o600); err != nil {
		t.Fatal(err)
	}
	return s, fmt.Sprintf("%x", sha256.Sum256(deb)), func() (string, error) { return path, nil }
}

func dump(t *testing.T, l *Layer) string {
	t.Helper()
	tree := rootfs.New()
	for _, e := range l.Entries {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
		if e.Type == rootfs.Regular {
			if _, err := e.Content.Bytes(); err != nil {
				t.Fatal(err)
			}
		}
	}
	return tree.Dump()
}

const want = `etc: 0755 0:0 directory
etc/shadow: 0640 0:42 4813494d137e
lib: 0777 0:0 -> usr/lib
usr: 0755 0:0 directory
usr/bin: 0755 0:0 directory
usr/bin/ping: 4755 0:0 c948b695ba3b security.capability=63617073
usr/bin/ping6: 4755 0:0 c948b695ba3b = usr/bin/ping security.capability=63617073
`

func TestOpenTwice(t *testing.T) {
	s, digest, path := store(t, sample())
	for _, path := range []func() (string, error){path, func() (string, error) { return "", errors.New("asked for the .deb again") }} {
		l, err := s.Open(digest, path)
		if err != nil {
			t.Fatal(err)
		}
		if got := dump(t, l); got != want {
			t.Errorf("got:\n%swant:\n%s", got, want)
		}
		if l.Package != "demo" || l.Version != "1.2-3" || l.Replaces != "old (<< 2)" {
			t.Errorf("control data: %+v", l)
		}
	}
}

func TestWrongDigest(t *testing.T) {
	s, _, path := store(t, sample())
	wrong := strings.Repeat("0", 64)
	if _, err := s.Open(wrong, path); err == nil || !strings.Contains(err.Error(), wrong) || !strings.Contains(err.Error(), "demo.deb") {
		t.Errorf("got %v", err)
	}
}

func TestDamagedCacheIsMadeAnew(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"cut":                   func(p string) error { return os.Truncate(p, 3) },
		"removed":               os.Remove,
		"a folder in its place": func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o755)) },
		"a folder in the record's place": func(p string) error {
			p = strings.TrimSuffix(p, ".data") + ".json"
			return errors.Join(os.Remove(p), os.Mkdir(p, 0o755))
		},
		"a mode in the record": func(p string) error {
			p = strings.TrimSuffix(p, ".data") + ".json"
			text, err := os.ReadFile(p)
			changed := bytes.Replace(text, []byte(`"Mode":416`), []byte(`"Mode":420`), 1) // etc/shadow for all
			if err == nil && bytes.Equal(text, changed) {
				err = errors.New("no such mode")
			}
			return errors.Join(err, os.WriteFile(p, changed, 0o600))
		},
		"junk": func(p string) error { return os.WriteFile(strings.TrimSuffix(p, ".data")+".json", []byte("{"), 0o600) },
	} {
		s, digest, path := store(t, sample())
		if _, err := s.Open(digest, path); err != nil {
			t.Fatal(err)
		}
		if err := damage(s.file(digest, ".data")); err != nil {
			t.Fatal(err)
		}
		var warnings []string
		s.warn = func(text string) { warnings = append(warnings, text) }
		l, err := s.Open(digest, path)
		if len(warnings) != 1 || !strings.Contains(warnings[0], "in the cache is damaged (") {
			t.Errorf("%s: warnings %q", name, warnings)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := dump(t, l); got != want {
			t.Errorf("%s:\n%s", name, got)
		}
	}
}

func TestDropForgets(t *testing.T) {
	s, digest, path := store(t, sample())
	if _, err := s.Open(digest, path); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Drop(digest, errors.New("test")), s.Drop(digest, errors.New("test"))); err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	if _, err := s.Open(digest, func() (string, error) { return "", gone }); !errors.Is(err, gone) {
		t.Errorf("after Drop: %v", err)
	}
}

func TestBrokenPackageLeavesNothing(t *testing.T) {
	whole := sample()
	cut := whole[:len(whole)-1500]
	s, digest, path := store(t, cut)
	if _, err := s.Open(digest, path); err == nil {
		t.Fatal("a cut .deb was taken")
	}
	left, err := os.ReadDir(s.dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestCheckFindsFlippedBit(t *testing.T) {
	s, digest, path := store(t, sample())
	if _, err := s.Open(digest, path); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(digest); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(s.file(digest, ".data"))
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(s.file(digest, ".data"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(digest); !errors.Is(err, rootfs.ErrDamaged) || !strings.Contains(err.Error(), "etc/shadow") {
		t.Errorf("got %v", err)
	}
}

// TestOnlyASelectionsModules: what a selection doesn't name isn't there, the rest is, decompressed and in its place; other selections
// have layers of their own.
func TestOnlyASelectionsModules(t *testing.T) {
	const folder = "usr/lib/modules/6.12/"
	deb := fixture.Deb("Package: linux-image\nVersion: 1\n",
		fixture.File{Path: folder + "kernel/a.ko.xz", Content: xzed(t, "module a")},
		fixture.File{Path: folder + "kernel/b.ko.xz", Content: xzed(t, "module b")},
		fixture.File{Path: folder + "kernel/net/"},
		fixture.File{Path: folder + "kernel/net/c.ko.xz", Content: xzed(t, "module c")},
		fixture.File{Path: folder + "kernel/net/d.ko", Content: "module d"},
		fixture.File{Path: folder + "modules.order", Content: "a b c d"},
	)
	all, digest, path := store(t, deb)
	open := func(s *Store) map[string]string {
		t.Helper()
		l, err := s.Open(digest, path)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, e := range l.Entries {
			if e.Type == rootfs.Regular {
				data, err := e.Content.Bytes()
				if err != nil {
					t.Fatal(err)
				}
				got[strings.TrimPrefix(e.Path, folder)] = string(data)
			}
		}
		return got
	}
	whole := map[string]string{"kernel/a.ko": "module a", "kernel/b.ko": "module b", "kernel/net/c.ko": "module c", "kernel/net/d.ko": "module d", "modules.order": "a b c d"}
	if got := open(all); !maps.Equal(got, whole) {
		t.Errorf("all: %q", got)
	}
	without := func(name string) *Store {
		return all.Only(Selection{Name: "no-" + name, Keep: func(p string) bool { return !strings.HasSuffix(p, "/"+name+".ko") }})
	}
	for range 2 { // the second time from the store
		for _, name := range []string{"b", "c", "d"} {
			want := maps.Clone(whole)
			maps.DeleteFunc(want, func(p, _ string) bool { return strings.HasSuffix(p, "/"+name+".ko") })
			if got := open(without(name)); !maps.Equal(got, want) {
				t.Errorf("without %s: %q", name, got)
			}
		}
	}
	if left, err := filepath.Glob(filepath.Join(all.dir, "*.data")); err != nil || len(left) != kept {
		t.Errorf("%d layers of a package stay, not %d (%v)", len(left), kept, err)
	}
}

func TestABrokenModuleIsNamed(t *testing.T) {
	broken := []byte(xzed(t, "module b"))
	broken[len(broken)/2] ^= 1
	s, digest, path := store(t, fixture.Deb("Package: linux-image\nVersion: 1\n",
		fixture.File{Path: "usr/lib/modules/6.12/a.ko.xz", Content: xzed(t, "module a")},
		fixture.File{Path: "usr/lib/modules/6.12/b.ko.xz", Content: string(broken)},
	))
	if _, err := s.Open(digest, path); err == nil || !strings.Contains(err.Error(), "b.ko.xz") {
		t.Errorf("got %v", err)
	}
}

func xzed(t *testing.T, text string) string {
	t.Helper()
	var b strings.Builder
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
