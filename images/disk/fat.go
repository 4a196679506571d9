package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// A reader of FAT32 (Microsoft, "FAT32 File System Specification" 1.03). It reads foreign devices, so it believes
// nothing: every length is bounded before it is used, and every chain ends.

// Offsets in the boot sector and in directory records.
const (
	bootHidden   = 28 // sectors before the volume, 32 bits
	bootVolumeID = 67 // 32 bits

	recordSize  = 32
	nameParts   = 20 // records of one long name
	recordShort = 11 // bytes of a short name

	attrLabel     = 0x08
	attrDirectory = 0x10
	attrLongName  = 0x0f

	endOfChain = 0x0ffffff8
	clusterMin = 2
	fat32Min   = 65525 // fewer clusters are FAT16 to firmware (section "FAT Type Determination")
)

// Bounds of what is read of a foreign file system.
const (
	maxRecords = 1 << 16 // of the whole volume
	maxDepth   = 16
)

// errFAT is what errors about a file system that cannot be read wrap.
var errFAT = errors.New("not a FAT32 file system")

// fat is a FAT32 volume.
type fat struct {
	r        io.ReaderAt // of the volume
	sector   int64       // bytes
	cluster  int64       // bytes
	tables   int64       // offset of the first table
	table    int64       // bytes of a table
	copies   int64       // of the table
	data     int64       // offset of cluster 2
	clusters uint32
	root     uint32 // cluster of the root directory
	info     int64  // sector numbers
	backup   int64
	records  int // how many were read
}

// openFAT reads the boot sector of a volume of size bytes.
func openFAT(r io.ReaderAt, size int64) (*fat, error) {
	boot := make([]byte, 512)
	if _, err := r.ReadAt(boot, 0); err != nil {
		return nil, fmt.Errorf("cannot read boot sector: %w", err)
	}
	if boot[510] != 0x55 || boot[511] != 0xaa {
		return nil, fmt.Errorf("%w: no signature", errFAT)
	}
	short := func(at int) int64 { return int64(binary.LittleEndian.Uint16(boot[at:])) }
	long := func(at int) int64 { return int64(binary.LittleEndian.Uint32(boot[at:])) }
	f := &fat{r: r, sector: short(11), root: uint32(long(44)), info: short(48), backup: short(50)}
	f.cluster = int64(boot[13]) * f.sector
	f.tables, f.table, f.copies = short(14)*f.sector, long(36)*f.sector, int64(boot[16])
	f.data = f.tables + f.copies*f.table
	total := long(32) * f.sector
	switch {
	case f.sector < 512 || f.sector > 4096 || f.sector&(f.sector-1) != 0 || f.cluster == 0 || f.cluster > 1<<20:
		return nil, fmt.Errorf("%w: sectors of %d bytes, clusters of %d", errFAT, f.sector, f.cluster)
	case short(17) != 0 || short(22) != 0 || f.tables == 0 || f.table == 0 || f.copies < 1 || f.copies > 2:
		return nil, fmt.Errorf("%w: it is one of another kind", errFAT)
	case total > size || f.data >= total:
		return nil, fmt.Errorf("%w: %d bytes with data from %d on, in a partition of %d", errFAT, total, f.data, size)
	}
	n := (total - f.data) / f.cluster
	if n < fat32Min || (n+clusterMin)*4 > f.table {
		return nil, fmt.Errorf("%w: %d clusters, and a table for %d", errFAT, n, f.table/4-clusterMin)
	}
	f.clusters = uint32(n)
	return f, nil
}

// offset is where a cluster lies in the volume.
func (f *fat) offset(cluster uint32) (int64, error) {
	if cluster < clusterMin || cluster-clusterMin >= f.clusters {
		return 0, fmt.Errorf("%w: no cluster %d", errFAT, cluster)
	}
	return f.data + int64(cluster-clusterMin)*f.cluster, nil
}

// next is what the table says about a cluster.
func (f *fat) next(cluster uint32) (uint32, error) {
	var b [4]byte
	if _, err := f.r.ReadAt(b[:], f.tables+int64(cluster)*4); err != nil {
		return 0, fmt.Errorf("cannot read allocation table: %w", err)
	}
	return binary.LittleEndian.Uint32(b[:]) & 0x0fffffff, nil
}

// record is a directory record that is no part of a long name, and not free.
type record struct {
	path      string // from the root directory, with slashes; of "." and "..": their directory's with it
	raw       [recordSize]byte
	at        int64  // where the record lies in the volume
	directory uint32 // cluster of the directory it is in
	parent    uint32 // cluster of the directory that one is in; 0 above the root
}

func (r *record) name() string      { return r.path[strings.LastIndexByte(r.path, '/')+1:] }
func (r *record) is(attr byte) bool { return r.raw[11]&attr != 0 }
func (r *record) size() int64       { return int64(binary.LittleEndian.Uint32(r.raw[28:])) }
func (r *record) cluster() uint32 {
	return uint32(binary.LittleEndian.Uint16(r.raw[20:]))<<16 | uint32(binary.LittleEndian.Uint16(r.raw[26:]))
}

// walk visits all records, a directory before what is in it.
func (f *fat) walk(visit func(record) error) error {
	f.records = 0
	return f.directory("", f.root, 0, 0, visit)
}

func (f *fat) directory(path string, cluster, parent uint32, depth int, visit func(record) error) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: directories more than %d deep", errFAT, maxDepth)
	}
	var found []record
	var name longName
	for at := cluster; at < endOfChain; {
		end, err := f.read(path, at, &name, func(r record) { r.directory, r.parent = cluster, parent; found = append(found, r) })
		if err != nil {
			return fmt.Errorf("directory %q: %w", path, err)
		}
		if end {
			break
		}
		if at, err = f.next(at); err != nil {
			return err
		}
	}
	for _, r := range found {
		if err := visit(r); err != nil {
			return err
		}
		if r.is(attrDirectory) && !r.is(attrLabel) && r.name() != "." && r.name() != ".." {
			if err := f.directory(r.path, r.cluster(), cluster, depth+1, visit); err != nil {
				return err
			}
		}
	}
	return nil
}

// read reads one cluster of a directory; end tells that its last record was met.
func (f *fat) read(path string, cluster uint32, name *longName, found func(record)) (end bool, err error) {
	at, err := f.offset(cluster)
	if err != nil {
		return false, err
	}
	data := make([]byte, f.cluster)
	if _, err := f.r.ReadAt(data, at); err != nil {
		return false, err
	}
	for i := int64(0); i+recordSize <= f.cluster; i += recordSize {
		if f.records++; f.records > maxRecords {
			return false, fmt.Errorf("%w: more than %d directory records", errFAT, maxRecords)
		}
		r := record{raw: [recordSize]byte(data[i:]), at: at + i}
		switch {
		case r.raw[0] == 0:
			return true, nil
		case r.raw[0] == 0xe5:
			*name = longName{}
		case r.raw[11]&0x3f == attrLongName:
			name.add(r.raw)
		default:
			r.path = strings.TrimPrefix(path+"/"+name.take(r.raw), "/")
			found(r)
		}
	}
	return false, nil
}

// longName collects the records of a long name, which come last part first.
type longName struct {
	units []uint16
	left  byte // parts that are still to come
	sum   byte // of the short name it belongs to
}

func (n *longName) add(raw [recordSize]byte) {
	number := raw[0] & 0x3f
	if raw[0]&0x40 != 0 && number >= 1 && number <= nameParts {
		*n = longName{left: number, sum: raw[13]}
	} else if n.left == 0 || number != n.left || raw[13] != n.sum {
		*n = longName{}
		return
	}
	n.left--
	var part []uint16
	for _, i := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
		part = append(part, binary.LittleEndian.Uint16(raw[i:]))
	}
	n.units = append(part, n.units...)
	if n.left == 0 {
		n.left = 0xff // whole
	}
}

// take is the name of a record: the long one if it is whole and belongs to it.
func (n *longName) take(raw [recordSize]byte) string {
	defer func() { *n = longName{} }()
	var sum byte
	for _, b := range raw[:recordShort] {
		sum = sum>>1 | sum<<7
		sum += b
	}
	if n.left != 0xff || n.sum != sum {
		return shortName(raw)
	}
	for i, u := range n.units {
		if u == 0 {
			n.units = n.units[:i]
			break
		}
	}
	return clean(string(utf16.Decode(n.units)))
}

func shortName(raw [recordSize]byte) string {
	name, ext := strings.TrimRight(string(raw[:8]), " "), strings.TrimRight(string(raw[8:recordShort]), " ")
	if ext != "" && raw[11]&attrLabel == 0 {
		return clean(name + "." + ext)
	}
	return clean(name + ext)
}

// clean replaces what has no place in a name, so that a path has the parts that it seems to have.
func clean(name string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == '/' || r == '\\' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(name, "?"))
}

// content is a file's bytes: the runs of its clusters, of which there are as many as its size needs.
func (f *fat) content(r record) (io.Reader, error) {
	var runs []io.Reader
	var at, size int64 // the run that is being collected
	if r.size() > int64(f.clusters)*f.cluster {
		return nil, fmt.Errorf("%w: a file of %d bytes", errFAT, r.size())
	}
	cluster := r.cluster()
	for left := r.size(); left > 0; left -= f.cluster {
		offset, err := f.offset(cluster)
		if err != nil {
			return nil, err
		}
		if size > 0 && offset != at+size {
			runs, size = append(runs, io.NewSectionReader(f.r, at, size)), 0
		}
		if size == 0 {
			at = offset
		}
		size += min(f.cluster, left)
		if cluster, err = f.next(cluster); err != nil {
			return nil, err
		}
	}
	return io.MultiReader(append(runs, io.NewSectionReader(f.r, at, size))...), nil
}
