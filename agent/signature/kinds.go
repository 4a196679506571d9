package signature

import (
	"encoding/binary"
	"encoding/hex"
	"io"
	"strings"
)

// kind is a mark at a fixed place. Places are those of libblkid and of the formats' own documents.
type kind struct {
	name    string
	magic   string
	at      int64 // bytes; negative: from the end
	id      int64 // where what tells one from another is; 0: nothing does
	idBytes int
	text    bool // the id is text
}

func kinds() []kind {
	list := []kind{
		{name: "ext2/3/4", magic: "\x53\xef", at: 0x438, id: 0x468, idBytes: 16},
		{name: "XFS", magic: "XFSB", at: 0, id: 32, idBytes: 16},
		{name: "btrfs", magic: "_BHRfS_M", at: 0x10040, id: 0x10020, idBytes: 16},
		{name: "FAT", magic: "FAT32   ", at: 82, id: 67, idBytes: 4},
		{name: "FAT", magic: "FAT16   ", at: 54, id: 39, idBytes: 4},
		{name: "FAT", magic: "FAT12   ", at: 54, id: 39, idBytes: 4},
		{name: "NTFS", magic: "NTFS    ", at: 3, id: 72, idBytes: 8},
		{name: "exFAT", magic: "EXFAT   ", at: 3, id: 100, idBytes: 4},
		{name: "BitLocker", magic: "-FVE-FS-", at: 3},
		{name: "F2FS", magic: "\x10\x20\xf5\xf2", at: 1024, id: 1024 + 108, idBytes: 16},
		{name: "JFS", magic: "JFS1", at: 0x8000, id: 0x8088, idBytes: 16},
		{name: "squashfs", magic: "hsqs", at: 0, id: 8, idBytes: 4},
		{name: "erofs", magic: "\xe2\xe1\xf5\xe0", at: 1024, id: 1024 + 48, idBytes: 16},
		{name: "ISO 9660", magic: "CD001", at: 0x8001, id: 0x8028, idBytes: 32, text: true},
		{name: "swap", magic: "SWAPSPACE2", at: 4086, id: 1036, idBytes: 16},
		{name: "LUKS", magic: "LUKS\xba\xbe", at: 0, id: 168, idBytes: 36, text: true},
		{name: "dm-verity", magic: "verity\x00\x00", at: 0, id: 16, idBytes: 16},
		{name: "bcache", magic: "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", at: 4096 + 24, id: 4096 + 40, idBytes: 16},
		{name: "Ceph BlueStore", magic: "bluestore block device", at: 0, id: 23, idBytes: 36, text: true},
		{name: "Stratis", magic: "!Stra0tis\x86\xff\x02^\x41rh", at: 512 + 4, id: 512 + 32, idBytes: 32, text: true},
		{name: "VMFS", magic: "\x0d\xd0\x01\xc0", at: 0x100000},
		{name: "RAID (mdadm 1.1)", magic: "\xfc\x4e\x2b\xa9", at: 0, id: 16, idBytes: 16},
		{name: "RAID (mdadm 1.2)", magic: "\xfc\x4e\x2b\xa9", at: 4096, id: 4096 + 16, idBytes: 16},
		{name: "RAID (Intel)", magic: "Intel Raid ISM Cfg Sig. ", at: -1024},
		{name: "RAID (Intel)", magic: "Intel Raid ISM Cfg Sig. ", at: -8192},
		{name: "RAID (DDF)", magic: "\xde\x11\xde\x11", at: -512, id: -512 + 8, idBytes: 24},
		{name: "RAID (DDF)", magic: "\xde\x11\xde\x11", at: -4096, id: -4096 + 8, idBytes: 24},
	}
	for sector := range int64(4) { // the label is in one of the first four sectors
		list = append(list, kind{name: "LVM2", magic: "LVM2 001", at: sector*512 + 24, id: sector*512 + 32, idBytes: 32, text: true})
	}
	return list
}

// headBytes and tailBytes are what the kinds and ZFS's labels need.
const (
	headBytes = searched + 4096
	tailBytes = 576 << 10
)

// find looks at a range of a device.
func find(r io.ReaderAt, where string, start, size int64) ([]Mark, error) {
	head, err := read(r, start, min(size, headBytes))
	if err != nil {
		return nil, err
	}
	tailAt := max(0, size-tailBytes)
	tail, err := read(r, start+tailAt, size-tailAt)
	if err != nil {
		return nil, err
	}
	// bytesAt are n bytes of the range, if they were read.
	bytesAt := func(at int64, n int) []byte {
		if at < 0 {
			at += size
		}
		for _, have := range []struct {
			from  int64
			bytes []byte
		}{{0, head}, {tailAt, tail}} {
			if i := at - have.from; i >= 0 && i+int64(n) <= int64(len(have.bytes)) {
				return have.bytes[i : i+int64(n)]
			}
		}
		return nil
	}
	var marks []Mark
	for _, k := range append(kinds(), oldRAID(size)...) {
		if b := bytesAt(k.at, len(k.magic)); b == nil || string(b) != k.magic {
			continue
		}
		at := k.at
		if at < 0 {
			at += size
		}
		marks = append(marks, Mark{Where: where, At: start + at, Kind: k.name, Name: k.identity(bytesAt(k.id, k.idBytes))})
	}
	if at, ok := zfs(bytesAt, size); ok {
		marks = append(marks, Mark{Where: where, At: start + at, Kind: "ZFS"})
	}
	return marks, nil
}

func (k kind) identity(b []byte) string {
	switch {
	case k.id == 0 || b == nil:
		return ""
	case k.text:
		text, _, _ := strings.Cut(string(b), "\x00")
		return plain(text)
	}
	return hex.EncodeToString(b)
}

// oldRAID are mdadm's metadata at the end, whose places follow from the size: 1.0 at least 8 KiB before it, at a multiple
// of 4 KiB; 0.90 in the last whole 64 KiB but one (Documentation/admin-guide/md).
func oldRAID(size int64) []kind {
	var list []kind
	if at := (size/512 - 16) &^ 7 * 512; at > 0 {
		list = append(list, kind{name: "RAID (mdadm 1.0)", magic: "\xfc\x4e\x2b\xa9", at: at, id: at + 16, idBytes: 16})
	}
	if at := size&^(64<<10-1) - 64<<10; at > 0 {
		list = append(list, kind{name: "RAID (mdadm 0.90)", magic: "\xfc\x4e\x2b\xa9", at: at, id: at + 20, idBytes: 4})
	}
	return list
}

// zfs looks for uberblocks, which lie in the second half of each of four labels of 256 KiB: two at the beginning, two at
// the end (ZFS On-Disk Specification, section 1.2 and 1.3). Their magic is in the byte order of who wrote it.
func zfs(bytesAt func(int64, int) []byte, size int64) (int64, bool) {
	const label = 256 << 10
	end := size / label * label
	for _, at := range []int64{0, label, end - 2*label, end - label} {
		if at < 0 {
			continue
		}
		for block := at + label/2; block < at+label; block += 1024 {
			b := bytesAt(block, 8)
			if b == nil {
				continue
			}
			if binary.LittleEndian.Uint64(b) == 0x00bab10c || binary.BigEndian.Uint64(b) == 0x00bab10c {
				return block, true
			}
		}
	}
	return 0, false
}

func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
