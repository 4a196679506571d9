package flash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
	"github.com/slipway-os/slipway/images/manifest"
)

const (
	imageSize = 40 * mib
	placeAt   = 20 * mib
	base      = "slipway-worker-0.1.0-amd64"
)

// makeImage makes an image with partitions like a baked one's and a manifest in a folder: data from 1 to 9 MiB with a
// hole that is zeros on disk, from 12 MiB on some grains; the rest are holes.
func makeImage(t testing.TB, sector int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), base+map[int]string{512: bootspec.ExtDisk, 4096: bootspec.ExtDisk4K}[sector])
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(imageSize); err != nil {
		t.Fatal(err)
	}
	for _, run := range [][2]int64{{1 * mib, 4 * mib}, {6 * mib, 3*mib + 5000}, {12 * mib, 100}, {14*mib + 12345, 1}, {30 * mib, 200 << 10}} {
		if _, err := f.WriteAt(noise(run[1]), run[0]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteAt(make([]byte, mib), 5*mib); err != nil { // zeros that are no hole
		t.Fatal(err)
	}
	partition(t, path, sector)
	writeManifest(t, path)
	return path
}

// partition writes tables, which sgdisk has made once for each size of sectors: it takes a second for it.
func partition(t testing.TB, path string, sector int) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	key := [2]int64{info.Size(), int64(sector)}
	made, ok := tables.Load(key)
	if !ok {
		made = makeTables(t, key[0], key[1])
		tables.Store(key, made)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i, at := range []int64{0, info.Size() - mib} {
		if _, err := f.WriteAt(made.([2][]byte)[i], at); err != nil {
			t.Fatal(err)
		}
	}
}

// tables are the first and the last MiB of disks by size and sectors.
var tables sync.Map

// makeTables has sgdisk make them; for other sectors than 512 bytes on a loop device.
func makeTables(t testing.TB, size, sector int64) [2][]byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tables")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	device := path
	if sector != 512 {
		device = loopDevice(t, path, int(sector))
	}
	part := func(n int, label string, start, size int64) []string {
		return []string{fmt.Sprintf("--new=%d:%d:%d", n, start/sector, (start+size)/sector-1), fmt.Sprintf("--change-name=%d:%s", n, label)}
	}
	args := []string{"--clear", "--set-alignment=1"}
	args = append(args, part(1, bootspec.LabelESP, 1*mib, 19*mib)...)
	args = append(args, part(2, bootspec.LabelConfig, placeAt, bootspec.ConfigPlaceSize)...)
	args = append(args, part(3, bootspec.LabelState, 28*mib, 11*mib)...)
	run(t, "sgdisk", append(args, device)...)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return [2][]byte{data[:mib], data[len(data)-mib:]}
}

func noise(size int64) []byte {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16), byte(size >> 24)}).Read(data)
	return data
}

// writeManifest writes a manifest that lists the image, and what else there is, as they are now.
func writeManifest(t testing.TB, path string, more ...string) {
	t.Helper()
	var list []manifest.Artifact
	for i, p := range append([]string{path}, more...) {
		size, sum := digest(t, p, 0)
		kind := []string{manifest.KindDisk, manifest.KindDisk + manifest.FormBlockMap, manifest.KindDisk + manifest.FormZstd}[i]
		list = append(list, manifest.Artifact{Name: filepath.Base(p), Kind: kind, Size: size, SHA256: sum})
	}
	m := manifest.Manifest{
		APIVersion: manifest.Version, Kind: manifest.Kind, Role: "worker", Version: "0.1.0", Arch: "amd64", Plan: strings.Repeat("a", 64),
		Root:      manifest.Root{Hash: strings.Repeat("b", 64), Data: 4096},
		Artifacts: list,
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), base+bootspec.ExtManifest), m.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// digest is the size and SHA-256 of a file or of the first bytes of a device (0: all).
func digest(t testing.TB, path string, size int64) (int64, string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	var r io.Reader = f
	if size > 0 {
		r = io.LimitReader(f, size)
	}
	n, err := io.Copy(h, r)
	if err != nil {
		t.Fatal(err)
	}
	return n, fmt.Sprintf("%x", h.Sum(nil))
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is wanted (make deps): %v", name, err)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("devices need root")
	}
}

// loopDevice is a loop device of a file.
func loopDevice(t testing.TB, path string, sector int) string {
	t.Helper()
	needRoot(t)
	device := run(t, "losetup", "--find", "--show", "--sector-size", fmt.Sprint(sector), path)
	t.Cleanup(func() { run(t, "losetup", "--detach", device) })
	return device
}

// stick is a loop device that held something else before: noise everywhere.
func stick(t testing.TB, size int64, sector int) string {
	t.Helper()
	needRoot(t)
	path := filepath.Join(t.TempDir(), "stick")
	if err := os.WriteFile(path, noise(size), 0o600); err != nil {
		t.Fatal(err)
	}
	return loopDevice(t, path, sector)
}

func opened(t testing.TB, path string) *Image {
	t.Helper()
	i, err := Open(context.Background(), Reference{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// flashDevice flashes and closes the device.
func flashDevice(t testing.TB, ctx context.Context, i *Image, device string, c *bootspec.Config) (Result, error) {
	t.Helper()
	target, err := OpenDevice(device)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	return Write(ctx, Order{Image: i, Target: target, Config: c})
}

var node = &bootspec.Config{Cluster: "lab", Node: "worker-1", Document: []byte(`{"ignition":{"version":"3.5.0"}}`)}

// wantNode wants a medium to have a node's configuration, and nothing else in its place.
func wantNode(t testing.TB, path string, want bootspec.Config) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	place := make([]byte, bootspec.ConfigPlaceSize)
	if _, err := f.ReadAt(place, placeAt); err != nil {
		t.Fatal(err)
	}
	got, err := bootspec.ReadConfig(bytes.NewReader(place))
	if err != nil {
		t.Fatal(err)
	}
	if got.Cluster != want.Cluster || got.Node != want.Node || !bytes.Equal(got.Document, want.Document) {
		t.Errorf("the configuration is that of %s/%s: %s", got.Cluster, got.Node, got.Document)
	}
	if n := bytes.Count(place, []byte("SLIPWAY-CONFIG")); n != 1 {
		t.Errorf("the place has %d configurations", n)
	}
}

// wantImage wants a medium to begin with an image, but for the configuration place.
func wantImage(t testing.TB, path, image string) {
	t.Helper()
	want, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(f, got); err != nil {
		t.Fatal(err)
	}
	clear(got[placeAt : placeAt+bootspec.ConfigPlaceSize])
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("byte %d is %#x, not %#x", i, got[i], want[i])
		}
	}
}

// wantNoDisk wants a medium to have no partition table that anybody finds, neither the first nor a backup.
func wantNoDisk(t testing.TB, path string) {
	t.Helper()
	if d, err := disk.Inspect(path); err == nil {
		t.Errorf("it is a disk with %d partitions", len(d.Partitions))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if at := bytes.Index(data, []byte("EFI PART")); at >= 0 {
		t.Errorf("there is a partition table's header at byte %d", at)
	}
	if binary.LittleEndian.Uint16(data[510:]) == 0xaa55 {
		t.Error("there is a master boot record")
	}
}
