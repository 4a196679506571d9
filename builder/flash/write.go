package flash

import (
	"context"
	"fmt"
	"hash/maphash"
	"io"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// frameSize is how many bytes at an image's begin and end are written last. All partitions lie between.
const frameSize = 1 * mib

// buffers are in flight at a time: one is read, one hashed, one written, one waits.
const buffers = 4

// mark is what must be found on the target.
type mark struct {
	at, size int64
	sum      uint64 // of data
	zeros    bool
}

// writer is a flash at work.
type writer struct {
	Order
	memory []byte // all buffers, aligned
	zeros  []byte // chunkSize of them, aligned
	spare  []byte // chunkSize, aligned
	seed   maphash.Seed
	marks  []mark // what was written and not read back yet

	head, tail, place *held // place is the configuration's, nil when the image has none
	begun             bool  // something was written
	framed            bool  // the frame was written, or it may have been
	hole              piece // zeros that were not made yet
	taken             int64 // bytes of the image that came
	result            Result
}

func newWriter(o Order) (*writer, error) {
	if o.Image.Size < 2*frameSize {
		return nil, fmt.Errorf("an image of %d bytes has no room for partition tables", o.Image.Size)
	}
	memory, err := unix.Mmap(-1, 0, (buffers+2)*chunkSize+2*frameSize+bootspec.ConfigPlaceSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("cannot get memory for buffers: %w", err)
	}
	w := &writer{Order: o, memory: memory, seed: maphash.MakeSeed()}
	w.zeros, w.spare = w.part(buffers*chunkSize, chunkSize), w.part((buffers+1)*chunkSize, chunkSize)
	w.head = &held{0, w.part((buffers+2)*chunkSize, frameSize)}
	w.tail = &held{o.Image.Size - frameSize, w.part((buffers+2)*chunkSize+frameSize, frameSize)}
	return w, nil
}

func (w *writer) part(from, size int) []byte { return w.memory[from : from+size : from+size] }

func (w *writer) close() { unix.Munmap(w.memory) }

// copyImage copies everything but what is held back. Reading, hashing and writing go on at the same time.
func (w *writer) copyImage(ctx context.Context) error {
	src, check, err := w.Image.open(ctx)
	if err != nil {
		return err
	}
	defer src.Close()
	free := make(chan []byte, buffers)
	for i := range buffers {
		free <- w.part(i*chunkSize, chunkSize)
	}
	read, hashed := make(chan filled), make(chan filled, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { defer close(read); return readPieces(ctx, src, free, read) })
	g.Go(func() error { defer close(hashed); return hashPieces(ctx, check, read, hashed) })
	g.Go(func() error { return w.writePieces(ctx, hashed, free) })
	if err := g.Wait(); err != nil {
		return err
	}
	if w.taken != w.Image.Size {
		return fmt.Errorf("%w: it has %d bytes, not %d", ErrDigest, w.taken, w.Image.Size)
	}
	return check.result()
}

// filled is a piece and the buffer it is in.
type filled struct {
	piece
	buf []byte
}

func readPieces(ctx context.Context, src source, free <-chan []byte, out chan<- filled) error {
	for {
		var buf []byte
		select {
		case buf = <-free:
		case <-ctx.Done():
			return ctx.Err()
		}
		p, err := src.next(ctx, buf)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read the image: %w", err)
		}
		if err := send(ctx, out, filled{p, buf}); err != nil {
			return err
		}
	}
}

func hashPieces(ctx context.Context, check verifier, in <-chan filled, out chan<- filled) error {
	for p := range in {
		if err := check.add(p.piece); err != nil {
			return err
		}
		if err := send(ctx, out, p); err != nil {
			return err
		}
	}
	return nil
}

func send(ctx context.Context, out chan<- filled, p filled) error {
	select {
	case out <- p:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *writer) writePieces(ctx context.Context, in <-chan filled, free chan<- []byte) error {
	for p := range in {
		if err := ctx.Err(); err != nil {
			return err
		}
		if w.taken != p.at {
			return fmt.Errorf("the image continues at byte %d, not at %d", p.at, w.taken)
		}
		if err := w.take(p.piece); err != nil {
			return err
		}
		w.taken += p.size
		free <- p.buf
		w.Progress(Progress{PhaseWrite, w.taken, w.Image.Size})
	}
	return nil
}

// state says what an error leaves on the device, for whoever stands before it.
func (w *writer) state() string {
	switch {
	case !w.Target.Device:
		return ""
	case !w.begun:
		return "nothing was written: the device is as it was"
	case w.framed:
		return "the device holds an image that is not whole: do not use it, run the same command again"
	}
	return "the device does not boot now: run the same command again"
}
