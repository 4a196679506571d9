package flash

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
	"github.com/slipway-os/slipway/images/manifest"
)

// Configure puts another node's configuration onto a medium that was flashed before: a device or a file. The medium is
// never without one; the one before is wiped when the new one is durable. Role is the node's: a medium with an image for
// another role is refused.
func Configure(path, role string, c bootspec.Config) (bootspec.Config, error) {
	written, err := configure(path, role, c)
	if err != nil {
		return bootspec.Config{}, fmt.Errorf("cannot configure %s: %w", path, err)
	}
	return written, nil
}

func configure(path, role string, c bootspec.Config) (bootspec.Config, error) {
	f, err := openMedium(path)
	if err != nil {
		return c, err
	}
	defer f.Close()
	place, err := findPlace(f, role)
	if err != nil {
		return c, err
	}
	if err := bootspec.WriteConfig(place, c, f.Sync); err != nil {
		return c, err
	}
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // so that the device is read
	got, err := bootspec.ReadConfig(place)
	if err != nil {
		return c, err
	}
	if got.Cluster != c.Cluster || got.Node != c.Node || !bytes.Equal(got.Document, c.Document) {
		return c, fmt.Errorf("%w: the device is broken", ErrReadBack)
	}
	return got, wipeOther(f, place, got)
}

// openMedium opens what was flashed before; a device so that nobody mounts it meanwhile, a file so that nobody else reads it.
func openMedium(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, bare(err)
	}
	if !info.Mode().IsRegular() {
		t, err := OpenDevice(path)
		if err != nil {
			return nil, err
		}
		t.closeDirect()
		return t.f, nil
	}
	if vouchedFor(path) {
		return nil, errors.New("that is the image itself: nothing is written into images, make a copy for the node with `slipway flash IMAGE FILE`")
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, bare(err)
	}
	if err := f.Chmod(0o600); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// vouchedFor tells whether a manifest beside a file lists it.
func vouchedFor(path string) bool {
	base, _, ok := splitName(filepath.Base(path))
	if !ok {
		return false
	}
	data, err := os.ReadFile(filepath.Join(filepath.Dir(path), base+bootspec.ExtManifest))
	if err != nil {
		return false
	}
	m, err := manifest.Decode(data)
	if err != nil {
		return false
	}
	_, listed := artifact(m, filepath.Base(path))
	return listed
}

func findPlace(f *os.File, role string) (disk.Range, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return disk.Range{}, err
	}
	d, err := disk.Read(f, size)
	if err != nil {
		return disk.Range{}, err
	}
	for _, file := range d.Files {
		if name, _, ok := bootspec.ParseBootEntry(filepath.Base(file.Path)); ok && !strings.HasPrefix(name, "slipway-"+role+"-") {
			return disk.Range{}, fmt.Errorf("it holds the image %s, and the node has role %s: flash it", name, role)
		}
	}
	p, ok := d.Partition(bootspec.LabelConfig)
	if !ok || p.Size != bootspec.ConfigPlaceSize {
		return disk.Range{}, errors.New("it has no place for a node's configuration: flash it first")
	}
	return p.Of(f), nil
}

// wipeOther takes away the copy that does not count any more: it holds another node's keys.
func wipeOther(f *os.File, place disk.Range, now bootspec.Config) error {
	const half = bootspec.ConfigPlaceSize / 2
	for _, at := range []int64{0, half} {
		only := make(memory, bootspec.ConfigPlaceSize)
		if _, err := place.ReadAt(only[at:at+half], at); err != nil {
			return err
		}
		if c, err := bootspec.ReadConfig(only); err == nil && c.Generation == now.Generation {
			continue
		}
		if _, err := place.WriteAt(make([]byte, half), at); err != nil {
			return err
		}
	}
	return f.Sync()
}
