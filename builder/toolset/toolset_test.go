package toolset

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/layer"
	"github.com/slipway-os/slipway/builder/rootfs"
)

// regular is a file of this machine as an entry of a package.
func regular(t *testing.T, from, to string) rootfs.Entry {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Skip("not a Debian machine of a known architecture: ", err)
	}
	return rootfs.Entry{Path: to, Type: rootfs.Regular, Mode: 0o755, Content: rootfs.Inline(data), Origin: "package of " + from}
}

// catLayers are packages with cat and what it needs, made of this machine's own.
func catLayers(t *testing.T) []*layer.Layer {
	t.Helper()
	p, err := host()
	if err != nil {
		t.Skip(err)
	}
	program, err := elf.Open("/usr/bin/cat")
	if err != nil {
		t.Skip(err)
	}
	defer program.Close()
	needed, err := program.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	libraries := &layer.Layer{About: layer.About{Package: "libc6"}}
	for _, name := range append(needed, p.loader) {
		// The version is part of the file's name, and the name that programs use is a link, as in most packages.
		at := filepath.Join(p.libraries, name)
		libraries.Entries = append(libraries.Entries, regular(t, "/"+at, at+".1.2.3"), rootfs.Entry{Path: at, Type: rootfs.Symlink, Link: name + ".1.2.3"})
	}
	return []*layer.Layer{libraries, {About: layer.About{Package: "coreutils"}, Entries: []rootfs.Entry{
		regular(t, "/usr/bin/cat", "bin/cat"), // as a package from before the merge of / and /usr
		{Path: "usr/share/doc/coreutils/copyright", Type: rootfs.Regular, Content: rootfs.Inline([]byte("not needed"))},
	}}}
}

// TestProgramsRunWithTheirOwnLibraries: nothing that a program maps is this machine's.
func TestProgramsRunWithTheirOwnLibraries(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	set, err := Install(dir, catLayers(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	cat, err := set.Command("cat")
	if err != nil {
		t.Fatal(err)
	}
	out, err := cat(context.Background(), "/proc/self/maps").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	own := 0
	for line := range strings.Lines(string(out)) {
		_, file, ok := strings.Cut(strings.TrimSpace(line), "/")
		switch {
		case !ok:
		case strings.HasPrefix("/"+file, dir):
			own++
		case strings.HasSuffix(file, ".so") || strings.Contains(file, ".so."):
			t.Errorf("it maps this machine's /%s", file)
		}
	}
	if own < 3 {
		t.Errorf("program, loader and library are not all the set's:\n%s", out)
	}
	if _, err := set.Command("dog"); err == nil || !strings.Contains(err.Error(), "cannot run dog of the locked packages") {
		t.Errorf("a program that is in no package: %v", err)
	}
}

func TestASetIsMadeOnceAndAppearsWhole(t *testing.T) {
	dir, layers := t.TempDir(), catLayers(t)
	first, err := Install(dir, layers, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Install(dir, layers, nil); err != nil || again.dir != first.dir {
		t.Errorf("the same packages made %v, %v", again, err)
	}
	layers[1].Entries[0].Content = rootfs.Inline([]byte("another cat"))
	other, err := Install(dir, layers, nil)
	if err != nil || other.dir == first.dir {
		t.Errorf("another package made %v, %v", other, err)
	}
	layers[1].Entries[0].Content.SHA256 = sha256.Sum256([]byte("what the lock says"))
	if _, err := Install(dir, layers, nil); err == nil {
		t.Error("damaged content was installed")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("the folder holds %v (%v)", left, err)
	}
}

// TestDamagedProgramsAreInstalledAgain: a program of the cache decides about the bytes of every image.
func TestDamagedProgramsAreInstalledAgain(t *testing.T) {
	for name, damage := range map[string]func(cat string) error{
		"flipped": func(cat string) error {
			data, err := os.ReadFile(cat)
			if err != nil {
				return err
			}
			data[len(data)/2] ^= 1
			return os.WriteFile(cat, data, 0o755)
		},
		"cut":              func(cat string) error { return os.Truncate(cat, 100) },
		"missing":          os.Remove,
		"not executable":   func(cat string) error { return os.Chmod(cat, 0o600) },
		"a folder instead": func(cat string) error { return errors.Join(os.Remove(cat), os.Mkdir(cat, 0o755)) },
		"a link instead":   func(cat string) error { return errors.Join(os.Remove(cat), os.Symlink("/bin/sh", cat)) },
		"no folder": func(cat string) error {
			dir := filepath.Dir(filepath.Dir(filepath.Dir(cat)))
			return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o644))
		},
	} {
		dir, layers := t.TempDir(), catLayers(t)
		var warnings []string
		install := func() *Set {
			t.Helper()
			set, err := Install(dir, layers, func(text string) { warnings = append(warnings, text) })
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return set
		}
		install()
		set := install()
		if len(warnings) > 0 {
			t.Fatalf("nothing was damaged: %q", warnings)
		}
		if err := damage(filepath.Join(set.dir, "usr/bin/cat")); err != nil {
			t.Fatal(err)
		}
		set = install()
		if len(warnings) != 1 || !strings.HasPrefix(warnings[0], "programs in the cache are damaged (") {
			t.Errorf("%s: warnings %q", name, warnings)
		}
		cat, err := set.Command("cat")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := cat(context.Background(), "/etc/hostname").CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("%s: the folder holds %v (%v)", name, left, err)
		}
	}
}
