package publish

import (
	"bytes"
	"os"
)

// Sparse writes a file in order and leaves out blocks of zeros, as disk images have many of.
type Sparse struct {
	file *os.File
	at   int64
}

const block = 4096 // bytes of zeros that are left out

var zeros [block]byte

// NewSparse goes on at an offset, behind which the file has no data yet.
func NewSparse(file *os.File, at int64) *Sparse { return &Sparse{file, at} }

func (s *Sparse) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		size, data := s.run(p[written:])
		if data {
			if _, err := s.file.WriteAt(p[written:written+size], s.at); err != nil {
				return written, err
			}
		}
		s.at += int64(size)
		written += size
	}
	return written, nil
}

// run is how many of the next bytes are data, or are not.
func (s *Sparse) run(p []byte) (size int, data bool) {
	for size < len(p) {
		n := min(len(p)-size, block-int((s.at+int64(size))%block))
		d := !bytes.Equal(p[size:size+n], zeros[:n])
		if size > 0 && d != data {
			break
		}
		data = d
		size += n
	}
	return size, data
}

// End gives the file its length.
func (s *Sparse) End() error { return s.file.Truncate(s.at) }
