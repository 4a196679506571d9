package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/slipway-os/slipway/builder/verity"
)

// noise is size bytes that do not compress and that follow from a name.
func noise(name string, size int) []byte {
	data := make([]byte, 0, size+sha256.Size)
	for sum := sha256.Sum256([]byte(name)); len(data) < size; sum = sha256.Sum256(sum[:]) {
		data = append(data, sum[:]...)
	}
	return data[:size]
}

func content(data []byte) Content {
	return Content{int64(len(data)), func(w io.Writer) error { _, err := io.Copy(w, bytes.NewReader(data)); return err }}
}

// slot holds an image whose root has data blocks, some of them zeros, and a verity tree that is right.
func slot(t testing.TB, version string) Slot {
	t.Helper()
	data := noise("root "+version, 300*verity.BlockSize)
	clear(data[50*verity.BlockSize : 90*verity.BlockSize])
	tree, err := verity.Build(context.Background(), bytes.NewReader(data), int64(len(data)), [32]byte{1}, [16]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	return Slot{
		Image: "slipway-worker-" + version + "-amd64", RootHash: fmt.Sprintf("%x", tree.RootHash),
		UKI: content(noise("uki "+version, 3<<20+777)), Root: content(append(data, tree.Bytes...)), Data: rootData,
	}
}

// rootData is where the verity tree begins in a slot's root image.
const rootData = 300 * verity.BlockSize

// small is a layout with both slots filled, as small as its sectors allow.
func small(t testing.TB, sector int) Layout {
	l := Layout{
		Arch: "amd64", SectorSize: sector, Sizes: Sizes{ESP: 40 * mib, Root: 4 * mib, Verity: mib, State: 2 * mib}, Loader: noise("loader", 100_001),
		Slots: []Slot{slot(t, "0.1.0"), slot(t, "0.2.0-rc.1")}, Epoch: 1700000000, Seed: "a plan's digest",
	}
	if sector == 4096 {
		l.Sizes.ESP = 264 * mib
	}
	return l
}

// written is an image file of a layout.
func written(t testing.TB, l Layout) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.disk.raw")
	if err := Write(path, l); err != nil {
		t.Fatal(err)
	}
	return path
}

// tool runs a program, or skips the test where it is not installed.
func tool(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	c := exec.Command(path, args...)
	c.Env = append(os.Environ(), "LC_ALL=C")
	out, err := c.CombinedOutput()
	return string(out), err
}

// cut is a file with a partition's bytes.
func cut(t testing.TB, image, label string) string {
	t.Helper()
	d, err := Inspect(image)
	if err != nil {
		t.Fatal(err)
	}
	p, ok := d.Partition(label)
	if !ok {
		t.Fatalf("no partition %s in %+v", label, d.Partitions)
	}
	from, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	path := filepath.Join(t.TempDir(), label)
	to, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	s := newSparse(medium{to, false}, span{0, p.Size})
	if _, err := io.Copy(s, io.NewSectionReader(from, p.Start, p.Size)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := to.Truncate(p.Size); err != nil {
		t.Fatal(err)
	}
	return path
}
