package flash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

func TestDeviceHoldsTheImageAndTheNode(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		for _, size := range []int64{imageSize, 64*mib + 4096} {
			t.Run(fmt.Sprint(sector, "/", size), func(t *testing.T) {
				device, image := stick(t, size, sector), makeImage(t, sector)
				result, err := flashDevice(t, context.Background(), opened(t, image), device, node)
				if err != nil {
					t.Fatal(err)
				}
				wantImage(t, device, image)
				wantNode(t, device, *node)
				if result.Written+result.Zeroed != imageSize || result.Written > 11*mib {
					t.Errorf("%+v: zeros were written", result)
				}
				// Whatever was at the device's end could be a backup table or a RAID's label.
				if size > imageSize {
					wantZeros(t, device, size-mib, mib)
				}
			})
		}
	}
}

func wantZeros(t *testing.T, path string, at, size int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, size)
	if _, err := f.ReadAt(data, at); err != nil {
		t.Fatal(err)
	}
	for i, b := range data {
		if b != 0 {
			t.Fatalf("byte %d is not zero", at+int64(i))
		}
	}
}

// TestFileForVirtualMedia: it holds keys, so nobody else may read it, and it is sparse as the image is.
func TestFileForVirtualMedia(t *testing.T) {
	image, path := makeImage(t, 512), filepath.Join(t.TempDir(), "node.raw")
	before, _ := os.ReadFile(image)
	target, err := CreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Write(context.Background(), Order{Image: opened(t, image), Target: target, Config: node}); err != nil {
		t.Fatal(err)
	}
	target.Close()
	wantImage(t, path, image)
	wantNode(t, path, *node)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if after, _ := os.ReadFile(image); string(after) != string(before) {
		t.Error("the image was changed")
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestWithoutANodeThePlaceIsEmpty(t *testing.T) {
	device, image := stick(t, imageSize, 512), makeImage(t, 512)
	for _, c := range []*bootspec.Config{node, nil} { // the second must not leave the first's keys
		if _, err := flashDevice(t, context.Background(), opened(t, image), device, c); err != nil {
			t.Fatal(err)
		}
	}
	wantZeros(t, device, placeAt, bootspec.ConfigPlaceSize)
}

func TestWrongImageLeavesNothingThatBoots(t *testing.T) {
	image := makeImage(t, 512)
	if err := overwriteByte(image, 7*mib); err != nil {
		t.Fatal(err)
	}
	device := stick(t, imageSize, 512)
	_, err := flashDevice(t, context.Background(), opened(t, image), device, node)
	if !errors.Is(err, ErrDigest) || !strings.Contains(err.Error(), "does not boot now") {
		t.Errorf("got %v", err)
	}
	wantNoDisk(t, device)

	path := filepath.Join(t.TempDir(), "node.raw")
	target, err := CreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Write(context.Background(), Order{Image: opened(t, image), Target: target}); !errors.Is(err, ErrDigest) {
		t.Errorf("got %v", err)
	}
	target.Close()
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}

	good := makeImage(t, 512)
	if _, err := flashDevice(t, context.Background(), opened(t, good), device, node); err != nil {
		t.Fatal(err)
	}
	wantImage(t, device, good)
}

func overwriteByte(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	b[0] ^= 0x10
	_, err = f.WriteAt(b, at)
	return err
}

func TestConfigureChangesTheNodeInPlace(t *testing.T) {
	device, image := stick(t, imageSize, 512), makeImage(t, 512)
	if _, err := flashDevice(t, context.Background(), opened(t, image), device, node); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"worker-2", "worker-3"} {
		other := bootspec.Config{Cluster: "lab", Node: name, Document: []byte("{}")}
		if _, err := Configure(device, "worker", other); err != nil {
			t.Fatal(err)
		}
		wantNode(t, device, other) // and not the other's keys
		wantImage(t, device, image)
	}
}

func TestConfigureWantsAFlashedMedium(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, noise(4*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Configure(path, "worker", *node); err == nil || !strings.Contains(err.Error(), "partition table") {
		t.Errorf("got %v", err)
	}
}

// TestEmptyImage: its only data are the tables, so that one hole goes over the configuration place.
func TestEmptyImage(t *testing.T) {
	image := filepath.Join(t.TempDir(), base+bootspec.ExtDisk)
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, imageSize); err != nil {
		t.Fatal(err)
	}
	partition(t, image, 512)
	writeManifest(t, image)
	path, err := toFile(t, context.Background(), opened(t, image))
	if err != nil {
		t.Fatal(err)
	}
	wantImage(t, path, image)
	wantNode(t, path, *node)
}

// TestDeviceThatMakesNoZeros: most sticks can't be told to; what was there must not show through either.
func TestDeviceThatMakesNoZeros(t *testing.T) {
	image := makeImage(t, 512)
	device := stick(t, imageSize, 512)
	target, err := OpenDevice(device)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	target.holes = false
	if _, err := Write(context.Background(), Order{Image: opened(t, image), Target: target, Config: node}); err != nil {
		t.Fatal(err)
	}
	wantImage(t, device, image)
	wantNode(t, device, *node)
}

// TestWithoutDirectAccess: not every file system has it.
func TestWithoutDirectAccess(t *testing.T) {
	image, path := makeImage(t, 512), filepath.Join(t.TempDir(), "node.raw")
	target, err := CreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	target.closeDirect()
	if _, err := Write(context.Background(), Order{Image: opened(t, image), Target: target, Config: node}); err != nil {
		t.Fatal(err)
	}
	wantImage(t, path, image)
}

// TestLargerDevice: until a node's first boot, partitioning tools miss the backup table at the device's end and nothing
// else; what the node does then (disk.Grow) puts that right.
func TestLargerDevice(t *testing.T) {
	device := stick(t, 64*mib, 512)
	if _, err := flashDevice(t, context.Background(), opened(t, makeImage(t, 512)), device, node); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "sgdisk", "-v", device); !strings.Contains(out, "secondary header's self-pointer") || !strings.Contains(out, "Identified 1 problems") {
		t.Errorf("before the first boot: %s", out)
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, err := disk.Grow(f, 64*mib); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "sgdisk", "-v", device); !strings.Contains(out, "No problems found") {
		t.Errorf("after the first boot: %s", out)
	}
	wantNode(t, device, *node)
}
