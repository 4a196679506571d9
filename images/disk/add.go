package disk

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
)

// ErrNoRoom is what errors wrap about a drive without enough free room for another partition.
var ErrNoRoom = errors.New("not enough room on the drive")

// NewPartition is a partition to be made. GUIDs are in lower case.
type NewPartition struct {
	Label, Type, GUID string // the label has at most 36 characters
	Size              int64  // bytes, a multiple of 1 MiB; 0: all that is free behind the last partition
}

// Add makes a partition behind all others of a drive that has a partition table.
func Add(d Device, size int64, n NewPartition) (Partition, error) {
	t, err := readRaw(d, size)
	if err != nil {
		return Partition{}, err
	}
	if err := t.fits(size); err != nil {
		return Partition{}, err
	}
	index, start := 0, int64(alignment)
	for i := range t.count {
		if [16]byte(t.data[i*t.entrySize:]) == [16]byte{} {
			index = int(i) + 1
			break
		}
	}
	if index == 0 {
		return Partition{}, fmt.Errorf("%w: its table has no free entry", ErrNoRoom)
	}
	for _, p := range t.list {
		start = max(start, (p.Start+p.Size+alignment-1)/alignment*alignment)
	}
	p, err := n.at(start, min(usableEnd(size, t.sector), t.usable(size)))
	if err != nil {
		return Partition{}, err
	}
	p.Index = index
	if err := n.encode(t.data[int64(index-1)*t.entrySize:], p, t.sector); err != nil {
		return Partition{}, err
	}
	if err := t.write(d, size); err != nil {
		return Partition{}, fmt.Errorf("cannot write the partition table: %w", err)
	}
	return p, nil
}

// Create makes a partition table with one partition on a drive that holds nothing that anybody needs.
func Create(d Device, size int64, sector int, guid string, n NewPartition) (Partition, error) {
	p, err := n.at(alignment, usableEnd(size, int64(sector)))
	if err != nil {
		return Partition{}, err
	}
	p.Index = 1
	m := medium{d, true}
	if err := errors.Join(m.zero(0, alignment), m.zero(p.Start, min(p.Size, signatures)), m.zero(size-alignment, alignment), d.Sync()); err != nil {
		return Partition{}, fmt.Errorf("cannot wipe the drive: %w", err)
	}
	one := plan{size: size - size%int64(sector), guid: guid, partitions: []partition{{label: n.Label, kind: n.Type, guid: n.GUID, start: p.Start, size: p.Size}}}
	if err := errors.Join(writeTables(m, Layout{SectorSize: sector}, one), d.Sync()); err != nil {
		return Partition{}, err
	}
	return p, nil
}

// at is the partition in the room from start to end.
func (n NewPartition) at(start, end int64) (Partition, error) {
	size := n.Size
	if size == 0 {
		size = (end - start) / alignment * alignment
	}
	if size < alignment || size%alignment != 0 || start+size > end {
		return Partition{}, fmt.Errorf("%w: partition %s needs %d MiB, and %d MiB are free", ErrNoRoom, n.Label, max(n.Size, alignment)/mib, max(end-start, 0)/mib)
	}
	return Partition{Label: n.Label, Type: n.Type, GUID: n.GUID, Start: start, Size: size}, nil
}

// encode is an entry of a partition table (UEFI specification 2.10, section 5.3.3).
func (n NewPartition) encode(entry []byte, p Partition, sector int64) error {
	name := utf16.Encode([]rune(n.Label))
	if len(name) > (entryMin-56)/2 {
		return fmt.Errorf("partition label %q is too long", n.Label)
	}
	for at, text := range map[int]string{0: n.Type, 16: n.GUID} {
		b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
		if err != nil || len(b) != 16 {
			return fmt.Errorf("%q is no GUID", text)
		}
		binary.LittleEndian.PutUint32(entry[at:], binary.BigEndian.Uint32(b))
		binary.LittleEndian.PutUint16(entry[at+4:], binary.BigEndian.Uint16(b[4:]))
		binary.LittleEndian.PutUint16(entry[at+6:], binary.BigEndian.Uint16(b[6:]))
		copy(entry[at+8:at+16], b[8:])
	}
	binary.LittleEndian.PutUint64(entry[32:], uint64(p.Start/sector))
	binary.LittleEndian.PutUint64(entry[40:], uint64((p.Start+p.Size)/sector-1))
	clear(entry[48:entryMin])
	for i, u := range name {
		binary.LittleEndian.PutUint16(entry[56+2*i:], u)
	}
	return nil
}
