package flash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sort"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/slipway-os/slipway/builder/blockmap"
)

// input is an image's bytes, or its file's, in order.
type input interface {
	io.ReadCloser
	skip(n int64) error
	// run is where the next bytes that are no hole begin and end, at or after an offset; an input that doesn't know takes
	// everything for data. It does not change what is read next.
	run(at, size int64) (start, end int64, err error)
}

// image is the source of an input's image.
type image struct {
	in       input
	at, size int64
	dataEnd  int64                                              // where the data that begins at or before at ends
	run      func(at, size int64) (start, end int64, err error) // of data
	done     func() error                                       // what is to be verified when all was read
}

func (i *image) next(ctx context.Context, buf []byte) (piece, error) {
	if err := ctx.Err(); err != nil {
		return piece{}, err
	}
	if i.at == i.size {
		if err := i.done(); err != nil {
			return piece{}, err
		}
		return piece{}, io.EOF
	}
	p := piece{at: i.at}
	if i.at >= i.dataEnd {
		start, end, err := i.run(i.at, i.size)
		if err != nil {
			return piece{}, err
		}
		i.dataEnd = end
		if p.size = min(start-i.at, holeMax); p.size == holeMax {
			i.dataEnd = 0 // ask again: the hole may go on
		}
	}
	if p.size > 0 {
		i.at += p.size
		return p, i.in.skip(p.size)
	}
	p.size = room(i.at, i.dataEnd)
	p.data = buf[:p.size]
	n, err := io.ReadFull(i.in, p.data)
	if err == io.EOF || err == io.ErrUnexpectedEOF { // as they are: a download that broke off wraps one
		return piece{}, fmt.Errorf("%w: it ends at byte %d of %d", ErrDigest, i.at+int64(n), i.size)
	}
	i.at += p.size
	return p, err
}

func (i *image) Close() error { return i.in.Close() }

// mapped is run as a block map has it.
func mapped(m *blockmap.Map) func(at, size int64) (start, end int64, err error) {
	return func(at, size int64) (int64, int64, error) {
		i := sort.Search(len(m.Ranges), func(i int) bool { _, end := m.Bytes(m.Ranges[i]); return end > at })
		if i == len(m.Ranges) {
			return size, size, nil
		}
		start, end := m.Bytes(m.Ranges[i])
		return max(start, at), end, nil
	}
}

// unpacked is what is in a zstd file.
type unpacked struct {
	*zstd.Decoder
	from *remembering
}

// remembering is an input that remembers that reading it failed: the decoder reads ahead.
type remembering struct {
	input
	failed atomic.Bool
}

func (r *remembering) Read(p []byte) (int, error) {
	n, err := r.input.Read(p)
	if err != nil && err != io.EOF {
		r.failed.Store(true)
	}
	return n, err
}

// maxWindow bounds the memory that a packed image makes us take, in bytes.
const maxWindow = 128 << 20

func unpack(from input) (*unpacked, error) {
	r := &remembering{input: from}
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return &unpacked{z, r}, nil
}

// Read takes what the decoder doesn't like for damage, unless what it read from failed: many of its errors have no name.
func (u *unpacked) Read(p []byte) (int, error) {
	n, err := u.Decoder.Read(p)
	switch {
	case err == nil || err == io.EOF || u.from.failed.Load():
	case err == io.ErrUnexpectedEOF:
		err = fmt.Errorf("%w: its file is cut off", ErrDigest)
	default:
		err = fmt.Errorf("%w: %w", ErrDigest, err)
	}
	return n, err
}

func (u *unpacked) skip(n int64) error {
	_, err := io.CopyN(io.Discard, struct{ io.Reader }{u}, n)
	return err
}

func (u *unpacked) run(at, size int64) (start, end int64, err error) { return at, size, nil }

func (u *unpacked) Close() error {
	u.Decoder.Close()
	return u.from.Close()
}

// contentSize is what a zstd file says that it holds, in bytes.
func contentSize(start []byte) (int64, error) {
	var h zstd.Header
	if err := h.Decode(start); err != nil {
		return 0, fmt.Errorf("%w: it is no zstd file: %w", ErrDigest, err)
	}
	if !h.HasFCS || h.FrameContentSize > 1<<46 {
		return 0, errors.New("it does not say how large the image in it is: put its manifest and its block map (.bmap) beside it")
	}
	return int64(h.FrameContentSize), nil
}

// digested is an input whose bytes are hashed as they are read.
type digested struct {
	input
	hash hash.Hash
	want string
}

func newDigested(in input, want string) *digested { return &digested{in, sha256.New(), want} }

func (d *digested) Read(p []byte) (int, error) {
	n, err := d.input.Read(p)
	d.hash.Write(p[:n])
	return n, err
}

// verify reads what is left and compares.
func (d *digested) verify() error {
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{d}); err != nil {
		return err
	}
	if got := fmt.Sprintf("%x", d.hash.Sum(nil)); got != d.want {
		return fmt.Errorf("%w: SHA-256 of its file is %s, not %s", ErrDigest, got, d.want)
	}
	return nil
}

// rangeDigests verifies what a block map says, range by range.
type rangeDigests struct {
	m    *blockmap.Map
	next int // range
	hash hash.Hash
}

func newRangeDigests(m *blockmap.Map) *rangeDigests { return &rangeDigests{m: m, hash: sha256.New()} }

func (d *rangeDigests) add(p piece) error {
	if p.data == nil {
		return nil // not mapped: zeros, whatever the file has there
	}
	r := d.m.Ranges[d.next]
	_, end := d.m.Bytes(r)
	d.hash.Write(p.data)
	if p.at+p.size < end {
		return nil
	}
	if got := fmt.Sprintf("%x", d.hash.Sum(nil)); got != r.SHA256 {
		return fmt.Errorf("%w: SHA-256 of its blocks %d to %d is %s, not %s", ErrDigest, r.First, r.Last, got, r.SHA256)
	}
	d.next++
	d.hash.Reset()
	return nil
}

func (d *rangeDigests) result() error {
	if d.next != len(d.m.Ranges) {
		return fmt.Errorf("%w: %d of %d ranges came", ErrDigest, d.next, len(d.m.Ranges))
	}
	return nil
}

// nothing is the verifier of a source that verifies itself.
type nothing struct{}

func (nothing) add(piece) error { return nil }
func (nothing) result() error   { return nil }

// start reads up to n bytes from the begin of an input.
func start(in io.Reader, n int64) ([]byte, error) {
	var b bytes.Buffer
	_, err := io.CopyN(&b, in, n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b.Bytes(), err
}
