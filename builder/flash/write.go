package flash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

// frameSize is how many bytes at an image's begin and end are written last. All partitions lie between.
const frameSize = 1 * mib

// buffers are in flight at a time: one is read, one hashed, one written, one waits.
const buffers = 4

// held is a part of the image that is kept in memory until its time has come.
type held struct {
	at   int64
	data []byte
}

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

// take takes a piece of the image: to the target, or to what is held back.
func (w *writer) take(p piece) error {
	for p.size > 0 {
		if !w.begun && p.at >= frameSize {
			if err := w.begin(); err != nil {
				return err
			}
		}
		keep, size := w.holds(p.at)
		now := piece{p.at, min(p.size, size), nil}
		if p.data != nil {
			now.data, p.data = p.data[:now.size], p.data[now.size:]
		}
		p.at, p.size = p.at+now.size, p.size-now.size
		if keep != nil {
			copy(keep.data[now.at-keep.at:], now.data) // of zeros nothing: it is zeros
			continue
		}
		if err := w.put(now); err != nil {
			return err
		}
	}
	return nil
}

// holds is what is held back at an offset (nil: nothing), and for how many bytes that holds.
func (w *writer) holds(at int64) (*held, int64) {
	next := w.Image.Size
	for _, h := range []*held{w.head, w.place, w.tail} {
		switch {
		case h == nil:
		case at >= h.at && at < h.at+int64(len(h.data)):
			return h, h.at + int64(len(h.data)) - at
		case at < h.at:
			next = min(next, h.at)
		}
	}
	return nil, next - at
}

// begin looks at the image's partition table before the first byte is written, and takes away that of the target: from
// here on nothing that was there before is found any more.
func (w *writer) begin() error {
	d, err := disk.Read(bytes.NewReader(w.head.data), w.Image.Size)
	if err != nil {
		return fmt.Errorf("that is no disk image: %w", err)
	}
	if w.Target.Device && d.SectorSize != w.Target.SectorSize {
		return fmt.Errorf("the image is for sectors of %d bytes, and the device has %d", d.SectorSize, w.Target.SectorSize)
	}
	if err := w.findPlace(d); err != nil {
		return err
	}
	w.begun = true
	if err := w.Target.begin(w.Image.Size); err != nil || !w.Target.Device {
		return err
	}
	end := w.Target.Size / block * block
	for _, at := range []int64{0, max(end-frameSize, 0)} {
		if err := w.overwrite(at, min(frameSize, end-at)); err != nil {
			return err
		}
	}
	if rest := w.Target.Size - end; rest > 0 {
		if err := w.Target.writeAt(w.zeros[:rest], end); err != nil {
			return err
		}
	}
	return w.Target.sync()
}

// findPlace finds the configuration place.
func (w *writer) findPlace(d *disk.Disk) error {
	p, ok := d.Partition(bootspec.LabelConfig)
	switch {
	case !ok && w.Config != nil:
		return errors.New("the image has no place for a node's configuration: bake it again with this slipway")
	case !ok:
		return nil
	case p.Size != bootspec.ConfigPlaceSize || p.Start < frameSize || p.Start+p.Size > w.tail.at || p.Start%grain != 0:
		return fmt.Errorf("the image's place for a node's configuration is wrong: %d bytes at byte %d", p.Size, p.Start)
	}
	w.place = &held{p.Start, w.part((buffers+2)*chunkSize+2*frameSize, bootspec.ConfigPlaceSize)}
	return nil
}

// put brings a piece to the target, and leaves out its zeros.
func (w *writer) put(p piece) error {
	if p.data == nil {
		return w.putZeros(p.at, p.size)
	}
	for start := int64(0); start < p.size; {
		end := start
		for end < p.size && !w.empty(p.data[end:]) {
			end = min(end+grain, p.size)
		}
		if end > start {
			if err := w.putData(p.data[start:end], p.at+start); err != nil {
				return err
			}
		}
		start = end
		for end < p.size && w.empty(p.data[end:]) {
			end = min(end+grain, p.size)
		}
		if err := w.putZeros(p.at+start, end-start); err != nil {
			return err
		}
		start = end
	}
	return nil
}

// empty tells whether data begins with a grain of zeros, or is zeros up to its end.
func (w *writer) empty(data []byte) bool {
	n := min(len(data), grain)
	return bytes.Equal(data[:n], w.zeros[:n])
}

func (w *writer) putData(data []byte, at int64) error {
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.Target.writeAt(data, at); err != nil {
		return err
	}
	w.marks = append(w.marks, mark{at: at, size: int64(len(data)), sum: maphash.Bytes(w.seed, data)})
	w.result.Written += int64(len(data))
	return nil
}

// putZeros notes zeros; they are made when it is known how far they go.
func (w *writer) putZeros(at, size int64) error {
	if size == 0 {
		return nil
	}
	if w.hole.size > 0 && w.hole.at+w.hole.size == at {
		w.hole.size += size
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.hole = piece{at: at, size: size}
	return nil
}

// flush makes the zeros that were noted.
func (w *writer) flush() error {
	p := w.hole
	w.hole = piece{}
	if p.size == 0 {
		return nil
	}
	w.marks = append(w.marks, mark{at: p.at, size: p.size, zeros: true})
	w.result.Zeroed += p.size
	if !w.Target.Device {
		return nil // a new file is zeros where nothing was written
	}
	if ok, err := w.Target.punch(p.at, p.size); ok || err != nil {
		return err
	}
	return w.overwrite(p.at, p.size)
}

// overwrite makes zeros by writing them where there are none: reading is faster than writing on every stick.
func (w *writer) overwrite(at, size int64) error {
	for end := at + size; at < end; {
		n := room(at, end)
		if err := w.Target.readAt(w.spare[:n], at); err != nil {
			return err
		}
		if !bytes.Equal(w.spare[:n], w.zeros[:n]) {
			if err := w.Target.writeAt(w.zeros[:n], at); err != nil {
				return err
			}
		}
		at += n
	}
	return nil
}

// placeConfig puts the node's configuration into its place.
func (w *writer) placeConfig(context.Context) error {
	if w.place == nil {
		return nil
	}
	if w.Config != nil {
		if err := bootspec.WriteConfig(memory(w.place.data), *w.Config, nil); err != nil {
			return err
		}
	}
	return w.put(piece{w.place.at, int64(len(w.place.data)), w.place.data})
}

// writeFrame writes the partition tables, the backup first.
func (w *writer) writeFrame(context.Context) error {
	w.framed = true
	for _, h := range []*held{w.tail, w.head} {
		if err := w.put(piece{h.at, int64(len(h.data)), h.data}); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) publish(context.Context) error { return w.Target.publish() }

// state says what an error leaves on the device, for whoever stands before it.
func (w *writer) state() error {
	switch {
	case !w.Target.Device:
		return nil
	case !w.begun:
		return errors.New("nothing was written: the device is as it was")
	case w.framed:
		return errors.New("the device holds an image that is not whole: do not use it, run the same command again")
	}
	return errors.New("the device does not boot now: run the same command again")
}

// memory is a configuration place that is not on the device yet.
type memory []byte

func (m memory) ReadAt(p []byte, at int64) (int, error) {
	return bytes.NewReader(m).ReadAt(p, at)
}

func (m memory) WriteAt(p []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(p)) > int64(len(m)) {
		return 0, io.ErrShortWrite
	}
	return copy(m[at:], p), nil
}
