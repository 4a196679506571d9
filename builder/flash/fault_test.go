package flash

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// breaking is a loop device whose file lies on a small file system of its own: what happens to that one happens to the
// device. It held another disk before.
type breaking struct {
	t                    testing.TB
	dir, backing, device string
}

func newBreaking(t testing.TB) *breaking {
	t.Helper()
	needRoot(t)
	b := &breaking{t: t, dir: t.TempDir()}
	if err := unix.Mount("tmpfs", b.dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(b.dir, 0) })
	b.backing = filepath.Join(b.dir, "stick")
	if err := os.WriteFile(b.backing, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.size(64 * mib)
	partition(t, b.backing, 512)
	b.device = loopDevice(t, b.backing, 512)
	return b
}

func (b *breaking) size(n int64) {
	b.t.Helper()
	if err := os.Truncate(b.backing, n); err != nil {
		b.t.Fatal(err)
	}
}

// full makes every write to where nothing was written fail.
func (b *breaking) full() {
	b.t.Helper()
	f, err := os.Create(filepath.Join(b.dir, "full"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, block))
	}
	if !errors.Is(err, unix.ENOSPC) {
		b.t.Fatal(err)
	}
}

// mended is as it was, empty.
func (b *breaking) mended() {
	b.t.Helper()
	if err := os.Remove(filepath.Join(b.dir, "full")); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	b.size(0)
	b.size(64 * mib)
}

// flash flashes with something that happens once, when a phase is so far.
func (b *breaking) flash(image string, phase Phase, at int64, happens func()) error {
	b.t.Helper()
	target, err := OpenDevice(b.device)
	if err != nil {
		b.t.Fatal(err)
	}
	defer target.Close()
	var once sync.Once
	_, err = Write(context.Background(), Order{Image: opened(b.t, image), Target: target, Config: node, Progress: func(p Progress) {
		if p.Phase == phase && p.Done >= at {
			once.Do(happens)
		}
	}})
	return err
}

// again wants the next flash to end right.
func (b *breaking) again(image string) {
	b.t.Helper()
	b.mended()
	if err := b.flash(image, "", 0, func() {}); err != nil {
		b.t.Fatalf("again: %v", err)
	}
	wantImage(b.t, b.device, image)
	wantNode(b.t, b.device, *node)
}

func TestDeviceThatFailsWhileItIsWritten(t *testing.T) {
	image := makeImage(t, 512)
	for _, at := range []int64{4 * mib, 12 * mib, 40 * mib} { // in the data; before more data; where only held back data is left
		b := newBreaking(t)
		err := b.flash(image, PhaseWrite, at, b.full)
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "does not boot now: run the same command again") {
			t.Errorf("after %d bytes: got %v", at, err)
		}
		wantNoDisk(t, b.device)
		b.again(image)
	}
}

func TestDeviceThatVanishesWhileItIsRead(t *testing.T) {
	image, b := makeImage(t, 512), newBreaking(t)
	err := b.flash(image, PhaseCheck, 3*mib, func() { b.size(0) })
	if !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "broken or was pulled out") {
		t.Errorf("got %v", err)
	}
	b.again(image)
}

// TestDeviceThatForgets: a broken stick takes everything and gives back something else.
func TestDeviceThatForgets(t *testing.T) {
	image, b := makeImage(t, 512), newBreaking(t)
	for name, at := range map[string]int64{"data": 8 * mib, "zeros": 25 * mib, "the configuration": placeAt + 100} {
		err := b.flash(image, PhaseCheck, 0, func() {
			if err := overwriteByte(b.backing, at); err != nil {
				t.Error(err)
			}
		})
		if !errors.Is(err, ErrReadBack) {
			t.Errorf("%s: got %v", name, err)
		}
		wantNoDisk(t, b.device)
	}
	b.again(image)
}

func TestInterrupted(t *testing.T) {
	image := makeImage(t, 512)
	device := stick(t, imageSize, 512)
	for _, phase := range []Phase{PhaseWrite, PhaseCheck} {
		for _, at := range []int64{1, 10 * mib, 30 * mib} {
			ctx, cancel := context.WithCancel(context.Background())
			target, err := OpenDevice(device)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Write(ctx, Order{Image: opened(t, image), Target: target, Config: node, Progress: func(p Progress) {
				if p.Phase == phase && p.Done >= at {
					cancel()
				}
			}})
			cancel()
			target.Close()
			if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), ": interrupted\nthe device") {
				t.Errorf("%s at %d: got %v", phase, at, err)
			}
			if phase != PhaseWrite || at > 4*mib { // before, the image was only read
				wantNoDisk(t, device)
			}
		}
	}
	if _, err := flashDevice(t, context.Background(), opened(t, image), device, node); err != nil {
		t.Fatal(err)
	}
	wantImage(t, device, image)
}

func TestFileSystemIsFull(t *testing.T) {
	needRoot(t)
	image, dir := makeImage(t, 512), t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=5m"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, 0) })
	before := filepath.Join(dir, "node.raw")
	if err := os.WriteFile(before, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	target, err := CreateFile(before)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Write(context.Background(), Order{Image: opened(t, image), Target: target, Config: node})
	target.Close()
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if data, err := os.ReadFile(before); err != nil || string(data) != "before" {
		t.Errorf("the file that was there: %q, %v", data, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// TestImageItselfIsNotWritten: neither as a target nor to configure it; it would hold keys, and its manifest would lie.
func TestImageItselfIsNotWritten(t *testing.T) {
	image := makeImage(t, 512)
	_, before := digest(t, image, 0)
	target, err := CreateFile(image)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Write(context.Background(), Order{Image: opened(t, image), Target: target, Config: node})
	target.Close()
	if err == nil || !strings.Contains(err.Error(), "the image itself") {
		t.Errorf("got %v", err)
	}
	if _, err := Configure(image, "worker", *node); err == nil || !strings.Contains(err.Error(), "the image itself") {
		t.Errorf("got %v", err)
	}
	if _, after := digest(t, image, 0); after != before {
		t.Error("the image was changed")
	}
}

func TestDeviceThatDoesNotFit(t *testing.T) {
	for want, c := range map[string]struct {
		size        int64
		image, disk int
	}{
		"image needs 41943040":                    {imageSize - 4096, 512, 512},
		"for sectors of 512 bytes":                {imageSize, 512, 4096},
		"for sectors of 4096 bytes, and the devi": {imageSize, 4096, 512},
	} {
		image, device := makeImage(t, c.image), stick(t, c.size, c.disk)
		before, _ := os.ReadFile(device)
		_, err := flashDevice(t, context.Background(), opened(t, image), device, node)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		if after, _ := os.ReadFile(device); string(after) != string(before) {
			t.Errorf("%s: the device was changed", want)
		}
	}
}

// TestWhatIsNoDiskImage: its digest is right, but there are no partition tables in it.
func TestWhatIsNoDiskImage(t *testing.T) {
	image, device := makeImage(t, 512), stick(t, imageSize, 512)
	if err := os.WriteFile(image, noise(8*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	writeManifest(t, image)
	_, err := flashDevice(t, context.Background(), opened(t, image), device, node)
	if err == nil || !strings.Contains(err.Error(), "no disk image") || !strings.Contains(err.Error(), "the device is as it was") {
		t.Errorf("got %v", err)
	}
}
