package rebuild

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/slipway-os/slipway/builder/qcow2"
	"github.com/slipway-os/slipway/builder/squashfs"
	"github.com/slipway-os/slipway/builder/uki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
	"github.com/slipway-os/slipway/images/manifest"
)

// stretch is bytes somewhere in a file.
type stretch struct {
	r        io.ReaderAt
	at, size int64
}

func (s stretch) section() *io.SectionReader { return io.NewSectionReader(s.r, s.at, s.size) }

// part is a stretch within this one.
func (s stretch) part(name string, at, size int64) (node, stretch) {
	in := stretch{s.section(), at, size}
	return in.node(name), in
}

func (s stretch) node(name string) node {
	return node{name: name, size: s.size, open: func() (io.ReadCloser, error) { return io.NopCloser(s.section()), nil }}
}

// open opens a file of a folder.
func (c *comparison) open(dir *os.Root, name string) (stretch, error) {
	f, err := dir.Open(name)
	if err != nil {
		return stretch{}, err
	}
	c.files = append(c.files, f)
	info, err := f.Stat()
	if err != nil {
		return stretch{}, err
	}
	if !info.Mode().IsRegular() {
		return stretch{}, fmt.Errorf("%s is no file", f.Name())
	}
	return stretch{f, 0, info.Size()}, nil
}

// typed is an artifact with what it is made of.
func (c *comparison) typed(s stretch, kind string) node {
	n := s.node("")
	image, form, _ := strings.Cut(kind, ".")
	switch {
	case kind == manifest.KindRoot:
		n.kind, n.split = "a squashfs file", func() ([]node, error) { return squashfsParts(s) }
	case kind == manifest.KindInitrd:
		n.kind, n.split = "an initrd", func() ([]node, error) { return initrdParts(s) }
	case kind == manifest.KindUKI:
		n.kind, n.split = "a unified kernel image", func() ([]node, error) { return ukiParts(s) }
	case image != manifest.KindDisk && image != manifest.KindDisk4K && image != manifest.KindISO:
	case form == "":
		n.kind, n.split = "a disk image", func() ([]node, error) { return diskParts(s) }
	case "."+form == manifest.FormZstd:
		n.kind, n.split = "a compressed image", func() ([]node, error) { return c.packedParts(s, image) }
	case "."+form == manifest.FormQCOW2:
		n.kind, n.split = "a qcow2 image", func() ([]node, error) { return c.qcow2Parts(s, image) }
	}
	return n
}

// squashfsParts are the files of a root image; its verity tree follows from them.
func squashfsParts(s stretch) ([]node, error) {
	list, err := squashfs.Entries(s.section())
	if err != nil {
		return nil, err
	}
	var parts []node
	for _, e := range list {
		n := node{name: e.Path, size: e.Size, facts: []fact{
			{"type", e.Type},
			{"mode", fmt.Sprintf("%04o", e.Mode)},
			{"owner", fmt.Sprintf("%d:%d", e.UID, e.GID)},
			{"time", strconv.FormatUint(uint64(e.Time), 10)},
			{"link", e.Link},
			{"device number", fmt.Sprintf("%#x", e.Device)},
			{"whether it has extended attributes", strconv.FormatBool(e.Xattrs)},
		}}
		if e.Type == "file" {
			n.open = e.Open
		}
		parts = append(parts, n)
	}
	return parts, nil
}

// maxInitrd bounds what an initrd unpacks to, in bytes.
const maxInitrd = 1 << 30

func initrdParts(s stretch) ([]node, error) {
	z, err := zstd.NewReader(s.section(), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxInitrd))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	archive, err := io.ReadAll(io.LimitReader(z, maxInitrd+1))
	if err != nil {
		return nil, err
	}
	if len(archive) > maxInitrd {
		return nil, fmt.Errorf("it unpacks to more than %d bytes", maxInitrd)
	}
	list, err := readCPIO(archive)
	if err != nil {
		return nil, err
	}
	var parts []node
	for _, e := range list {
		n := stretch{bytes.NewReader(e.data), 0, int64(len(e.data))}.node(e.name)
		n.facts = e.facts()
		parts = append(parts, n)
	}
	return parts, nil
}

// ukiParts are the sections, those that a kernel command line changes last: it has the digest of the root image.
func ukiParts(s stretch) ([]node, error) {
	list, err := uki.Locate(s.section(), s.size)
	if err != nil {
		return nil, err
	}
	var parts, last []node
	for _, p := range list {
		n, in := s.part("section "+p.Name, p.At, p.Size)
		switch p.Name {
		case ".initrd":
			n.kind, n.split = "an initrd", func() ([]node, error) { return initrdParts(in) }
		case ".cmdline":
			last = append(last, n)
			continue
		}
		parts = append(parts, n)
	}
	return append(parts, last...), nil
}

// diskParts are the partitions, then what lies around them, whose GUIDs follow from what is in the partitions.
func diskParts(s stretch) ([]node, error) {
	d, err := disk.Read(s.section(), s.size)
	if err != nil {
		return nil, err
	}
	first, last := s.size, int64(0)
	var parts, esp []node
	for i, p := range d.Partitions {
		if p.Start < 0 || p.Size < 0 || p.Start+p.Size > s.size {
			return nil, fmt.Errorf("partition %d lies beyond the end", p.Index)
		}
		first, last = min(first, p.Start), max(last, p.Start+p.Size)
		n, in := s.part("partition "+p.Label, p.Start, p.Size)
		switch p.Label {
		case bootspec.LabelRootA, bootspec.LabelRootB:
			n.kind, n.split = "a squashfs file", func() ([]node, error) { return squashfsParts(in) }
		case bootspec.LabelESP: // its kernel's command line follows from the root image
			n.kind, n.split = "a FAT file system", func() ([]node, error) { return espParts(s, d, d.Partitions[i]) }
			esp = append(esp, n)
			continue
		}
		parts = append(parts, n)
	}
	parts = append(parts, esp...)
	if first >= last {
		return parts, nil
	}
	front, _ := s.part("partition table and all before the first partition", 0, first)
	back, _ := s.part("backup partition table", last, s.size-last)
	return append(parts, front, back), nil
}

func espParts(s stretch, d *disk.Disk, esp disk.Partition) ([]node, error) {
	if d.Unreadable != "" {
		return nil, fmt.Errorf("%s", d.Unreadable)
	}
	var parts []node
	for _, f := range d.Files {
		n := node{name: f.Path, size: f.Size, open: func() (io.ReadCloser, error) {
			r, _, err := disk.OpenBootFile(s.section(), esp, f.Path)
			return io.NopCloser(r), err
		}}
		if strings.HasSuffix(strings.ToLower(f.Path), bootspec.ExtUKI) && strings.Contains(f.Path, "/Linux/") {
			n.kind, n.split = "a unified kernel image", func() ([]node, error) { return ukiFile(n) }
		}
		parts = append(parts, n)
	}
	return parts, nil
}

// maxUKI bounds the size of a kernel image that is read into memory, in bytes.
const maxUKI = 1 << 30

func ukiFile(n node) ([]node, error) {
	r, err := n.open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxUKI))
	if err != nil {
		return nil, err
	}
	return ukiParts(stretch{bytes.NewReader(data), 0, int64(len(data))})
}

// maxDisk bounds the size of an unpacked disk image, in bytes.
const maxDisk = 1 << 40

// packedParts unpacks a compressed image into a temporary file without its zeros.
func (c *comparison) packedParts(s stretch, image string) ([]node, error) {
	z, err := zstd.NewReader(s.section(), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	f, err := os.CreateTemp(c.scratch, "image-")
	if err != nil {
		return nil, err
	}
	c.files, c.trash = append(c.files, f), append(c.trash, f.Name())
	size, err := sparse(f, io.LimitReader(z, maxDisk))
	if err != nil {
		return nil, err
	}
	return []node{c.inner(stretch{f, 0, size}, image)}, nil
}

func (c *comparison) qcow2Parts(s stretch, image string) ([]node, error) {
	r, size, err := qcow2.Open(s.section(), s.size)
	if err != nil {
		return nil, err
	}
	return []node{c.inner(stretch{r, 0, size}, image)}, nil
}

func (c *comparison) inner(s stretch, image string) node {
	n := c.typed(s, image)
	n.name = "image"
	return n
}

// sparse copies into an empty file and leaves out what is zeros.
func sparse(f *os.File, r io.Reader) (size int64, err error) {
	block, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := r.Read(block)
		if n > 0 && !bytes.Equal(block[:n], zeros[:n]) {
			if _, err := f.WriteAt(block[:n], size); err != nil {
				return 0, err
			}
		}
		size += int64(n)
		if err == io.EOF {
			return size, f.Truncate(size)
		}
		if err != nil {
			return 0, err
		}
	}
}
