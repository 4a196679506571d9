package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"unicode/utf16"
)

// A reader of partition tables (UEFI specification 2.10, section 5.3). go-diskfs's own believes the sizes that a table
// says of itself, and this one reads devices that anybody may have written.

const (
	headerMin    = 92 // bytes of a header that its checksum covers
	entryMin     = 128
	entryMax     = 4096
	maxEntries   = 1024
	maxEntryData = 1 << 20
)

// errTable is what errors about a partition table that cannot be read wrap.
var errTable = errors.New("no valid GUID partition table")

// tableHeader is a header that has been checked.
type tableHeader struct {
	sector            int64
	guid              string
	firstUsable, last int64 // sectors
	entries           int64 // offset of the array in bytes
	count, entrySize  int64
	checksum          uint32
	self              int64 // sector of the header itself
}

// readTable finds a table with sectors of either size. Recovered tells that the first copy is damaged and the second
// was read.
func readTable(r io.ReaderAt, size int64) (h tableHeader, list []Partition, recovered bool, err error) {
	var faults []error
	for _, backup := range []bool{false, true} {
		for _, sector := range []int64{512, 4096} {
			at := sector
			if backup {
				at = size/sector*sector - sector
			}
			if at < sector || at+sector > size {
				continue
			}
			h, list, err := readTableAt(r, size, sector, at)
			if err == nil {
				return h, list, backup, nil
			}
			faults = append(faults, fmt.Errorf("at byte %d: %w", at, err))
		}
	}
	return h, nil, false, fmt.Errorf("%w: %w", errTable, errors.Join(faults...))
}

func readTableAt(r io.ReaderAt, size, sector, at int64) (tableHeader, []Partition, error) {
	h, err := readHeader(r, size, sector, at)
	if err != nil {
		return h, nil, err
	}
	data := make([]byte, h.count*h.entrySize)
	if _, err := r.ReadAt(data, h.entries); err != nil {
		return h, nil, fmt.Errorf("cannot read entries: %w", err)
	}
	if sum := crc32.ChecksumIEEE(data); sum != h.checksum {
		return h, nil, fmt.Errorf("checksum of the entries is %08x, not %08x", sum, h.checksum)
	}
	var list []Partition
	for i := range h.count {
		entry := data[i*h.entrySize:][:entryMin]
		if [16]byte(entry) == [16]byte{} {
			continue
		}
		p, err := h.partition(int(i)+1, entry)
		if err != nil {
			return h, nil, err
		}
		list = append(list, p)
	}
	return h, list, overlap(list)
}

func readHeader(r io.ReaderAt, size, sector, at int64) (tableHeader, error) {
	b := make([]byte, sector)
	if _, err := r.ReadAt(b, at); err != nil {
		return tableHeader{}, fmt.Errorf("cannot read header: %w", err)
	}
	if string(b[:8]) != "EFI PART" {
		return tableHeader{}, errors.New("no signature")
	}
	length := int64(binary.LittleEndian.Uint32(b[12:]))
	if length < headerMin || length > sector {
		return tableHeader{}, fmt.Errorf("a header of %d bytes", length)
	}
	sum := binary.LittleEndian.Uint32(b[16:])
	copy(b[16:20], make([]byte, 4))
	if got := crc32.ChecksumIEEE(b[:length]); got != sum {
		return tableHeader{}, fmt.Errorf("checksum of the header is %08x, not %08x", got, sum)
	}
	lba := func(at int) int64 { return int64(min(binary.LittleEndian.Uint64(b[at:]), 1<<50)) }
	h := tableHeader{
		sector: sector, self: lba(24), firstUsable: lba(40), last: lba(48), guid: guidText(b[56:]),
		entries: lba(72) * sector, count: int64(binary.LittleEndian.Uint32(b[80:])), entrySize: int64(binary.LittleEndian.Uint32(b[84:])),
		checksum: binary.LittleEndian.Uint32(b[88:]),
	}
	switch {
	case h.self*sector != at:
		return h, fmt.Errorf("the header says it is at sector %d", h.self)
	case h.entrySize < entryMin || h.entrySize > entryMax || h.entrySize%8 != 0 ||
		h.count < 1 || h.count > maxEntries || h.count*h.entrySize > maxEntryData:
		return h, fmt.Errorf("%d entries of %d bytes", h.count, h.entrySize)
	case h.entries+h.count*h.entrySize > size || h.last*sector >= size || h.firstUsable > h.last:
		return h, fmt.Errorf("partitions from sector %d to %d and entries at byte %d do not fit into %d bytes", h.firstUsable, h.last, h.entries, size)
	}
	return h, nil
}

func (h tableHeader) partition(index int, entry []byte) (Partition, error) {
	first, last := binary.LittleEndian.Uint64(entry[32:]), binary.LittleEndian.Uint64(entry[40:])
	if first < uint64(h.firstUsable) || last > uint64(h.last) || first > last {
		return Partition{}, fmt.Errorf("partition %d from sector %d to %d is outside of %d to %d", index, first, last, h.firstUsable, h.last)
	}
	var name []uint16
	for i := 56; i < entryMin; i += 2 {
		u := binary.LittleEndian.Uint16(entry[i:])
		if u == 0 {
			break
		}
		name = append(name, u)
	}
	return Partition{
		Index: index, Label: clean(string(utf16.Decode(name))), Type: guidText(entry), GUID: guidText(entry[16:]),
		Attributes: binary.LittleEndian.Uint64(entry[48:]), Start: int64(first) * h.sector, Size: int64(last-first+1) * h.sector,
	}, nil
}

func overlap(list []Partition) error {
	sorted := slices.Clone(list)
	slices.SortFunc(sorted, func(a, b Partition) int { return int(min(max(a.Start-b.Start, -1), 1)) })
	for i := 1; i < len(sorted); i++ {
		if a, b := sorted[i-1], sorted[i]; a.Start+a.Size > b.Start {
			return fmt.Errorf("partitions %d and %d overlap", a.Index, b.Index)
		}
	}
	return nil
}

// guidText is a GUID's text: the first three parts are little-endian on disk (UEFI specification 2.10, appendix A).
func guidText(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]),
		binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}
