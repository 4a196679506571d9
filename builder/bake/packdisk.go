package bake

import (
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"

	"github.com/slipway-os/slipway/builder/blockmap"
	"github.com/slipway-os/slipway/builder/qcow2"
	"github.com/slipway-os/slipway/images/manifest"
)

// packDisk makes the other forms of an image that was written under its hidden name.
func (b *baker) packDisk(d diskFormat, name string, forms []string) error {
	image, err := b.out.root.Open(hidden(name))
	if err != nil {
		return fmt.Errorf("cannot pack %s: %w", name, err)
	}
	defer image.Close()
	info, err := image.Stat()
	if err != nil {
		return fmt.Errorf("cannot pack %s: %w", name, err)
	}
	m, err := blockmap.Make(image, info.Size())
	if err != nil {
		return err
	}
	if forms[0] == "" || forms[0] == manifest.FormZstd { // QEMU has no use for it
		if err := b.out.artifact(d.kind+manifest.FormBlockMap, b.diskFile(d, manifest.FormBlockMap), bytesTo(m.Encode())); err != nil {
			return err
		}
	}
	for _, form := range forms {
		pack := map[string]func(io.Writer) error{
			manifest.FormZstd:  func(w io.Writer) error { return compressDisk(contextWriter{b.ctx, w}, image, info.Size()) },
			manifest.FormQCOW2: func(w io.Writer) error { return qcow2.Write(contextWriter{b.ctx, w}, image, info.Size(), m.Holds) },
		}[form]
		if pack == nil {
			continue
		}
		b.step("write " + d.name + form + " image")
		if err := b.out.artifact(d.kind+form, b.diskFile(d, form), pack); err != nil {
			return err
		}
	}
	return nil
}

// compressDisk packs an image into one zstd frame that says its size. Most of what it holds is packed already, so that a
// higher level would only take time.
func compressDisk(w io.Writer, image *os.File, size int64) error {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return err
	}
	z.ResetContentSize(w, size)
	if _, err := io.CopyBuffer(z, struct{ io.Reader }{io.NewSectionReader(image, 0, size)}, make([]byte, 1<<20)); err != nil {
		z.Close()
		return err
	}
	return z.Close()
}
