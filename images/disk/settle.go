package disk

import (
	"encoding/binary"
	"fmt"
	"time"
)

// settle goes over a file system that go-diskfs has just written and puts right what the library takes from the clock or
// gets wrong:
//
//   - times of all records come from the clock (or an environment variable): they are set to one time;
//   - '..' of a directory in the root directory names cluster 2, and must name 0 (specification, section "FAT Directory
//     Structure"; fsck.vfat complains);
//   - the volume id is 0, or the clock: it is set, in the boot sector and its backup;
//   - the count of sectors before the volume is 0: it is set;
//   - the information sector says "not known": it gets the free clusters, and where to look for the next.
//
// The volume begins at byte start of the file.
func settle(f medium, start int64, v *fat, id [4]byte, epoch int64) error {
	if err := v.walk(func(r record) error { return settleRecord(f, start, v, r, epoch) }); err != nil {
		return err
	}
	var hidden [4]byte
	binary.LittleEndian.PutUint32(hidden[:], uint32(start/v.sector))
	free, next, err := v.free()
	if err != nil {
		return err
	}
	var info [8]byte
	binary.LittleEndian.PutUint32(info[:], free)
	binary.LittleEndian.PutUint32(info[4:], next)
	for _, sector := range []int64{0, v.backup} {
		for _, patch := range []struct {
			at    int64
			bytes []byte
		}{
			{sector*v.sector + bootHidden, hidden[:]},
			{sector*v.sector + bootVolumeID, id[:]},
			{(sector+v.info)*v.sector + 488, info[:]},
		} {
			if _, err := f.WriteAt(patch.bytes, start+patch.at); err != nil {
				return err
			}
		}
	}
	return nil
}

func settleRecord(f medium, start int64, v *fat, r record, epoch int64) error {
	date, clock := stamp(epoch)
	r.raw[13] = 0                                    // hundredths
	binary.LittleEndian.PutUint16(r.raw[14:], clock) // made
	binary.LittleEndian.PutUint16(r.raw[16:], date)  // made
	binary.LittleEndian.PutUint16(r.raw[18:], date)  // read
	binary.LittleEndian.PutUint16(r.raw[22:], clock) // written
	binary.LittleEndian.PutUint16(r.raw[24:], date)  // written
	if r.name() == ".." && r.parent == v.root {
		binary.LittleEndian.PutUint16(r.raw[20:], 0)
		binary.LittleEndian.PutUint16(r.raw[26:], 0)
	}
	_, err := f.WriteAt(r.raw[:], start+r.at)
	return err
}

// stamp is a time as FAT has it, in UTC; what FAT cannot say is the nearest that it can.
func stamp(epoch int64) (date, clock uint16) {
	t := time.Unix(epoch, 0).UTC()
	if first := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC); t.Before(first) {
		t = first
	}
	if last := time.Date(2107, 12, 31, 23, 59, 58, 0, time.UTC); t.After(last) {
		t = last
	}
	date = uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day())
	return date, uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
}

// free counts free clusters, and finds the first one after all that are in use.
func (f *fat) free() (count, next uint32, err error) {
	table := make([]byte, int64(f.clusters+clusterMin)*4)
	if _, err := f.r.ReadAt(table, f.tables); err != nil {
		return 0, 0, fmt.Errorf("cannot read allocation table: %w", err)
	}
	next = clusterMin
	for c := uint32(clusterMin); c < f.clusters+clusterMin; c++ {
		if binary.LittleEndian.Uint32(table[c*4:])&0x0fffffff == 0 {
			count++
		} else {
			next = c + 1
		}
	}
	return count, min(next, f.clusters+clusterMin-1), nil
}
