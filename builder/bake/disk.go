package bake

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/rootfs"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
	"github.com/slipway-os/slipway/images/manifest"
)

// What a bake can make.
const (
	FormatNetboot = "netboot" // UKI, root image, kernel, initrd and command line: always made
	FormatDisk    = "disk"    // disk image for devices with sectors of 512 bytes: USB sticks and nearly all disks
	FormatDisk4K  = "disk-4k" // disk image for devices with sectors of 4096 bytes
	FormatISO     = "iso"     // disk image with one slot that boots from CD-ROM, which is virtual media, too
	// Disk images are also made packed (disk.zst, disk-4k.zst) and for QEMU (disk.qcow2, disk-4k.qcow2).
)

// Formats are all of them.
func Formats() []string {
	list := []string{FormatNetboot}
	for _, d := range diskFormats() {
		list = append(list, d.name, d.name+manifest.FormZstd, d.name+manifest.FormQCOW2)
	}
	return list
}

// CheckFormats names the first that is none.
func CheckFormats(names []string) error {
	for _, n := range names {
		if !slices.Contains(Formats(), n) {
			return fmt.Errorf("format %q is not known (%s)", n, strings.Join(Formats(), ", "))
		}
	}
	return nil
}

// diskFormat is a format that is a disk image.
type diskFormat struct {
	name, kind, ext string
	sector          int
	encode          func(*baker, *os.File, diskFormat) error
}

func diskFormats() []diskFormat {
	return []diskFormat{
		{FormatDisk, manifest.KindDisk, bootspec.ExtDisk, 512, (*baker).encodeDisk},
		{FormatDisk4K, manifest.KindDisk4K, bootspec.ExtDisk4K, 4096, (*baker).encodeDisk},
		{FormatISO, manifest.KindISO, bootspec.ExtISO, 512, (*baker).encodeISO},
	}
}

// forms are the forms in which an image is wanted; the image as it goes to the device is "".
func (b *baker) forms(d diskFormat) []string {
	var list []string
	for _, form := range []string{"", manifest.FormZstd, manifest.FormQCOW2} {
		if slices.Contains(b.Formats, d.name+form) {
			list = append(list, form)
		}
	}
	return list
}

func (b *baker) wantedDisks() []diskFormat {
	return slices.DeleteFunc(diskFormats(), func(d diskFormat) bool { return len(b.forms(d)) == 0 })
}

// file is the name of the file of an image's form.
func (b *baker) diskFile(d diskFormat, form string) string {
	if form == manifest.FormQCOW2 {
		return b.base() + strings.TrimSuffix(d.ext, ".raw") + bootspec.ExtQCOW2
	}
	return b.base() + d.ext + form // extensions and forms are the same words
}

// writeDisks writes the disk images that are wanted. Those of an earlier bake go: they would lie beside a manifest that
// speaks of another image.
func (b *baker) writeDisks() error {
	for _, d := range diskFormats() {
		for _, form := range []string{"", manifest.FormBlockMap, manifest.FormZstd, manifest.FormQCOW2} {
			b.out.obsolete = append(b.out.obsolete, b.diskFile(d, form))
		}
	}
	for _, d := range b.wantedDisks() {
		if err := b.writeDisk(d); err != nil {
			return err
		}
	}
	return nil
}

// writeDisk writes an image in all its forms.
func (b *baker) writeDisk(d diskFormat) error {
	b.step("write " + d.name + " image")
	forms, name := b.forms(d), b.diskFile(d, "")
	encode := func(f *os.File) error { return d.encode(b, f, d) }
	write := b.out.image
	if forms[0] != "" {
		write = b.out.scratch // only the others are wanted
	}
	if err := write(d.kind, name, encode); err != nil {
		return err
	}
	if err := b.packDisk(d, name, forms); err != nil {
		return err
	}
	if forms[0] != "" {
		return b.out.drop(name)
	}
	return nil
}
func (b *baker) encodeDisk(f *os.File, d diskFormat) error { return disk.Encode(f, b.diskLayout(d)) }

// diskLayout has this image in slot A; B is for the next version.
func (b *baker) diskLayout(d diskFormat) disk.Layout {
	seed := fmt.Sprintf("%s %s %d", b.planDigest(), b.root.Hash, d.sector)
	if d.name == FormatISO {
		seed += " iso" // a stick and a CD-ROM in one machine are two disks
	}
	return disk.Layout{
		Arch: b.Plan.Arch, SectorSize: d.sector, Sizes: b.Disk, Loader: b.loader, Epoch: b.Plan.Epoch, Seed: seed,
		Slots: []disk.Slot{{
			Image: b.base(), RootHash: b.root.Hash,
			UKI:  diskContent(b.ctx, rootfs.Inline(b.uki)),
			Root: diskContent(b.ctx, b.rootFile), Data: b.root.Data,
		}},
	}
}

func diskContent(ctx context.Context, c rootfs.Content) disk.Content {
	return disk.Content{Size: c.Size, CopyTo: func(w io.Writer) error { return c.CopyTo(contextWriter{ctx, w}) }}
}

// image is artifact for a file that is not written from its start to its end.
func (o *output) image(kind, name string, write func(*os.File) error) error {
	o.pending = append(o.pending, name)
	known, err := o.fillImage(hidden(name), write)
	if err != nil {
		return fmt.Errorf("cannot write %s in %s: %w", name, o.dir, err)
	}
	o.artifacts = append(o.artifacts, manifest.Artifact{Name: name, Kind: kind, Size: known.Size, SHA256: known.SHA256})
	return nil
}

// scratch is image for a file that others are made from, and that drop takes away.
func (o *output) scratch(_, name string, write func(*os.File) error) error {
	o.pending = append(o.pending, name)
	f, err := o.open(hidden(name))
	if err != nil {
		return fmt.Errorf("cannot write %s in %s: %w", name, o.dir, err)
	}
	return errors.Join(write(f), f.Close())
}

func (o *output) drop(name string) error {
	o.pending = slices.DeleteFunc(o.pending, func(n string) bool { return n == name })
	return o.root.Remove(hidden(name))
}

func (o *output) fillImage(name string, write func(*os.File) error) (file, error) {
	f, err := o.open(name)
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	if err := write(f); err != nil {
		return file{}, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return file{}, err
	}
	h := sha256.New()
	size, err := io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 1<<20))
	if err != nil {
		return file{}, err
	}
	return file{size, fmt.Sprintf("%x", h.Sum(nil))}, finish(f)
}
