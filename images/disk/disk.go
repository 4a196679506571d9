// Package disk makes bootable disk images, writes the same onto devices, and looks into disks: GPT with Discoverable
// Partitions type GUIDs, an ESP with systemd-boot and one unified kernel image for each slot, two slots, the place of the
// node's configuration, and a state partition at the end.
//
// Words: a slot is a root partition and a verity partition with their boot entry; A is the first, B the second. The root
// partition holds a root image's squashfs, the verity partition its verity tree. Settling is the pass over a FAT file
// system that go-diskfs has written: it takes the clock out and puts right what the library gets wrong. Growing is
// rewriting both partition tables for a device that is larger than its image, so that the state takes the rest.
//
// go-diskfs encodes; this package decides what goes where and what each byte depends on. Equal layouts give equal bytes.
// It decides about no device (which one, whether it may be written: builder/flash, agent/install), makes no file system
// for the state, and signs nothing.
package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

// File is where an image is written. It must be empty.
type File interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
}

// Write makes an image file. It appears at path only when it is finished and durable; what was there before stays whole
// until then. The file is sparse: what holds nothing but zeros takes no room.
func Write(path string, l Layout) error {
	if err := write(path, l); err != nil {
		return fmt.Errorf("cannot write disk image %s: %w", path, err)
	}
	return nil
}

func write(path string, l Layout) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // does nothing once it is renamed
	defer f.Close()
	if err := Encode(f, l); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}

// Encode writes an image into an empty file, the partition tables last: what is half-written is no disk.
func Encode(f File, l Layout) error {
	p, err := l.resolve()
	if err != nil {
		return err
	}
	if err := f.Truncate(p.size); err != nil {
		return err
	}
	m := medium{f, false}
	if err := writeContent(m, l, p); err != nil {
		return err
	}
	return writeTables(m, l, p)
}

// writeContent writes everything but the tables.
func writeContent(m medium, l Layout, p plan) error {
	if err := writeESP(m, l, p.partitions[0]); err != nil {
		return fmt.Errorf("ESP: %w", err)
	}
	for i, slot := range l.Slots {
		root, tree := p.slot(i)
		spans := []span{{root.start, slot.Data}, {tree.start, slot.Root.Size - slot.Data}}
		if err := slot.Root.copyTo(newSparse(m, spans...)); err != nil {
			return fmt.Errorf("root image %s: %w", slot.Image, err)
		}
	}
	return nil
}

// writeTables writes both partition tables and the protective MBR.
func writeTables(f medium, l Layout, p plan) error {
	table := &gpt.Table{LogicalSectorSize: l.SectorSize, PhysicalSectorSize: l.SectorSize, ProtectiveMBR: true, GUID: p.guid}
	sector := int64(l.SectorSize)
	for i, part := range p.partitions {
		table.Partitions = append(table.Partitions, &gpt.Partition{
			Index: i + 1, // without it go-diskfs writes no entry
			Start: uint64(part.start / sector), End: uint64((part.start+part.size)/sector - 1), Size: uint64(part.size),
			Type: gpt.Type(part.kind), GUID: part.guid, Name: part.label, Attributes: part.attributes,
		})
	}
	if err := table.Write(&storage{medium: f}, p.size); err != nil {
		return fmt.Errorf("partition table: %w", err)
	}
	// Cylinders, heads and sectors of the protective MBR, and how many it protects, as the UEFI specification has them
	// (2.10, table 5-4).
	for _, field := range []struct {
		at    int64
		bytes []byte
	}{{446 + 1, []byte{0x00, 0x02, 0x00}}, {446 + 5, []byte{0xff, 0xff, 0xff}}, {446 + 12, protectedSectors(p.size / sector)}} {
		if _, err := f.WriteAt(field.bytes, field.at); err != nil {
			return fmt.Errorf("protective MBR: %w", err)
		}
	}
	return nil
}

// protectedSectors is the protective MBR's number of sectors: all but its own, or the most that 32 bits say.
func protectedSectors(sectors int64) []byte {
	return binary.LittleEndian.AppendUint32(nil, uint32(min(sectors-1, 1<<32-1)))
}
