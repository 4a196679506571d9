package iso

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Where things lie, in sectors from the start of the image. Descriptors begin at 16 (ECMA-119, section 6.2.1), and El
// Torito's is the second of them (El Torito, section 2.0).
const (
	atPrimary = 16 + iota
	atBoot
	atEnd
	atCatalog
	atPathLittle
	atPathBig
	atRoot
	atFiles
)

// pathTableSize is that of a table with nothing but the root folder (ECMA-119, section 9.4).
const pathTableSize = 10

// encode is the sectors from the first descriptor to the end of the last file.
func (v Volume) encode() ([]byte, error) {
	root, next, err := v.rootFolder()
	if err != nil {
		return nil, err
	}
	area := make([]byte, (next-atPrimary)*sector)
	at := func(n int) []byte { return area[(n-atPrimary)*sector:][:sector] }
	v.primary(at(atPrimary))
	v.bootRecord(at(atBoot))
	copy(at(atEnd), "\xffCD001\x01") // ECMA-119, section 8.3
	v.catalog(at(atCatalog))
	pathTable(at(atPathLittle), binary.LittleEndian)
	pathTable(at(atPathBig), binary.BigEndian)
	copy(at(atRoot), root)
	n := atFiles
	for _, f := range v.Files {
		copy(area[(n-atPrimary)*sector:], f.Data)
		n += sectors(len(f.Data))
	}
	return area, nil
}

func sectors(n int) int { return max(1, (n+sector-1)/sector) }

// primary is the primary volume descriptor (ECMA-119, section 8.4).
func (v Volume) primary(b []byte) {
	copy(b, "\x01CD001\x01")
	text(b[8:40], v.System)
	text(b[40:72], v.Label)
	both32(b[80:], uint32(v.Size/sector))
	both16(b[120:], 1) // volumes in the set
	both16(b[124:], 1) // this one
	both16(b[128:], sector)
	both32(b[132:], pathTableSize)
	binary.LittleEndian.PutUint32(b[140:], atPathLittle)
	binary.BigEndian.PutUint32(b[148:], atPathBig)
	copy(b[156:], v.record("\x00", atRoot, sector, true))
	for _, field := range [][2]int{{190, 318}, {318, 446}, {446, 574}, {574, 702}, {702, 739}, {739, 776}, {776, 813}} {
		text(b[field[0]:field[1]], "") // set, publisher, preparer, application, copyright, abstract, bibliography
	}
	text(b[574:702], v.System)
	t := time.Unix(v.Epoch, 0).UTC()
	for _, field := range []int{813, 830} { // made, changed
		copy(b[field:], t.Format("20060102150405")+"00")
	}
	for _, field := range []int{847, 864} { // never expires, is effective at once (section 8.4.26.1: zero digits)
		copy(b[field:], "0000000000000000")
	}
	b[881] = 1
}

// bootRecord is El Torito's volume descriptor (figure 7 there).
func (v Volume) bootRecord(b []byte) {
	copy(b, "\x00CD001\x01EL TORITO SPECIFICATION")
	binary.LittleEndian.PutUint32(b[71:], atCatalog)
}

// catalog is El Torito's booting catalog: the validation entry and the default entry (sections 2.1 and 2.2 there), for
// UEFI (platform 0xEF, "no emulation": UEFI specification, section 13.3.2.1).
func (v Volume) catalog(b []byte) {
	b[0], b[1] = 1, 0xef
	b[30], b[31] = 0x55, 0xaa
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += binary.LittleEndian.Uint16(b[i:])
	}
	binary.LittleEndian.PutUint16(b[28:], -sum)
	b[32] = 0x88 // bootable
	// The number of blocks of 512 bytes has 16 bits. A boot file system that is larger is said to go on to the end of the
	// CD-ROM, which is what 0 and 1 mean; 1 is what installation media of others have.
	count := v.Boot.Size / 512
	if count > 1<<16-1 {
		count = 1
	}
	binary.LittleEndian.PutUint16(b[38:], uint16(count))
	binary.LittleEndian.PutUint32(b[40:], uint32(v.Boot.Start/sector))
}

func pathTable(b []byte, order binary.ByteOrder) {
	b[0] = 1 // length of the name, a zero byte
	order.PutUint32(b[2:], atRoot)
	order.PutUint16(b[6:], 1)
}

// rootFolder is the records of the root folder, and the first sector after its files.
func (v Volume) rootFolder() ([]byte, int, error) {
	var b bytes.Buffer
	b.Write(v.record("\x00", atRoot, sector, true))
	b.Write(v.record("\x01", atRoot, sector, true))
	at := atFiles
	for _, f := range v.Files {
		if len(f.Data) > gapEnd {
			return nil, 0, fmt.Errorf("file %s has %d bytes", f.Name, len(f.Data))
		}
		b.Write(v.record(f.Name+";1", at, len(f.Data), false))
		at += sectors(len(f.Data))
	}
	if b.Len() > sector {
		return nil, 0, errors.New("too many files for one sector of the root folder")
	}
	return b.Bytes(), at, nil
}

// record is a directory record (ECMA-119, section 9.1).
func (v Volume) record(name string, at, size int, folder bool) []byte {
	b := make([]byte, (33+len(name)+1)/2*2)
	b[0] = byte(len(b))
	both32(b[2:], uint32(at))
	both32(b[10:], uint32(size))
	t := time.Unix(v.Epoch, 0).UTC()
	copy(b[18:], []byte{byte(t.Year() - 1900), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()), 0})
	if folder {
		b[25] = 2
	}
	both16(b[28:], 1)
	b[32] = byte(len(name))
	copy(b[33:], name)
	return b
}

// text is a field padded with blanks.
func text(b []byte, s string) {
	for i := range b {
		b[i] = ' '
	}
	copy(b, s)
}

func both16(b []byte, n uint16) {
	binary.LittleEndian.PutUint16(b, n)
	binary.BigEndian.PutUint16(b[2:], n)
}

func both32(b []byte, n uint32) {
	binary.LittleEndian.PutUint32(b, n)
	binary.BigEndian.PutUint32(b[4:], n)
}
