package flash

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Target is what is written to: a device that nobody else uses, or a file that is not there yet under its name.
type Target struct {
	Path       string
	Device     bool
	Size       int64 // of a device, in bytes; 0 for a file
	SectorSize int   // of a device, in bytes; 0 for a file

	f      *os.File
	direct *os.File // past the page cache; nil where that can't be done
	temp   string   // of a file: where it is until it is finished
	holes  bool     // the target makes zeros by itself when it is told to
}

// ErrBusy is what errors about a device that somebody uses wrap.
var ErrBusy = errors.New("it is in use")

// OpenDevice opens a whole device for writing, and keeps everybody else from mounting it until it is closed.
func OpenDevice(path string) (*Target, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("%w: unmount it everywhere, containers and other namespaces too", ErrBusy)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open %s for writing: %w", path, err)
	}
	t := &Target{Path: path, Device: true, f: f, holes: true}
	if err := t.measure(); err != nil {
		t.Close()
		return nil, fmt.Errorf("cannot use %s: %w", path, err)
	}
	t.openDirect()
	return t, nil
}

func (t *Target) measure() error {
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeDevice {
		return errors.New("it is no block device")
	}
	if t.Size, err = t.f.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	if t.SectorSize, err = unix.IoctlGetInt(int(t.f.Fd()), unix.BLKSSZGET); err != nil {
		return err
	}
	return t.lock()
}

// lock keeps udev from probing while the device is written (systemd, "Locking Block Device Access").
func (t *Target) lock() error {
	const tries = 50
	var err error
	for range tries {
		if err = unix.Flock(int(t.f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%w: another program has locked it", ErrBusy)
}

// CreateFile begins a file of an image's content, mode 0600: it will hold a node's secrets. It appears at path when it
// is finished.
func CreateFile(path string) (*Target, error) {
	fail := func(err error) (*Target, error) { return nil, fmt.Errorf("cannot make %s: %w", path, err) }
	abs, err := filepath.Abs(path)
	if err != nil {
		return fail(err)
	}
	if strings.HasPrefix(abs, "/dev/") {
		return fail(errors.New("there is no such device"))
	}
	if info, err := os.Stat(abs); err == nil && !info.Mode().IsRegular() {
		return fail(errors.New("it is neither a device nor a file"))
	}
	f, err := os.CreateTemp(filepath.Dir(abs), "."+filepath.Base(abs)+".new-") // mode 0600
	if err != nil {
		return fail(err)
	}
	t := &Target{Path: path, f: f, temp: f.Name(), holes: true}
	t.openDirect()
	return t, nil
}

// openDirect opens the same thing again for access past the page cache, so that memory stays free for others and what
// is read back comes from the device. Not every file system can do it.
func (t *Target) openDirect() {
	direct, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", t.f.Fd()), os.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err == nil {
		t.direct = direct
	}
}

// begin makes a target ready to take size bytes. What a file does not get is zeros by itself.
func (t *Target) begin(size int64) error {
	if t.Device {
		return nil
	}
	return t.f.Truncate(size)
}

func (t *Target) handle(p []byte, at int64) *os.File {
	if t.direct != nil && len(p)%block == 0 && at%block == 0 {
		return t.direct
	}
	return t.f
}

// writeAt writes; p is aligned memory where its length and at are multiples of block.
func (t *Target) writeAt(p []byte, at int64) error {
	if _, err := t.handle(p, at).WriteAt(p, at); err != nil {
		return t.explain("write", at, err)
	}
	return nil
}

// readAt reads all of p, of the same memory as in writeAt.
func (t *Target) readAt(p []byte, at int64) error {
	if _, err := t.handle(p, at).ReadAt(p, at); err != nil {
		return t.explain("read", at, err)
	}
	return nil
}

func (t *Target) explain(verb string, at int64, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err // its name is that of a descriptor
	}
	err = fmt.Errorf("cannot %s at byte %d: %w", verb, at, err)
	for _, gone := range []error{unix.EIO, unix.ENXIO, unix.ENODEV, unix.ENOMEDIUM} {
		if t.Device && errors.Is(err, gone) {
			return fmt.Errorf("%w (the device is broken or was pulled out: try again, then another port, then another device)", err)
		}
	}
	return err
}

// punch has the target make zeros by itself; ok is false where it can't promise that.
func (t *Target) punch(at, size int64) (ok bool, err error) {
	if !t.holes || at%block != 0 || size%block != 0 {
		return false, nil
	}
	// Of a device, this is zeroing without the kernel's fallback of writing zeros (block/fops.c): it discards only where
	// discarded sectors read as zeros.
	err = unix.Fallocate(int(t.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, size)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		t.holes = false
		return false, nil
	}
	return false, t.explain("make zeros", at, err)
}

// sync makes durable what was written, and forgets what is cached of it.
func (t *Target) sync() error {
	if err := t.f.Sync(); err != nil {
		return t.explain("finish writing", 0, err)
	}
	unix.Fadvise(int(t.f.Fd()), 0, 0, unix.FADV_DONTNEED) // only a hint
	if t.Device {
		unix.IoctlSetInt(int(t.f.Fd()), unix.BLKFLSBUF, 0) // needs root; without it direct access reads past the cache
	}
	return nil
}

// publish ends a flash that went well.
func (t *Target) publish() error {
	if t.Device {
		unix.IoctlSetInt(int(t.f.Fd()), unix.BLKRRPART, 0) // a device without partitions refuses; the kernel reads them when it is plugged in
		return nil
	}
	if err := os.Rename(t.temp, t.Path); err != nil {
		return err
	}
	t.temp = ""
	folder, err := os.Open(filepath.Dir(t.Path))
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}

// Close lets the device go; a file that is not finished is taken away.
func (t *Target) Close() error {
	t.closeDirect()
	if t.temp != "" {
		os.Remove(t.temp)
	}
	return t.f.Close()
}

func (t *Target) closeDirect() {
	if t.direct != nil {
		t.direct.Close()
	}
	t.direct = nil
}
