package flash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
)

// ErrReadBack is what errors about a target that does not hold what was written to it wrap.
var ErrReadBack = errors.New("what was written is not what is read back")

// readBack makes durable what was written since the last time, reads it from the target and compares.
func (w *writer) readBack(ctx context.Context) error {
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.Target.sync(); err != nil {
		return err
	}
	var done, total int64
	for _, m := range w.marks {
		total += m.size
	}
	for _, m := range w.marks {
		if err := w.compare(ctx, m, func(n int64) { done += n; w.Progress(Progress{PhaseCheck, done, total}) }); err != nil {
			return err
		}
	}
	w.marks = w.marks[:0]
	return nil
}

func (w *writer) compare(ctx context.Context, m mark, done func(int64)) error {
	for at, end := m.at, m.at+m.size; at < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := end - at // data of a mark was one piece
		if m.zeros {
			n = room(at, end)
		}
		data := w.spare[:n]
		if err := w.Target.readAt(data, at); err != nil {
			return err
		}
		if m.zeros && !bytes.Equal(data, w.zeros[:n]) || !m.zeros && maphash.Bytes(w.seed, data) != m.sum {
			return fmt.Errorf("%w, between bytes %d and %d: the device is broken or smaller than it says: use another one", ErrReadBack, at, at+n)
		}
		at += n
		done(n)
	}
	return nil
}
