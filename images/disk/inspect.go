package disk

import (
	"fmt"
	"io"
	"os"

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
	d, err := inspect(f, size)
	if err != nil {
		return nil, fmt.Errorf("cannot inspect disk %s: %w", path, err)
	}
	return d, nil
}

func inspect(r io.ReaderAt, size int64) (*Disk, error) {
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
