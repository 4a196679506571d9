package flash

import (
	"bytes"
	"hash/maphash"
)

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
