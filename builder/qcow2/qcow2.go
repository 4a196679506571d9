// Package qcow2 writes disk images as QEMU's qcow2, version 3 (QEMU's docs/interop/qcow2.txt): for virtual machines that
// are to keep what they write. Equal images give equal bytes.
//
// It writes, and reads what it has written: clusters are neither compressed nor encrypted, and there are no snapshots and no backing file.
package qcow2

import (
	"encoding/binary"
	"fmt"
	"io"
)

const (
	clusterBits = 16
	clusterSize = 1 << clusterBits
	entries     = clusterSize / 8 // of an L1 or L2 table, or the refcount table, in a cluster
	refcounts   = clusterSize / 2 // of 16 bits, in a refcount block
	headerSize  = 104             // bytes of a header of version 3
	copied      = 1 << 63         // a cluster that nothing else refers to
)

// maxSize of an image in bytes: its L1 table stays within a few clusters.
const maxSize = 1 << 46

// layout is where everything lies, in clusters: header, refcount table, refcount blocks, L1 table, L2 tables, data.
type layout struct {
	size                               int64   // of the image in bytes
	data                               []int64 // the image's clusters that hold data, in order
	tables                             []int64 // L1's entries that have an L2 table
	refTable, refBlocks, l1, l2, first int64   // where these begin
	end                                int64
}

// Write writes an image of size bytes. Mapped tells whether any of size bytes at an offset may be other than zero; what
// is not mapped is neither read nor kept.
func Write(w io.Writer, image io.ReaderAt, size int64, mapped func(at, size int64) bool) error {
	if err := write(w, image, size, mapped); err != nil {
		return fmt.Errorf("cannot write qcow2 image: %w", err)
	}
	return nil
}

func write(w io.Writer, image io.ReaderAt, size int64, mapped func(at, size int64) bool) error {
	if size <= 0 || size > maxSize || size%512 != 0 {
		return fmt.Errorf("an image of %d bytes is not whole sectors up to %d bytes", size, int64(maxSize))
	}
	l := plan(size, mapped)
	for _, part := range []func() []byte{l.header, l.refcountTable, l.refcountBlocks, l.l1Table, l.l2Tables} {
		if _, err := w.Write(part()); err != nil {
			return err
		}
	}
	buf := make([]byte, clusterSize)
	for _, c := range l.data {
		n := min(size-c*clusterSize, clusterSize)
		clear(buf[n:])
		if _, err := image.ReadAt(buf[:n], c*clusterSize); err != nil {
			return err
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

func up(n, by int64) int64 { return (n + by - 1) / by }

func plan(size int64, mapped func(at, size int64) bool) layout {
	l := layout{size: size}
	for c := range up(size, clusterSize) {
		if !mapped(c*clusterSize, min(size-c*clusterSize, clusterSize)) {
			continue
		}
		l.data = append(l.data, c)
		if table := c / entries; len(l.tables) == 0 || l.tables[len(l.tables)-1] != table {
			l.tables = append(l.tables, table)
		}
	}
	// Refcount blocks count themselves too: their number grows until it is enough.
	rest := up(l.l1Entries(), entries) + int64(len(l.tables)+len(l.data))
	blocks := int64(1)
	for 1+up(blocks, entries)+blocks+rest > blocks*refcounts {
		blocks++
	}
	l.refTable = 1
	l.refBlocks = l.refTable + up(blocks, entries)
	l.l1 = l.refBlocks + blocks
	l.l2 = l.l1 + up(l.l1Entries(), entries)
	l.first = l.l2 + int64(len(l.tables))
	l.end = l.first + int64(len(l.data))
	return l
}

func (l layout) l1Entries() int64 { return up(l.size, entries*clusterSize) }

func (l layout) header() []byte {
	b := make([]byte, clusterSize)
	be := binary.BigEndian
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], clusterBits)
	be.PutUint64(b[24:], uint64(l.size))
	be.PutUint32(b[36:], uint32(l.l1Entries()))
	be.PutUint64(b[40:], uint64(l.l1*clusterSize))
	be.PutUint64(b[48:], uint64(l.refTable*clusterSize))
	be.PutUint32(b[56:], uint32(l.refBlocks-l.refTable))
	be.PutUint32(b[96:], 4) // refcounts of 1 << 4 bits
	be.PutUint32(b[100:], headerSize)
	return b // zeros after it are the end of header extensions
}

// table is numbers of 64 bits, filled up to whole clusters.
func table(numbers []uint64, clusters int64) []byte {
	b := make([]byte, clusters*clusterSize)
	for i, n := range numbers {
		binary.BigEndian.PutUint64(b[8*i:], n)
	}
	return b
}

func (l layout) refcountTable() []byte {
	var list []uint64
	for c := l.refBlocks; c < l.l1; c++ {
		list = append(list, uint64(c*clusterSize))
	}
	return table(list, l.refBlocks-l.refTable)
}

// refcountBlocks say that every cluster is referred to once.
func (l layout) refcountBlocks() []byte {
	b := make([]byte, (l.l1-l.refBlocks)*clusterSize)
	for c := range l.end {
		b[2*c+1] = 1
	}
	return b
}

func (l layout) l1Table() []byte {
	list := make([]uint64, l.l1Entries())
	for i, t := range l.tables {
		list[t] = copied | uint64((l.l2+int64(i))*clusterSize)
	}
	return table(list, l.l2-l.l1)
}

func (l layout) l2Tables() []byte {
	list := make([]uint64, int64(len(l.tables))*entries)
	t := 0
	for i, c := range l.data {
		if l.tables[t] != c/entries {
			t++
		}
		list[int64(t)*entries+c%entries] = copied | uint64((l.first+int64(i))*clusterSize)
	}
	return table(list, int64(len(l.tables)))
}
