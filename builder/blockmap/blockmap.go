// Package blockmap knows which blocks of a disk image hold data, and their digests: block maps as bmap-tools has them
// (bmap 2.0), so that its bmaptool reads ours.
//
// Words: a block is 4096 bytes; a mapped block is one that must be copied; a range is a run of mapped blocks. What is not
// mapped is zeros. A map says nothing of who vouches for it: whoever reads one must know its digest.
package blockmap

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"

	"golang.org/x/sys/unix"
)

// BlockSize of the maps that are made here, in bytes.
const BlockSize = 4096

// Map is an image's map.
type Map struct {
	ImageSize int64 // bytes
	BlockSize int64 // bytes, a power of two
	Ranges    []Range
}

// Range is a run of mapped blocks. The image's last block may be shorter than others.
type Range struct {
	First, Last int64  // blocks
	SHA256      string // of the range's bytes, lower case hexadecimal
}

// Bytes is where a range lies in the image.
func (m *Map) Bytes(r Range) (start, end int64) {
	return r.First * m.BlockSize, min((r.Last+1)*m.BlockSize, m.ImageSize)
}

// Mapped is how many bytes are mapped.
func (m *Map) Mapped() int64 {
	var n int64
	for _, r := range m.Ranges {
		start, end := m.Bytes(r)
		n += end - start
	}
	return n
}

// gap is how many blocks of zeros may lie within a range: shorter ones are copied faster than they are left out.
const gap = 16

// Make maps an image of size bytes. What counts is what the image holds, not how its file system keeps it: equal images
// have equal maps.
func Make(image *os.File, size int64) (*Map, error) {
	m, err := scan(image, size)
	if err != nil {
		return nil, fmt.Errorf("cannot map %s: %w", image.Name(), err)
	}
	for i, r := range m.Ranges {
		start, end := m.Bytes(r)
		h := sha256.New()
		if _, err := io.CopyBuffer(h, struct{ io.Reader }{io.NewSectionReader(image, start, end-start)}, make([]byte, 1<<20)); err != nil {
			return nil, fmt.Errorf("cannot map %s: %w", image.Name(), err)
		}
		m.Ranges[i].SHA256 = fmt.Sprintf("%x", h.Sum(nil))
	}
	return m, nil
}

func scan(image *os.File, size int64) (*Map, error) {
	m := &Map{ImageSize: size, BlockSize: BlockSize}
	buf, zeros := make([]byte, 256*BlockSize), make([]byte, BlockSize)
	for at := int64(0); at < size; {
		at = data(image, at, size)
		n := min(int64(len(buf)), size-at)
		if _, err := image.ReadAt(buf[:n], at); err != nil && (!errors.Is(err, io.EOF) || n > 0) {
			return nil, err
		}
		for i := int64(0); i < n; i += BlockSize {
			if b := buf[i:min(i+BlockSize, n)]; !bytes.Equal(b, zeros[:len(b)]) {
				m.add((at + i) / BlockSize)
			}
		}
		at += n
	}
	return m, nil
}

// add maps a block after all others.
func (m *Map) add(block int64) {
	if last := len(m.Ranges) - 1; last >= 0 && block-m.Ranges[last].Last <= gap {
		m.Ranges[last].Last = block
		return
	}
	m.Ranges = append(m.Ranges, Range{First: block, Last: block})
}

// data is where the next block begins that the file system keeps, from at on: holes need not be read.
func data(image *os.File, at, size int64) int64 {
	next, err := unix.Seek(int(image.Fd()), at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size
	case err != nil:
		return at // a file system that knows no holes
	}
	return min(next/BlockSize*BlockSize, size)
}

// Holds tells whether any of size bytes at an offset is mapped.
func (m *Map) Holds(at, size int64) bool {
	i := sort.Search(len(m.Ranges), func(i int) bool { _, end := m.Bytes(m.Ranges[i]); return end > at })
	if i == len(m.Ranges) {
		return false
	}
	start, _ := m.Bytes(m.Ranges[i])
	return start < at+size
}
