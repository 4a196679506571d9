package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Grow fits the partition tables to a device of size bytes, which may be larger than the image that was written to it:
// the backup table goes to its end, and the state partition, which must be the last, takes the rest. A damaged copy of
// the table is written anew from the other one. It returns the state partition as it is then, and whether anything was
// written; done twice it does nothing. Whatever else the tables say stays as it is.
//
// At any moment one of the copies is whole: the backup is written first, then the primary.
func Grow(d Device, size int64) (state Partition, changed bool, err error) {
	t, err := readRaw(d, size)
	if err != nil {
		return Partition{}, false, fmt.Errorf("cannot grow the state partition: %w", err)
	}
	if state, err = t.extend(size); err == nil {
		err = t.fits(size)
	}
	if err != nil {
		return Partition{}, false, fmt.Errorf("cannot grow the state partition: %w", err)
	}
	if t.current(d, size) {
		return state, false, nil
	}
	if err := t.write(d, size); err != nil {
		return Partition{}, false, fmt.Errorf("cannot write the partition table: %w", err)
	}
	return state, true, nil
}

// rawTable is a table as it is on disk, so that what we do not know of it is kept.
type rawTable struct {
	tableHeader
	header, data []byte // one sector, all entries
	list         []Partition
	alternate    int64 // where the other copy is said to be, in bytes
}

func readRaw(d Device, size int64) (*rawTable, error) {
	h, list, recovered, err := readTable(d, size)
	if err != nil {
		return nil, err
	}
	t := &rawTable{tableHeader: h, list: list, header: make([]byte, h.sector), data: make([]byte, h.count*h.entrySize)}
	if _, err := d.ReadAt(t.header, h.self*h.sector); err != nil {
		return nil, err
	}
	if _, err := d.ReadAt(t.data, h.entries); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(t.data) != h.checksum {
		return nil, errors.New("it changed while it was read")
	}
	t.alternate = int64(min(binary.LittleEndian.Uint64(t.header[32:]), 1<<50)) * h.sector
	if recovered {
		t.entries = 2 * h.sector // where the primary's are wanted
	}
	return t, nil
}

// extend lets the state partition end where the device does, in memory.
func (t *rawTable) extend(size int64) (Partition, error) {
	var state Partition
	for _, p := range t.list {
		if p.Label == bootspec.LabelState {
			state = p
		}
	}
	if state.Index == 0 {
		return state, fmt.Errorf("there is no partition %s", bootspec.LabelState)
	}
	for _, p := range t.list {
		if p.Start > state.Start {
			return state, fmt.Errorf("partition %d (%s) lies behind %s", p.Index, p.Label, bootspec.LabelState)
		}
	}
	size -= size % t.sector
	state.Size = max(state.Size, min(usableEnd(size, t.sector), t.usable(size))-state.Start)
	entry := t.data[int64(state.Index-1)*t.entrySize:]
	binary.LittleEndian.PutUint64(entry[40:], uint64((state.Start+state.Size)/t.sector-1))
	return state, nil
}

// fits tells whether both copies have their room before and behind the partitions.
func (t *rawTable) fits(size int64) error {
	for _, p := range t.list {
		if p.Start < t.entries+t.room() || p.Start < 2*t.sector || p.Start+p.Size > t.usable(size) {
			return fmt.Errorf("partition %d (%s) lies where the partition table must be", p.Index, p.Label)
		}
	}
	if t.entries < 2*t.sector || t.entries+t.room() > t.usable(size) {
		return fmt.Errorf("the entries of the partition table lie at byte %d", t.entries)
	}
	return nil
}

// room is how many bytes the entries take, in whole sectors.
func (t *rawTable) room() int64 { return (int64(len(t.data)) + t.sector - 1) / t.sector * t.sector }

// usable is where the backup table of a device begins.
func (t *rawTable) usable(size int64) int64 { return size - size%t.sector - t.sector - t.room() }

// copyAt is the header of a copy.
func (t *rawTable) copyAt(size int64, backup bool) []byte {
	b := append([]byte(nil), t.header...)
	le := binary.LittleEndian
	last := size/t.sector - 1
	self, other, entries := int64(1), last, t.entries/t.sector
	if backup {
		self, other, entries = last, 1, t.usable(size)/t.sector
	}
	for at, value := range map[int]int64{24: self, 32: other, 48: t.usable(size)/t.sector - 1, 72: entries} {
		le.PutUint64(b[at:], uint64(value))
	}
	le.PutUint32(b[88:], crc32.ChecksumIEEE(t.data))
	clear(b[16:20])
	le.PutUint32(b[16:], crc32.ChecksumIEEE(b[:le.Uint32(b[12:])]))
	return b
}

// current tells whether both copies are on the device as they shall be.
func (t *rawTable) current(d Device, size int64) bool {
	for _, s := range t.pieces(size) {
		b := make([]byte, len(s.bytes))
		if _, err := d.ReadAt(b, s.at); err != nil || string(b) != string(s.bytes) {
			return false
		}
	}
	return true
}

// piece is bytes at their place.
type piece struct {
	at    int64
	bytes []byte
}

// pieces are the backup's entries and header, then the primary's.
func (t *rawTable) pieces(size int64) []piece {
	last := size/t.sector*t.sector - t.sector
	return []piece{
		{t.usable(size), t.data}, {last, t.copyAt(size, true)},
		{t.entries, t.data}, {t.sector, t.copyAt(size, false)},
	}
}

func (t *rawTable) write(d Device, size int64) error {
	list := t.pieces(size)
	for i, s := range list {
		if _, err := d.WriteAt(s.bytes, s.at); err != nil {
			return err
		}
		if i%2 == 1 {
			if err := d.Sync(); err != nil {
				return err
			}
		}
	}
	return errors.Join(t.protect(d, size), t.forget(d, size), d.Sync())
}

// protect tells the protective MBR the device's size, if there is one.
func (t *rawTable) protect(d Device, size int64) error {
	mbr := make([]byte, 512)
	if _, err := d.ReadAt(mbr, 0); err != nil {
		return err
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa || mbr[446+4] != 0xee {
		return nil
	}
	_, err := d.WriteAt(protectedSectors(size/t.sector), 446+12)
	return err
}

// forget wipes the backup's header where the image ended: it is in the middle of the state now.
func (t *rawTable) forget(d Device, size int64) error {
	last := size/t.sector*t.sector - t.sector
	if t.self != 1 || t.alternate <= t.sector || t.alternate >= last {
		return nil
	}
	old := make([]byte, t.sector)
	if _, err := d.ReadAt(old, t.alternate); err != nil || string(old[:8]) != "EFI PART" {
		return err
	}
	_, err := d.WriteAt(make([]byte, t.sector), t.alternate)
	return err
}
