// Package toolset gives a bake its own copy of the programs it runs, out of Debian packages that are locked like those of
// the image: the machine that bakes then decides nothing about the bytes, and needs no such program.
//
// Words: a set is a folder with the files of some packages, named by what is in it. Its programs run with the set's own
// dynamic loader and libraries. It does not choose packages (builder/plan), fetch (builder/archive) or decompress them
// (builder/layer).
package toolset

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/layer"
	"github.com/slipway-os/slipway/builder/rootfs"
)

// Set is a folder of programs and of the libraries they need.
type Set struct{ dir string }

// platform is where Debian has the libraries of an architecture, and the dynamic loader among them.
type platform struct{ libraries, loader string }

func host() (platform, error) {
	switch runtime.GOARCH {
	case "amd64":
		return platform{"usr/lib/x86_64-linux-gnu", "ld-linux-x86-64.so.2"}, nil
	case "arm64":
		return platform{"usr/lib/aarch64-linux-gnu", "ld-linux-aarch64.so.1"}, nil
	}
	return platform{}, fmt.Errorf("cannot run programs of packages on a machine of architecture %s (amd64, arm64)", runtime.GOARCH)
}

// Install puts the programs and libraries of layers into a folder below dir, unless they are there. The folder appears when
// it is whole. One that is there is compared with the layers, and made again when it is damaged: then warn is told.
func Install(dir string, layers []*layer.Layer, warn func(string)) (*Set, error) {
	p, err := host()
	if err != nil {
		return nil, err
	}
	entries := wanted(layers, p)
	s := &Set{filepath.Join(dir, name(entries))}
	if _, err := os.Lstat(s.dir); err == nil {
		why := check(s.dir, entries)
		if why == nil {
			return s, nil
		}
		warn(fmt.Sprintf("programs in the cache are damaged (%v): they are installed again", why))
		if err := discard(s.dir); err != nil {
			return nil, fmt.Errorf("cannot replace damaged programs: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make folder of programs: %w", err)
	}
	beside, err := os.MkdirTemp(dir, ".set.")
	if err != nil {
		return nil, fmt.Errorf("cannot make folder of programs: %w", err)
	}
	defer os.RemoveAll(beside)
	for _, e := range entries {
		if err := write(beside, e); err != nil {
			return nil, fmt.Errorf("cannot install %s of %s: %w", e.Path, e.Origin, err)
		}
	}
	err = errors.Join(os.Chmod(beside, 0o755), os.Rename(beside, s.dir))
	if _, there := os.Stat(s.dir); err != nil && there != nil { // else another bake was faster
		return nil, fmt.Errorf("cannot install programs: %w", err)
	}
	return s, nil
}

// wanted are the files and links of layers that running their programs needs, below usr/, sorted by path.
func wanted(layers []*layer.Layer, p platform) []rootfs.Entry {
	var entries []rootfs.Entry
	for _, l := range layers {
		for _, e := range l.Entries {
			e.Path = strings.TrimPrefix(path.Clean(e.Path), "/")
			if !strings.HasPrefix(e.Path, "usr/") {
				e.Path = "usr/" + e.Path // packages from before the merge of / and /usr
			}
			folder := path.Dir(e.Path)
			program := folder == "usr/bin" || folder == "usr/sbin"
			if (e.Type == rootfs.Regular || e.Type == rootfs.Symlink) && (program || folder == p.libraries) {
				entries = append(entries, e)
			}
		}
	}
	slices.SortStableFunc(entries, func(a, b rootfs.Entry) int { return strings.Compare(a.Path, b.Path) })
	return slices.CompactFunc(entries, func(a, b rootfs.Entry) bool { return a.Path == b.Path })
}

// check compares a folder with what was put there.
func check(dir string, entries []rootfs.Entry) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, e := range entries {
		if e.Type == rootfs.Symlink {
			if link, err := root.Readlink(e.Path); err != nil || link != path.Base(e.Link) {
				return fmt.Errorf("%s is no link to %s", e.Path, path.Base(e.Link))
			}
			continue
		}
		info, err := root.Lstat(e.Path)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Mode().Perm()&0o500 != 0o500 {
			return fmt.Errorf("%s can't be run (%s)", e.Path, info.Mode())
		}
		have := e.Content
		have.Open = func() (io.ReadCloser, error) { return root.Open(e.Path) }
		if err := have.CopyTo(io.Discard); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	return nil
}

// discard takes a folder away at once, although another bake may run programs of it.
func discard(dir string) error {
	aside, err := os.MkdirTemp(filepath.Dir(dir), ".set.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(aside)
	return os.Rename(dir, filepath.Join(aside, "damaged"))
}

// name is a digest of what a set holds.
func name(entries []rootfs.Entry) string {
	h := sha256.New()
	for _, e := range entries {
		fmt.Fprintf(h, "%q %q %x\n", e.Path, e.Link, e.Content.SHA256)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:16])
}

func write(dir string, e rootfs.Entry) error {
	target := filepath.Join(dir, filepath.FromSlash(e.Path))
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if e.Type == rootfs.Symlink {
		return os.Symlink(path.Base(e.Link), target) // libraries point beside themselves
	}
	f, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := e.Content.CopyTo(f); err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Command runs a program of the set.
func (s *Set) Command(program string) (func(ctx context.Context, args ...string) *exec.Cmd, error) {
	p, err := host()
	if err != nil {
		return nil, err
	}
	libraries := filepath.Join(s.dir, p.libraries)
	loader, binary := filepath.Join(libraries, p.loader), filepath.Join(s.dir, "usr/bin", program)
	for _, file := range []string{loader, binary} {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("cannot run %s of the locked packages: %w", program, err)
		}
	}
	first := []string{"--inhibit-cache", "--library-path", libraries, binary}
	return func(ctx context.Context, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, loader, slices.Concat(first, args)...)
	}, nil
}
