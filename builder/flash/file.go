package flash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// rawFile is an image file as it goes to the device. The file system tells its holes.
type rawFile struct {
	f        *os.File
	at, size int64
	dataEnd  int64 // where the data that begins at or before at ends
}

func newRawFile(f *os.File, size int64) *rawFile {
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_SEQUENTIAL) // only a hint
	return &rawFile{f: f, size: size}
}

func (r *rawFile) next(ctx context.Context, buf []byte) (piece, error) {
	if err := ctx.Err(); err != nil {
		return piece{}, err
	}
	if r.at == r.size {
		return piece{}, r.end()
	}
	p := piece{at: r.at}
	if r.at >= r.dataEnd {
		start, end, err := r.data()
		if err != nil {
			return piece{}, err
		}
		r.dataEnd = end
		p.size = min(start-r.at, holeMax)
	}
	if p.size == 0 {
		p.size = room(r.at, r.dataEnd)
		p.data = buf[:p.size]
		if err := fill(io.NewSectionReader(r.f, r.at, p.size), p.data, r.at); err != nil {
			return piece{}, err
		}
	} else if p.size == holeMax {
		r.dataEnd = 0 // ask again: the hole may go on
	}
	r.at += p.size
	return p, nil
}

// data is the next run of data, widened to whole grains.
func (r *rawFile) data() (start, end int64, err error) {
	start, err = unix.Seek(int(r.f.Fd()), r.at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // no more data: a hole up to the end, if the end is where it should be
		if info, err := r.f.Stat(); err != nil || info.Size() < r.size {
			return 0, 0, errors.Join(fmt.Errorf("%w: it ends before byte %d", ErrDigest, r.size), err)
		}
		return r.size, r.size, nil
	case err != nil: // a file system that knows no holes
		return r.at, r.size, nil
	}
	if end, err = unix.Seek(int(r.f.Fd()), start, unix.SEEK_HOLE); err != nil {
		end = r.size
	}
	return min(max(start/grain*grain, r.at), r.size), min((end+grain-1)/grain*grain, r.size), nil
}

// end wants the file to have no more bytes than were promised.
func (r *rawFile) end() error {
	if info, err := r.f.Stat(); err == nil && info.Mode().IsRegular() && info.Size() != r.size {
		return fmt.Errorf("%w: it has %d bytes, not %d", ErrDigest, info.Size(), r.size)
	}
	return io.EOF
}

func (r *rawFile) Close() error { return r.f.Close() }
