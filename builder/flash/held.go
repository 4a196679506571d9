package flash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

// held is a part of the image that is kept in memory until its time has come.
type held struct {
	at   int64
	data []byte
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
