package disk

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/diskfs/go-diskfs/backend"
)

// medium is what is written: an empty file, where what is not written reads as zeros, or (dense) a device with anything
// on it.
type medium struct {
	image
	dense bool
}

type image interface {
	io.ReaderAt
	io.WriterAt
}

// zero writes zeros over a range.
func (m medium) zero(at, size int64) error {
	zeros := make([]byte, min(size, bufSize))
	for size > 0 {
		n := min(size, int64(len(zeros)))
		if _, err := m.WriteAt(zeros[:n], at); err != nil {
			return err
		}
		at, size = at+n, size-n
	}
	return nil
}

// storage is a medium as go-diskfs wants it. It has no Sync: the library would flush the device after each table.
type storage struct {
	medium
	// reserving drops writes of nothing but zeros. go-diskfs gives a file clusters only by writing it, cluster by
	// cluster; so zeros are written to where nothing has been yet, and the content goes there straight afterwards.
	reserving bool
}

var _ backend.Storage = (*storage)(nil)

func (s *storage) WriteAt(p []byte, at int64) (int, error) {
	if s.reserving && allZero(p) {
		return len(p), nil
	}
	return s.medium.WriteAt(p, at)
}

func allZero(p []byte) bool {
	var zeros [holeSize]byte
	for len(p) > 0 {
		n := min(len(p), len(zeros))
		if !bytes.Equal(p[:n], zeros[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

func (s *storage) Writable() (backend.WritableFile, error) { return s, nil }
func (s *storage) Path() string                            { return "" }
func (s *storage) Close() error                            { return nil }

// The rest is for devices and streams; what writes an image needs none of it.

func (s *storage) Sys() (*os.File, error)         { return nil, errors.ErrUnsupported }
func (s *storage) Stat() (fs.FileInfo, error)     { return nil, errors.ErrUnsupported }
func (s *storage) Read([]byte) (int, error)       { return 0, errors.ErrUnsupported }
func (s *storage) Seek(int64, int) (int64, error) { return 0, errors.ErrUnsupported }
