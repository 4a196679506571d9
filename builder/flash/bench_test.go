package flash

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// BenchmarkFlash writes an image to a loop device, with dd (bs=4M conv=fsync) and with us in turn: one image that is
// full, and one of which nine tenths are holes, as baked images are, with its block map and without. Our time to write and make durable is compared with dd's; reading back,
// which dd doesn't do, is told besides.
func BenchmarkFlash(b *testing.B) {
	needRoot(b)
	const size = 512 * mib
	for _, c := range []struct {
		name   string
		data   int64
		mapped bool
	}{{"full", size - 2*mib, false}, {"holes", size / 10, false}, {"holes-mapped", size / 10, true}} {
		image := filepath.Join(b.TempDir(), base+bootspec.ExtDisk)
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			b.Fatal(err)
		}
		if err := os.Truncate(image, size); err != nil {
			b.Fatal(err)
		}
		partition(b, image, 512)
		fillImage(b, image, c.data)
		if writeManifest(b, image); c.mapped {
			mapImage(b, image)
		}
		device := stick(b, size, 512)
		b.Run(c.name, func(b *testing.B) {
			var theirs, ours, back time.Duration
			for b.Loop() {
				started := time.Now()
				if out, err := exec.Command("dd", "if="+image, "of="+device, "bs=4M", "conv=fsync").CombinedOutput(); err != nil {
					b.Fatalf("dd: %v: %s", err, out)
				}
				theirs += time.Since(started)
				write, check := timedFlash(b, image, device)
				ours, back = ours+write, back+check
			}
			mb := float64(b.N) * size / 1e6
			b.ReportMetric(mb/theirs.Seconds(), "dd-MB/s")
			b.ReportMetric(mb/ours.Seconds(), "flash-MB/s")
			b.ReportMetric(mb/back.Seconds(), "readback-MB/s")
		})
	}
}

// fillImage fills an image with noise from 1 MiB on, but for the configuration place.
func fillImage(b *testing.B, path string, size int64) {
	b.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	data := noise(16 * mib)
	for at := int64(mib); at < mib+size; at += int64(len(data)) {
		if _, err := f.WriteAt(data[:min(int64(len(data)), mib+size-at)], at); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := f.WriteAt(make([]byte, bootspec.ConfigPlaceSize), placeAt); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
}

func timedFlash(b *testing.B, image, device string) (write, check time.Duration) {
	b.Helper()
	i := opened(b, image)
	target, err := OpenDevice(device)
	if err != nil {
		b.Fatal(err)
	}
	defer target.Close()
	started := time.Now()
	_, err = Write(context.Background(), Order{Image: i, Target: target, Config: node, Progress: func(p Progress) {
		if p.Phase == PhaseCheck && write == 0 {
			write = time.Since(started)
		}
	}})
	if err != nil {
		b.Fatal(err)
	}
	return write, time.Since(started) - write
}
