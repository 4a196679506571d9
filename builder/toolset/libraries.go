package toolset

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/layer"
	"github.com/slipway-os/slipway/builder/rootfs"
)

// InstallLibraries puts what a C compiler needs of layers (headers, objects, static libraries, pkg-config's files) into a
// folder below dir, laid out as in the packages, and gives that folder: a compiler's --sysroot. Its name is a digest of
// what it holds. One that is there is compared with that; a damaged one is made anew.
func InstallLibraries(dir string, layers []*layer.Layer) (string, error) {
	entries := development(layers)
	final := filepath.Join(dir, name(entries))
	if holds(final, entries) {
		return final, nil
	}
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.RemoveAll(final)); err != nil {
		return "", fmt.Errorf("cannot make folder of C libraries: %w", err)
	}
	beside, err := os.MkdirTemp(dir, ".set.")
	if err != nil {
		return "", fmt.Errorf("cannot make folder of C libraries: %w", err)
	}
	defer os.RemoveAll(beside)
	if err := fill(beside, entries); err != nil {
		return "", err
	}
	err = errors.Join(os.Chmod(beside, 0o755), os.Rename(beside, final))
	if err != nil && !holds(final, entries) { // else another bake was faster
		return "", fmt.Errorf("cannot install C libraries: %w", err)
	}
	return final, nil
}

// development are the entries that compiling and linking need, sorted by path.
func development(layers []*layer.Layer) []rootfs.Entry {
	var entries []rootfs.Entry
	for _, l := range layers {
		for _, e := range l.Entries {
			e.Path = strings.TrimPrefix(path.Clean(e.Path), "/")
			if !strings.HasPrefix(e.Path, "usr/") {
				e.Path = "usr/" + e.Path
			}
			if (e.Type == rootfs.Regular || e.Type == rootfs.Symlink) && forCompilers(e.Path) {
				entries = append(entries, e)
			}
		}
	}
	slices.SortStableFunc(entries, func(a, b rootfs.Entry) int { return strings.Compare(a.Path, b.Path) })
	return slices.CompactFunc(entries, func(a, b rootfs.Entry) bool { return a.Path == b.Path })
}

// forCompilers: the kernel's headers are in usr/lib/linux/uapi, and links in usr/include lead there.
func forCompilers(p string) bool {
	if strings.HasPrefix(p, "usr/include/") || strings.HasPrefix(p, "usr/lib/linux/uapi/") {
		return true
	}
	return strings.HasPrefix(p, "usr/lib/") && slices.Contains([]string{".a", ".o", ".pc"}, path.Ext(p))
}

// holds says whether a folder has all entries, whole.
func holds(dir string, entries []rootfs.Entry) bool {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false
	}
	defer root.Close()
	return !slices.ContainsFunc(entries, func(e rootfs.Entry) bool { return !same(root, e) })
}

func same(root *os.Root, e rootfs.Entry) bool {
	if e.Type == rootfs.Symlink {
		target, err := root.Readlink(e.Path)
		return err == nil && target == e.Link
	}
	f, err := root.Open(e.Path)
	if err != nil {
		return false
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return err == nil && [sha256.Size]byte(h.Sum(nil)) == e.Content.SHA256
}

// fill writes entries below a folder. Nothing is written through a link that leads out of it.
func fill(dir string, entries []rootfs.Entry) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot open folder of C libraries: %w", err)
	}
	defer root.Close()
	for _, e := range entries {
		if err := put(root, e); err != nil {
			return fmt.Errorf("cannot install %s of %s: %w", e.Path, e.Origin, err)
		}
	}
	return nil
}

func put(root *os.Root, e rootfs.Entry) error {
	if err := root.MkdirAll(path.Dir(e.Path), 0o755); err != nil {
		return err
	}
	if e.Type == rootfs.Symlink {
		return root.Symlink(e.Link, e.Path)
	}
	f, err := root.OpenFile(e.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("two packages have it: %w", err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := e.Content.CopyTo(f); err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
