package disk

import (
	"bytes"
	"fmt"
	"io"
)

// span is a run of bytes of a file.
type span struct{ start, size int64 }

// sparse writes a stream of known length into spans of a file, one after the other, and leaves out blocks of zeros, unless the
// medium is dense.
type sparse struct {
	to    medium
	spans []span
	buf   []byte // what was taken and not written yet
	size  int64  // bytes that are wanted still
}

const (
	holeSize = 4096
	bufSize  = 1 << 20
)

func newSparse(to medium, spans ...span) *sparse {
	s := &sparse{to: to, spans: spans, buf: make([]byte, 0, bufSize)}
	for _, p := range spans {
		s.size += p.size
	}
	return s
}

// Write takes bytes; more than the spans hold are an error.
func (s *sparse) Write(p []byte) (int, error) {
	if int64(len(p)) > s.size {
		return 0, fmt.Errorf("%d bytes more than were said", int64(len(p))-s.size)
	}
	for rest := p; len(rest) > 0; {
		n := copy(s.buf[len(s.buf):cap(s.buf)], rest)
		s.buf, rest, s.size = s.buf[:len(s.buf)+n], rest[n:], s.size-int64(n)
		if len(s.buf) == cap(s.buf) {
			if err := s.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

// Close writes what is left; missing bytes are an error.
func (s *sparse) Close() error {
	if s.size > 0 {
		return fmt.Errorf("%d bytes less than were said: %w", s.size, io.ErrUnexpectedEOF)
	}
	return s.flush()
}

func (s *sparse) flush() error {
	for data := s.buf; len(data) > 0; {
		p := &s.spans[0]
		n := min(int64(len(data)), p.size)
		if s.to.dense {
			if _, err := s.to.WriteAt(data[:n], p.start); err != nil {
				return err
			}
		} else if err := writeSparse(s.to, data[:n], p.start); err != nil {
			return err
		}
		data = data[n:]
		p.start, p.size = p.start+n, p.size-n
		if p.size == 0 {
			s.spans = s.spans[1:]
		}
	}
	s.buf = s.buf[:0]
	return nil
}

// writeSparse writes data in as few pieces as its holes allow.
func writeSparse(to io.WriterAt, data []byte, at int64) error {
	var zeros [holeSize]byte
	for start := 0; start < len(data); {
		end := start
		for end < len(data) && !hole(data[end:], zeros[:]) {
			end = min(end+holeSize, len(data))
		}
		if end > start {
			if _, err := to.WriteAt(data[start:end], at+int64(start)); err != nil {
				return err
			}
		}
		for end < len(data) && hole(data[end:], zeros[:]) {
			end = min(end+holeSize, len(data))
		}
		start = end
	}
	return nil
}

func hole(data, zeros []byte) bool {
	n := min(len(data), len(zeros))
	return bytes.Equal(data[:n], zeros[:n])
}
