package disk

import (
	"errors"
	"fmt"
	"io"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Device is a block device, or a file of the same ways: of a fixed size, with anything on it.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// ErrSmall is what errors wrap about a device that a layout does not fit on.
var ErrSmall = errors.New("the device is too small")

// Need is how many bytes a device must have at least for a layout.
func Need(l Layout) (int64, error) {
	p, err := l.resolve()
	return p.size, err
}

// EncodeDevice writes a layout onto a device of size bytes whose sectors are l.SectorSize; the state takes what is left
// of it. Whatever was there is lost. First the tables and the beginnings of what was there go, the new tables come last,
// and the device is synced between: what is half-written is no disk.
func EncodeDevice(d Device, size int64, l Layout) error {
	return EncodeDeviceReady(d, size, l, func(*Disk) error { return nil })
}

// EncodeDeviceReady is EncodeDevice for whoever has more to write or to check before there is a disk: ready is called when
// all but the tables is durable, with the disk as the tables will tell it (without the files of the ESP). When it fails, no
// tables are written.
func EncodeDeviceReady(d Device, size int64, l Layout, ready func(*Disk) error) error {
	p, err := l.resolve()
	if err != nil {
		return err
	}
	if p, err = p.fit(size, int64(l.SectorSize)); err != nil {
		return err
	}
	m := medium{d, true}
	if err := errors.Join(wipe(m, p), d.Sync()); err != nil {
		return fmt.Errorf("cannot wipe what was on the device: %w", err)
	}
	if err := writeContent(m, l, p); err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return err
	}
	if err := ready(p.disk(l.SectorSize)); err != nil {
		return err
	}
	return errors.Join(writeTables(m, l, p), d.Sync())
}

// fit is the plan for a device of another size: the last partition takes the rest.
func (p plan) fit(size, sector int64) (plan, error) {
	size -= size % sector
	if size < p.size {
		return plan{}, fmt.Errorf("%w: it has %d MiB, and %d MiB are needed", ErrSmall, size/mib, p.size/mib)
	}
	last := &p.partitions[len(p.partitions)-1]
	last.size = usableEnd(size, sector) - last.start
	p.size = size
	return p, nil
}

// disk is the plan as Read will tell it.
func (p plan) disk(sector int) *Disk {
	d := &Disk{Size: p.size, SectorSize: sector, GUID: p.guid}
	for i, part := range p.partitions {
		d.Partitions = append(d.Partitions, Partition{
			Index: i + 1, Label: part.label, Type: part.kind, GUID: part.guid, Attributes: part.attributes, Start: part.start, Size: part.size,
		})
	}
	return d
}

// tableEntries is the room of a table's entries in bytes (UEFI specification 2.10, section 5.3.1).
const tableEntries = 16 << 10

// usableEnd is where the last partition of a device may end: before the backup table, and aligned.
func usableEnd(size, sector int64) int64 {
	return (size - sector - tableEntries) / alignment * alignment
}

// signatures is how far from the beginning and the end of a partition anybody's file system, RAID or LVM signature may be.
const signatures = 1 * mib

// wipe takes away tables and what would make someone see another file system in a new partition. The configuration's
// place is cleared whole: an old one is a secret of another node.
func wipe(m medium, p plan) error {
	for _, s := range append([]span{{0, alignment}, {p.size - alignment, alignment}}, p.edges()...) {
		if err := m.zero(s.start, s.size); err != nil {
			return err
		}
	}
	return nil
}

// edges are the ranges in partitions that must be clear.
func (p plan) edges() []span {
	var list []span
	for _, part := range p.partitions {
		if part.label == bootspec.LabelConfig {
			list = append(list, span{part.start, part.size})
			continue
		}
		list = append(list, span{part.start, min(signatures, part.size)})
		if part.size > signatures {
			list = append(list, span{part.start + part.size - signatures, signatures})
		}
	}
	return list
}
