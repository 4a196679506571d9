// Package iso makes a disk image boot from a CD-ROM as well: it writes ISO 9660 volume descriptors and an El Torito
// catalog into the gap that the disk image leaves between its partition table and its first partition. The bytes stay a
// disk image: on a stick they boot through their partition table, on virtual media through the catalog.
//
// Words: a sector is 2048 bytes, whatever the disk image's are; the boot file system is the EFI system partition, which the
// catalog names by its place. Numbers that ISO 9660 wants in both byte orders are "both".
//
// It knows nothing of what boots, and makes no disk image (images/disk). References are to ECMA-119 (4th edition, the
// same as ISO 9660), El Torito (1.0) and the UEFI specification (2.10).
package iso

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

const (
	sector = 2048
	// The gap: the system area of 16 sectors holds the GUID partition table (up to 24 KiB); partitions begin at 1 MiB.
	gapStart = 16 * sector
	gapEnd   = 1 << 20
)

// Volume is what is to be found on the CD-ROM.
type Volume struct {
	Label  string // of the volume: capital letters, digits, _; at most 32
	System string // who made it, for people: capital letters, digits, _, at most 32
	Size   int64  // of the whole image in bytes
	Boot   Extent // EFI system partition
	Files  []File // in the root folder, sorted by name
	Epoch  int64  // time of all, in seconds since 1970; ISO 9660 knows 1900 to 2155
}

// Extent is a run of bytes of the image, in whole sectors.
type Extent struct{ Start, Size int64 }

// File is a small file in the root folder.
type File struct {
	Name string // README.TXT: at most 8 and 3 capital letters, digits, _
	Data []byte
}

// Image is a disk image that is being made.
type Image interface {
	io.ReaderAt
	io.WriterAt
}

// Add writes the volume into the gap of an image. The gap must hold nothing but zeros.
func Add(image Image, v Volume) error {
	if err := add(image, v); err != nil {
		return fmt.Errorf("cannot make an ISO of the disk image: %w", err)
	}
	return nil
}

func add(image Image, v Volume) error {
	if err := v.check(); err != nil {
		return err
	}
	area, err := v.encode()
	if err != nil {
		return err
	}
	gap := make([]byte, min(gapEnd, v.Boot.Start)-gapStart)
	if _, err := image.ReadAt(gap, gapStart); err != nil {
		return err
	}
	for i, b := range gap {
		if b != 0 {
			return fmt.Errorf("byte %d is used already", gapStart+i)
		}
	}
	if len(area) > len(gap) {
		return fmt.Errorf("%d bytes do not fit into the gap of %d before the first partition", len(area), len(gap))
	}
	_, err = image.WriteAt(area, gapStart)
	return err
}

var (
	labelText = regexp.MustCompile(`^[A-Z0-9_]{1,32}$`)
	fileName  = regexp.MustCompile(`^[A-Z0-9_]{1,8}\.[A-Z0-9_]{1,3}$`)
)

func (v Volume) check() error {
	const maxSectors = 1<<32 - 1
	switch {
	case !labelText.MatchString(v.Label) || !labelText.MatchString(v.System):
		return fmt.Errorf("%q and %q are not up to 32 capital letters, digits and _", v.Label, v.System)
	case v.Size%sector != 0 || v.Size/sector > maxSectors:
		return fmt.Errorf("an image of %d bytes is not up to %d sectors of %d", v.Size, int64(maxSectors), sector)
	case v.Boot.Start < gapStart || v.Boot.Start%sector != 0 || v.Boot.Size <= 0 || v.Boot.Start+v.Boot.Size > v.Size:
		return fmt.Errorf("an EFI system partition of %d bytes at byte %d is not on its sectors", v.Boot.Size, v.Boot.Start)
	}
	if year := time.Unix(v.Epoch, 0).UTC().Year(); year < 1900 || year > 2155 {
		return fmt.Errorf("the year %d is not in 1900 to 2155", year)
	}
	for i, f := range v.Files {
		if !fileName.MatchString(f.Name) {
			return fmt.Errorf("%q is not a file name of ISO 9660", f.Name)
		}
		if i > 0 && strings.Compare(v.Files[i-1].Name, f.Name) >= 0 {
			return errors.New("files are not sorted by name")
		}
	}
	return nil
}
