package bake

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/slipway-os/slipway/builder/uki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// output is the folder of artifacts. Files are written under hidden names beside their places and made durable; commit
// puts them all there. Until then, what an earlier bake left is whole.
type output struct {
	dir       string
	root      *os.Root
	pending   []string
	obsolete  []string // what earlier bakes may have left and the manifest will not list
	artifacts []manifest.Artifact
}

func newOutput(dir string) (*output, error) {
	dir, err := makeFolder("output folder", dir)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open output folder: %w", err)
	}
	return &output{dir: dir, root: root}, nil
}

// close takes away what was not committed.
func (o *output) close() {
	for _, name := range o.pending {
		o.root.Remove(hidden(name))
	}
	o.root.Close()
}

func hidden(name string) string { return "." + name + ".new" }

// write writes a file under its hidden name, and tells its size and digest.
func (o *output) write(name string, write func(io.Writer) error) (file, error) {
	o.pending = append(o.pending, name)
	known, err := o.fill(hidden(name), write)
	if err != nil {
		return file{}, fmt.Errorf("cannot write %s in %s: %w", name, o.dir, err)
	}
	return known, nil
}

func (o *output) fill(name string, write func(io.Writer) error) (file, error) {
	f, err := o.open(name)
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	h := sha256.New()
	counted := &counter{w: io.MultiWriter(f, h)}
	if err := write(counted); err != nil {
		return file{}, err
	}
	return file{counted.n, fmt.Sprintf("%x", h.Sum(nil))}, finish(f)
}

func (o *output) open(name string) (*os.File, error) {
	return o.root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o644)
}

// finish makes a file durable. Its mode is said again: the process's umask must not show in what is published.
func finish(f *os.File) error { return errors.Join(f.Chmod(0o644), f.Sync(), f.Close()) }

// commit puts all files in their places, in the order they were written. An older manifest goes first: it would speak
// of files that are being replaced.
func (o *output) commit(manifest string) error {
	if err := o.root.Remove(manifest); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot replace the old manifest: %w", err)
	}
	for _, name := range o.obsolete {
		if err := o.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove an earlier bake's %s: %w", name, err)
		}
	}
	for len(o.pending) > 0 {
		if err := o.root.Rename(hidden(o.pending[0]), o.pending[0]); err != nil {
			return fmt.Errorf("cannot finish %s in %s: %w", o.pending[0], o.dir, err)
		}
		o.pending = o.pending[1:]
	}
	folder, err := o.root.Open(".")
	if err != nil {
		return fmt.Errorf("cannot finish output folder: %w", err)
	}
	defer folder.Close()
	return folder.Sync()
}

// artifact is write for a file that the manifest lists.
func (o *output) artifact(kind, name string, write func(io.Writer) error) error {
	known, err := o.write(name, write)
	if err == nil {
		o.artifacts = append(o.artifacts, manifest.Artifact{Name: name, Kind: kind, Size: known.Size, SHA256: known.SHA256})
	}
	return err
}

func bytesTo(data []byte) func(io.Writer) error {
	return func(w io.Writer) error { _, err := w.Write(data); return err }
}

// writeArtifacts writes the kernel and what goes with it. The root image is there already.
func (b *baker) writeArtifacts() error {
	b.step("write artifacts")
	base := b.base()
	var initrd bytes.Buffer
	if err := b.initrd.CopyTo(&initrd); err != nil {
		return fmt.Errorf("cannot read initrd from the cache: %w", err)
	}
	release, err := b.tree.ReadFile("usr/lib/os-release")
	if err != nil {
		return err
	}
	b.uki, err = uki.Build(b.stub, uki.Image{OSRelease: release, Cmdline: b.cmdline(), Uname: b.Plan.KernelRelease, Kernel: b.kernel, Initrd: initrd.Bytes()})
	if err != nil {
		return err
	}
	if b.ukiDigest, err = bootspec.SealUKI(b.uki); err != nil {
		return err
	}
	if b.uki, err = b.signed(b.uki, "unified kernel image"); err != nil {
		return err
	}
	for _, a := range []struct {
		kind, ext string
		write     func(io.Writer) error
	}{
		{manifest.KindUKI, bootspec.ExtUKI, bytesTo(b.uki)},
		{manifest.KindKernel, bootspec.ExtKernel, bytesTo(b.kernel)},
		{manifest.KindInitrd, bootspec.ExtInitrd, bytesTo(initrd.Bytes())},
		{manifest.KindCmdline, bootspec.ExtCmdline, bytesTo([]byte(b.cmdline() + "\n"))},
	} {
		if err := b.out.artifact(a.kind, base+a.ext, a.write); err != nil {
			return err
		}
	}
	if b.undionly == nil {
		b.out.obsolete = append(b.out.obsolete, base+bootspec.ExtBIOS)
		return nil
	}
	return b.out.artifact(manifest.KindBIOS, base+bootspec.ExtBIOS, bytesTo(b.undionly))
}
