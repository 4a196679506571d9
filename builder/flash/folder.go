package flash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// shelf is where an image and its manifest lie.
type shelf interface {
	// read reads a small file; more than most bytes are an error. What is not there is fs.ErrNotExist.
	read(ctx context.Context, name string, most int64) ([]byte, error)
	// open opens an image and tells its file's size in bytes.
	open(ctx context.Context, name string) (input, int64, error)
}

// folder is a shelf on this machine.
type folder string

func (f folder) read(_ context.Context, name string, most int64) ([]byte, error) {
	file, err := os.Open(filepath.Join(string(f), name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s is over the limit of %d bytes", name, most)
	}
	return data, err
}

func (f folder) open(_ context.Context, name string) (input, int64, error) {
	file, err := os.Open(filepath.Join(string(f), name))
	if err != nil {
		return nil, 0, bare(err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a file")
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_SEQUENTIAL) // only a hint
	return &localFile{File: file}, info.Size(), nil
}

// localFile is a file whose holes the file system tells.
type localFile struct {
	*os.File
	at int64
}

func (f *localFile) Read(p []byte) (int, error) {
	n, err := f.File.ReadAt(p, f.at) // not Read: asking for holes moves the file's own offset
	f.at += int64(n)
	return n, bare(err)
}

func (f *localFile) skip(n int64) error {
	f.at += n
	return nil
}

// run widens runs of data to whole grains.
func (f *localFile) run(at, size int64) (start, end int64, err error) {
	start, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // no more data: a hole up to the end, if the end is where it should be
		if info, err := f.Stat(); err != nil || info.Size() < size {
			return 0, 0, errors.Join(fmt.Errorf("%w: it ends before byte %d", ErrDigest, size), err)
		}
		return size, size, nil
	case err != nil: // a file system that knows no holes
		return at, size, nil
	}
	if end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE); err != nil {
		end = size
	}
	return min(max(start/grain*grain, at), size), min((end+grain-1)/grain*grain, size), nil
}
