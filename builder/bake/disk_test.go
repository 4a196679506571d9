package bake

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
	"github.com/slipway-os/slipway/images/manifest"
)

// newDiskKitchen is a kitchen with a boot loader, and small disk images.
func newDiskKitchen(t *testing.T, formats ...string) *kitchen {
	k := newKitchen(t)
	k.pack("systemd-boot-efi-signed", "", fixture.File{Path: "usr/lib/systemd/boot/efi/systemd-bootx64.efi", Content: "LOADER"})
	k.formats, k.disk = formats, disk.Sizes{ESP: 40 << 20, Root: 4 << 20, State: 1 << 20}
	if slices.Contains(formats, FormatDisk4K) {
		k.disk.ESP = 264 << 20
	}
	return k
}

// read is a part of a file, which may be large and sparse.
func (k *kitchen) read(name string, at, size int64) []byte {
	k.t.Helper()
	f, err := os.Open(filepath.Join(k.out, name))
	if err != nil {
		k.t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, size)
	if _, err := f.ReadAt(data, at); err != nil {
		k.t.Fatal(err)
	}
	return data
}

func TestDiskImagesHoldTheBakedImage(t *testing.T) {
	k := newDiskKitchen(t, FormatNetboot, FormatDisk, FormatDisk4K)
	m := k.bake()
	if err := m.VerifyFolder(k.out); err != nil {
		t.Error(err)
	}
	root, err := os.ReadFile(filepath.Join(k.out, base+bootspec.ExtRoot))
	if err != nil {
		t.Fatal(err)
	}
	uki, _ := m.Artifact(manifest.KindUKI)
	for kind, sector := range map[string]int{manifest.KindDisk: 512, manifest.KindDisk4K: 4096} {
		a, ok := m.Artifact(kind)
		if want := base + "." + kind + ".raw"; !ok || a.Name != want {
			t.Fatalf("the manifest has %q for %s", a.Name, kind)
		}
		d, err := disk.Inspect(filepath.Join(k.out, a.Name))
		if err != nil {
			t.Fatal(err)
		}
		want := []disk.BootFile{{Path: "EFI/BOOT/BOOTX64.EFI", Size: 6}, {Path: "EFI/Linux/" + base + "+3.efi", Size: uki.Size}, {Path: "loader/loader.conf", Size: 38}}
		if d.SectorSize != sector || !slices.Equal(d.Files, want) {
			t.Errorf("%s: sectors of %d, files %+v", a.Name, d.SectorSize, d.Files)
		}
		slot, _ := d.Partition(bootspec.LabelRootA)
		if guid, _ := bootspec.SlotGUID(m.Root.Hash); slot.GUID != guid {
			t.Errorf("%s: root A's GUID %s does not tell the root hash %s", a.Name, slot.GUID, m.Root.Hash)
		}
		tree, _ := d.Partition(bootspec.LabelVerityA)
		if guid, _ := bootspec.VerityGUID(m.Root.Hash); tree.GUID != guid {
			t.Errorf("%s: verity A's GUID %s does not tell the root hash %s", a.Name, tree.GUID, m.Root.Hash)
		}
		data, hashes := k.read(a.Name, slot.Start, m.Root.Data), k.read(a.Name, tree.Start, int64(len(root))-m.Root.Data)
		if !bytes.Equal(append(data, hashes...), root) {
			t.Errorf("%s: slot A does not hold the root image", a.Name)
		}
		empty, _ := d.Partition(bootspec.LabelRootB)
		if !bytes.Equal(k.read(a.Name, empty.Start, empty.Size), make([]byte, empty.Size)) {
			t.Errorf("%s: root B is not empty", a.Name)
		}
	}
}

func TestSameDiskBytes(t *testing.T) {
	k := newDiskKitchen(t, FormatDisk)
	first := k.bake().Encode()
	k.cache, k.out = filepath.Join(k.dir, "other-cache"), filepath.Join(k.dir, "other-out")
	t.Setenv("TZ", "Pacific/Chatham")
	t.Setenv("SOURCE_DATE_EPOCH", "5")
	if second := k.bake().Encode(); !bytes.Equal(first, second) {
		t.Errorf("equal plans, different manifests:\n%s%s", first, second)
	}
}

// TestOldDiskImagesGo: a disk image that the manifest does not list would be one of another bake.
func TestOldDiskImagesGo(t *testing.T) {
	k := newDiskKitchen(t, FormatDisk)
	k.bake()
	k.formats = nil
	m := k.bake()
	if _, ok := m.Artifact(manifest.KindDisk); ok {
		t.Error("the manifest lists a disk image that was not asked for")
	}
	if _, err := os.Stat(filepath.Join(k.out, base+bootspec.ExtDisk)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the earlier bake's disk image: %v", err)
	}
}

func TestDiskFaultsNameTheirCause(t *testing.T) {
	for want, spoil := range map[string]func(*kitchen){
		`format "floppy" is not known (netboot, disk, disk.zst, disk.qcow2, disk-4k`: func(k *kitchen) { k.formats = []string{"floppy"} },
		"no package brings usr/lib/systemd/boot/efi/systemd-bootx64":                 func(k *kitchen) { k.plan.Packages = k.plan.Packages[:len(k.plan.Packages)-1] },
		"make it 34 MiB": func(k *kitchen) { k.disk.ESP = 20 << 20 },
	} {
		k := newDiskKitchen(t, FormatDisk)
		spoil(k)
		if _, err := Bake(context.Background(), k.options()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		if left, err := os.ReadDir(k.out); err == nil && len(left) > 0 {
			t.Errorf("%q: left behind in the output folder: %v", want, left)
		}
	}
}
