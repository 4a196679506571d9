package disk

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Disk is what a disk or disk image says of itself.
type Disk struct {
	Size       int64       `json:"size"`       // bytes
	SectorSize int         `json:"sectorSize"` // bytes
	GUID       string      `json:"guid"`
	Recovered  bool        `json:"recovered"` // the first partition table is damaged, this is the backup
	Partitions []Partition `json:"partitions"`
	Files      []BootFile  `json:"files"`                // on the ESP, in the directories' order
	Unreadable string      `json:"unreadable,omitempty"` // why the files of the ESP are not told, or not all
}

// Partition is an entry of the partition table.
type Partition struct {
	Index      int    `json:"index"` // from 1
	Label      string `json:"label"`
	Type       string `json:"type"` // GUIDs are in lower case
	GUID       string `json:"guid"`
	Attributes uint64 `json:"attributes"`
	Start      int64  `json:"start"` // bytes
	Size       int64  `json:"size"`  // bytes
}

// BootFile is a file on the ESP.
type BootFile struct {
	Path string `json:"path"`
	Size int64  `json:"size"` // bytes
}

// Partition finds a partition by its label.
func (d *Disk) Partition(label string) (Partition, bool) {
	for _, p := range d.Partitions {
		if p.Label == label {
			return p, true
		}
	}
	return Partition{}, false
}

// Inspect reads the partition table of an image file or a device, and the names of the files on its ESP. It reads what
// anybody may have written, and only reads. A disk without a valid table is an error; an ESP that cannot be read is not.
func Inspect(path string) (*Disk, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot inspect disk: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd) // tells a device's size too
	if err != nil {
		return nil, fmt.Errorf("cannot inspect disk %s: %w", path, err)
	}
	d, err := Read(f, size)
	if err != nil {
		return nil, fmt.Errorf("cannot inspect disk %s: %w", path, err)
	}
	return d, nil
}

// Read is Inspect of a device that is open, of size bytes; the table may have sectors of 512 or 4096 bytes, whatever the
// device has: a CD-ROM shows a table of 512 too.
func Read(r io.ReaderAt, size int64) (*Disk, error) {
	h, list, recovered, err := readTable(r, size)
	if err != nil {
		return nil, err
	}
	d := &Disk{Size: size, SectorSize: int(h.sector), GUID: h.guid, Recovered: recovered, Partitions: list}
	for _, p := range list {
		if p.Type == bootspec.PartitionTypeESP {
			if d.Files, err = bootFiles(r, p); err != nil {
				d.Unreadable = err.Error()
			}
			break
		}
	}
	return d, nil
}

func bootFiles(r io.ReaderAt, p Partition) ([]BootFile, error) {
	v, err := openFAT(io.NewSectionReader(r, p.Start, p.Size), p.Size)
	if err != nil {
		return nil, err
	}
	var files []BootFile
	err = v.walk(func(r record) error {
		if !r.is(attrDirectory) && !r.is(attrLabel) {
			files = append(files, BootFile{r.path, r.size()})
		}
		return nil
	})
	return files, err
}

// ByGUID finds a partition by its GUID, in lower case.
func (d *Disk) ByGUID(guid string) (Partition, bool) {
	for _, p := range d.Partitions {
		if p.GUID == guid {
			return p, true
		}
	}
	return Partition{}, false
}

// Range is a part of a file, and of nothing but that part: a partition of an image or of a device.
type Range struct {
	of          image
	start, size int64
}

// Of is the partition's bytes in the image or device it was read from.
func (p Partition) Of(f interface {
	io.ReaderAt
	io.WriterAt
}) Range {
	return Range{f, p.Start, p.Size}
}

// ReadAt reads up to the end of the part (io.ReaderAt).
func (r Range) ReadAt(p []byte, at int64) (int, error) {
	return io.NewSectionReader(r.of, r.start, r.size).ReadAt(p, at)
}

// WriteAt writes within the part; what would lie beyond it is an error, and nothing is written.
func (r Range) WriteAt(p []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(p)) > r.size {
		return 0, fmt.Errorf("cannot write %d bytes at byte %d of a partition of %d", len(p), at, r.size)
	}
	return r.of.WriteAt(p, r.start+at)
}

// OpenBootFile reads a file of an ESP: the path has slashes and is compared as FAT does, without case. The bytes are those
// of a medium that anybody may have written: check their digest.
func OpenBootFile(r io.ReaderAt, esp Partition, path string) (content io.Reader, size int64, err error) {
	v, err := openFAT(io.NewSectionReader(r, esp.Start, esp.Size), esp.Size)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read %s of the ESP: %w", path, err)
	}
	var found *record
	err = v.walk(func(r record) error {
		if !r.is(attrDirectory) && !r.is(attrLabel) && strings.EqualFold(r.path, path) {
			found = &r
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("cannot read %s of the ESP: %w", path, err)
	case found == nil:
		return nil, 0, fmt.Errorf("cannot read %s of the ESP: %w", path, fs.ErrNotExist)
	}
	if content, err = v.content(*found); err != nil {
		return nil, 0, fmt.Errorf("cannot read %s of the ESP: %w", path, err)
	}
	return content, found.size(), nil
}
