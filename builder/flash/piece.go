package flash

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
)

const (
	mib       = 1 << 20
	chunkSize = 4 * mib  // bytes that are read, hashed and written at once
	grain     = 64 << 10 // runs of zeros are looked for in such steps: shorter ones are written faster than left out
	holeMax   = 64 * mib // a longer hole is several pieces, so that progress is seen
	block     = 4096     // what direct access wants addresses, offsets and lengths to be multiples of
)

// piece is a part of an image.
type piece struct {
	at, size int64
	data     []byte // nil: zeros
}

// source yields an image's pieces, in order and without gaps from 0 on. They start at multiples of block.
type source interface {
	// next is the next piece; data is read into buf (chunkSize bytes) and is its memory. io.EOF comes after the last one,
	// and only when everything that the source can verify is right.
	next(ctx context.Context, buf []byte) (piece, error)
	Close() error
}

// verifier sees all pieces in order and tells at the end, or before, that they are not what was promised.
type verifier interface {
	add(piece) error
	result() error
}

// ErrDigest is what errors about an image that is not what was promised wrap.
var ErrDigest = errors.New("the image is damaged or is another one")

// wholeDigest is the SHA-256 of all bytes, holes too.
type wholeDigest struct {
	hash hash.Hash
	size int64
	want string // lower case, hexadecimal
}

func newWholeDigest(want string) *wholeDigest { return &wholeDigest{hash: sha256.New(), want: want} }

func (d *wholeDigest) add(p piece) error {
	d.size += p.size
	hashPiece(d.hash, p)
	return nil
}

func (d *wholeDigest) result() error {
	if got := fmt.Sprintf("%x", d.hash.Sum(nil)); got != d.want {
		return fmt.Errorf("%w: SHA-256 of its %d bytes is %s, not %s", ErrDigest, d.size, got, d.want)
	}
	return nil
}

func hashPiece(h hash.Hash, p piece) {
	if p.data != nil {
		h.Write(p.data)
		return
	}
	var zeros [grain]byte
	for left := p.size; left > 0; left -= min(left, grain) {
		h.Write(zeros[:min(left, grain)])
	}
}

// room is how many bytes a piece at an offset may have: pieces end where chunks end.
func room(at, end int64) int64 { return min(end, (at/chunkSize+1)*chunkSize) - at }
