package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrFormat is what errors about an image that this package didn't write wrap.
var ErrFormat = errors.New("not a qcow2 image of this kind")

// reader is an image in a qcow2 file.
type reader struct {
	r    io.ReaderAt
	file int64 // bytes of the file
	size int64 // bytes of the image
	l1   []byte
	// l2 is the table that was used last, and at its place in the file.
	l2 []byte
	at int64
}

// Open reads an image that Write has written, from a file of length bytes; what isn't mapped are zeros. Size is the image's, in bytes. It
// may not be used by several goroutines.
func Open(r io.ReaderAt, length int64) (image io.ReaderAt, size int64, err error) {
	o, err := open(r, length)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read qcow2 image: %w", err)
	}
	return o, o.size, nil
}

func open(r io.ReaderAt, length int64) (*reader, error) {
	head := make([]byte, headerSize)
	if _, err := r.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("%w: it ends within its header", ErrFormat)
	}
	be := binary.BigEndian
	size, entry, at := be.Uint64(head[24:]), int64(be.Uint32(head[36:])), be.Uint64(head[40:])
	switch {
	case string(head[:4]) != "QFI\xfb" || be.Uint32(head[4:]) != 3 || be.Uint32(head[20:]) != clusterBits:
		return nil, fmt.Errorf("%w: another version or cluster size", ErrFormat)
	case be.Uint64(head[8:]) != 0 || be.Uint32(head[32:]) != 0 || be.Uint32(head[60:]) != 0 || be.Uint64(head[72:]) != 0:
		return nil, fmt.Errorf("%w: a backing file, encryption, snapshots or features", ErrFormat)
	case size == 0 || size > maxSize || entry != up(int64(size), entries*clusterSize):
		return nil, fmt.Errorf("%w: %d bytes with a table of %d", ErrFormat, size, entry)
	case at > uint64(length) || entry*8 > length-int64(at):
		return nil, fmt.Errorf("%w: a table at byte %d of %d", ErrFormat, at, length)
	}
	o := &reader{r: r, file: length, size: int64(size), l1: make([]byte, entry*8)}
	_, err := r.ReadAt(o.l1, int64(at))
	return o, err
}

// ReadAt reads the image (io.ReaderAt).
func (o *reader) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 {
		return 0, fmt.Errorf("cannot read at byte %d", at)
	}
	n := 0
	for n < len(p) && at < o.size {
		part := p[n:min(int64(len(p)), int64(n)+clusterSize-at%clusterSize, int64(n)+o.size-at)]
		cluster, err := o.cluster(at / clusterSize)
		switch {
		case err != nil:
			return n, err
		case cluster == 0:
			clear(part)
		default:
			if _, err := o.r.ReadAt(part, cluster+at%clusterSize); err != nil {
				return n, fmt.Errorf("cannot read qcow2 image: %w", err)
			}
		}
		n, at = n+len(part), at+int64(len(part))
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// cluster is where a cluster of the image lies in the file, 0 when it is none.
func (o *reader) cluster(c int64) (int64, error) {
	table, err := o.place(o.l1[c/entries*8:])
	if err != nil || table == 0 {
		return 0, err
	}
	if o.at != table {
		o.at, o.l2 = 0, make([]byte, clusterSize)
		if _, err := o.r.ReadAt(o.l2, table); err != nil {
			return 0, fmt.Errorf("cannot read qcow2 image: %w", err)
		}
		o.at = table
	}
	return o.place(o.l2[c%entries*8:])
}

// place is a table's entry as a place in the file, of a whole cluster.
func (o *reader) place(entry []byte) (int64, error) {
	n := binary.BigEndian.Uint64(entry)
	if n == 0 {
		return 0, nil
	}
	at := int64(n &^ copied)
	if n&copied == 0 || at%clusterSize != 0 || at > o.file-clusterSize {
		return 0, fmt.Errorf("cannot read qcow2 image: %w: a table's entry %#x", ErrFormat, n)
	}
	return at, nil
}
