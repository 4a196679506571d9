package qcow2

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// image is a raw image with noise in some places.
func image(t *testing.T, size int64, at ...int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	noise := make([]byte, 3000)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	for _, at := range at {
		if _, err := f.WriteAt(noise[:min(3000, size-at)], at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}

func convert(t *testing.T, raw string) []byte {
	t.Helper()
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	mapped := func(at, size int64) bool { // as the file system keeps it, in blocks of 4096 bytes
		next, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		return err == nil && next < at+size
	}
	if err := Write(&b, f, info.Size(), mapped); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestQemuFindsTheSameImage: QEMU's own tool finds no fault in it, and the same bytes as in the raw image.
func TestQemuFindsTheSameImage(t *testing.T) {
	const g = 1 << 30
	for name, raw := range map[string]string{
		"empty":              image(t, 1<<20),
		"one sector":         image(t, 512, 0),
		"odd end":            image(t, 70<<10, 0, 69<<10),
		"two L2 tables":      image(t, g, 0, 100<<20, g/2-100, g-3000),
		"tables in between":  image(t, g+100<<20, 0, g+70000),
		"second L2 is first": image(t, g, g/2),
	} {
		t.Run(name, func(t *testing.T) {
			data := convert(t, raw)
			path := filepath.Join(t.TempDir(), "x.qcow2")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			qemuImg(t, "check", "-f", "qcow2", path)
			qemuImg(t, "compare", "-f", "raw", "-F", "qcow2", raw, path)
			if again := convert(t, raw); !bytes.Equal(again, data) {
				t.Error("the same image gives other bytes")
			}
		})
	}
}

func qemuImg(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Fatalf("qemu-img is wanted (make deps): %v", err)
	}
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	if err != nil {
		t.Errorf("qemu-img %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// TestManyRefcountBlocks: 2 GiB of data need more than one refcount block; the tables alone are looked at.
func TestManyRefcountBlocks(t *testing.T) {
	l := plan(5<<30, func(int64, int64) bool { return true })
	if blocks := l.l1 - l.refBlocks; blocks != 3 || l.end > blocks*refcounts {
		t.Errorf("%d refcount blocks for %d clusters", blocks, l.end)
	}
}

func TestWrongSizesAreRefused(t *testing.T) {
	for _, size := range []int64{0, -512, 513, maxSize + 512} {
		if err := Write(&bytes.Buffer{}, nil, size, nil); err == nil {
			t.Errorf("%d bytes were taken", size)
		}
	}
}

// TestOpenReadsWhatWasWritten: the same bytes at every place, however they are asked for.
func TestOpenReadsWhatWasWritten(t *testing.T) {
	const size = 600<<20 + 512 // more than one table
	raw := image(t, size, 0, 65_000, 5<<20, 550<<20, size-100)
	packed := convert(t, raw)
	got, n, err := Open(bytes.NewReader(packed), int64(len(packed)))
	if err != nil {
		t.Fatal(err)
	}
	if n != size {
		t.Errorf("%d bytes, not %d", n, size)
	}
	want, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	a, b := make([]byte, 200_001), make([]byte, 200_001)
	for _, at := range []int64{0, 1, 60_000, 5<<20 - 7, 300 << 20, 550<<20 + 11, size - 200_001, size - 5, size} {
		n, errN := got.ReadAt(a, at)
		m, errM := want.ReadAt(b, at)
		if n != m || errN != errM || !bytes.Equal(a[:n], b[:m]) {
			t.Errorf("at %d: %d bytes (%v), not %d (%v), or others", at, n, errN, m, errM)
		}
	}
}

func FuzzOpen(f *testing.F) {
	var b bytes.Buffer
	_ = Write(&b, bytes.NewReader(make([]byte, 1<<20)), 1<<20, func(at, _ int64) bool { return at == 0 })
	f.Add(b.Bytes()[:6*clusterSize], int64(0))
	f.Fuzz(func(t *testing.T, data []byte, at int64) {
		r, size, err := Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		if n, err := r.ReadAt(make([]byte, 100), at); at >= 0 && err == nil && at+int64(n) > size {
			t.Fatalf("%d bytes at %d of %d", n, at, size)
		}
	})
}
