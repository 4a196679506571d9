package bake

import (
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

// output is the folder of artifacts. A file is written beside its place under a hidden name, made durable and renamed.
type output struct {
	dir       string
	root      *os.Root
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

func (o *output) close() { o.root.Close() }

// place writes a file whole or not at all, and tells its size and digest.
func (o *output) place(name string, write func(io.Writer) error) (known file, err error) {
	tmp := "." + name + ".new"
	defer func() {
		if err != nil {
			o.root.Remove(tmp)
			err = fmt.Errorf("cannot write %s in %s: %w", name, o.dir, err)
		}
	}()
	f, err := o.root.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return known, err
	}
	defer f.Close()
	h := sha256.New()
	counted := &counter{w: io.MultiWriter(f, h)}
	if err := write(counted); err != nil {
		return known, err
	}
	// The mode is said again: the process's umask must not show in what is published.
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return known, err
	}
	return file{counted.n, fmt.Sprintf("%x", h.Sum(nil))}, o.root.Rename(tmp, name)
}

func (o *output) write(name string, data []byte) error {
	_, err := o.place(name, bytesTo(data))
	return err
}

// artifact is write for a file that the manifest lists.
func (o *output) artifact(kind, name string, write func(io.Writer) error) error {
	known, err := o.place(name, write)
	if err == nil {
		o.artifacts = append(o.artifacts, manifest.Artifact{Name: name, Kind: kind, Size: known.Size, SHA256: known.SHA256})
	}
	return err
}

func bytesTo(data []byte) func(io.Writer) error {
	return func(w io.Writer) error { _, err := w.Write(data); return err }
}

// writeArtifacts puts everything but the manifest into the output folder. An older manifest goes first: it would speak
// of files that are being replaced.
func (b *baker) writeArtifacts() error {
	b.step("write artifacts")
	base := b.base()
	if err := b.out.root.Remove(base + bootspec.ExtManifest); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot replace the old manifest: %w", err)
	}
	initrd, err := os.ReadFile(b.initrd)
	if err != nil {
		return err
	}
	release, err := b.tree.ReadFile("usr/lib/os-release")
	if err != nil {
		return err
	}
	whole, err := uki.Build(b.stub, uki.Image{OSRelease: release, Cmdline: b.cmdline(), Uname: b.Plan.KernelRelease, Kernel: b.kernel, Initrd: initrd})
	if err != nil {
		return err
	}
	for _, a := range []struct {
		kind, ext string
		write     func(io.Writer) error
	}{
		{manifest.KindRoot, bootspec.ExtRoot, b.copyRoot},
		{manifest.KindUKI, bootspec.ExtUKI, bytesTo(whole)},
		{manifest.KindKernel, bootspec.ExtKernel, bytesTo(b.kernel)},
		{manifest.KindInitrd, bootspec.ExtInitrd, bytesTo(initrd)},
		{manifest.KindCmdline, bootspec.ExtCmdline, bytesTo([]byte(b.cmdline() + "\n"))},
	} {
		if err := b.out.artifact(a.kind, base+a.ext, a.write); err != nil {
			return err
		}
	}
	return nil
}

// copyRoot copies the root image from the cache, checked: the command line vouches for its digest.
func (b *baker) copyRoot(w io.Writer) error {
	f, err := os.Open(b.root.path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(w, io.TeeReader(f, h)); err != nil {
		return err
	}
	if fmt.Sprintf("%x", h.Sum(nil)) != b.root.SHA256 {
		b.stages.drop(b.root.path)
		return errors.New("the root image in the cache is damaged; it was dropped, bake again")
	}
	return nil
}
