package bake

import (
	"context"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/builder/uki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

const machineARM64 = 0xaa64

// newARM64Kitchen has packages of an image for arm64.
func newARM64Kitchen(t *testing.T) *kitchen {
	k := newDiskKitchen(t, FormatDisk)
	k.plan.Arch = "arm64"
	k.plan.Packages = k.plan.Packages[:3] // without EFI programs
	k.pack("systemd-boot-efi", "", fixture.File{Path: "usr/lib/systemd/boot/efi/linuxaa64.efi.stub", Content: string(fixture.StubFor(machineARM64, 3))},
		fixture.File{Path: "usr/lib/systemd/boot/efi/systemd-bootaa64.efi", Content: "LOADER for arm64"})
	k.pack("linux-image-arm64", "", fixture.File{Path: "boot/vmlinuz-6.12.1-arm64", Content: string(fixture.StubFor(machineARM64, 1))},
		fixture.File{Path: "lib/modules/6.12.1-arm64/kernel/fs/overlay.ko", Content: string(fixture.ModuleFor(elf.EM_AARCH64, "depends="))},
		fixture.File{Path: "lib/modules/6.12.1-arm64/kernel/fs/squashfs.ko", Content: string(fixture.ModuleFor(elf.EM_AARCH64, "depends="))},
		fixture.File{Path: "lib/modules/6.12.1-arm64/modules.order"}, fixture.File{Path: "lib/modules/6.12.1-arm64/modules.builtin"},
		fixture.File{Path: "lib/modules/6.12.1-arm64/modules.builtin.modinfo", Content: "ext4.license=GPL\x00"})
	last := len(k.plan.Packages) - 1
	k.plan.Kernel, k.plan.Packages = k.plan.Packages[last], k.plan.Packages[:last]
	k.plan.KernelRelease, k.plan.Initrd.Modules = "6.12.1-arm64", []string{"squashfs"}
	return k
}

// TestImageForARM64: names, UKI, boot loader and partition types are those of arm64, whatever machine bakes.
func TestImageForARM64(t *testing.T) {
	k := newARM64Kitchen(t)
	m := k.bake()
	const base = "slipway-worker-0.1.0-arm64"
	kernel, err := os.ReadFile(filepath.Join(k.out, base+bootspec.ExtUKI))
	if err != nil {
		t.Fatal(err)
	}
	if arch, err := uki.Machine(kernel); arch != "arm64" || m.Arch != "arm64" {
		t.Errorf("the unified kernel image is for %q (%v), the manifest for %q", arch, err, m.Arch)
	}
	d, err := disk.Inspect(filepath.Join(k.out, base+bootspec.ExtDisk))
	if err != nil {
		t.Fatal(err)
	}
	if f := d.Files[0]; f.Path != "EFI/BOOT/BOOTAA64.EFI" || f.Size != int64(len("LOADER for arm64")) {
		t.Errorf("the ESP begins with %+v", d.Files)
	}
	// UAPI specification "Discoverable Partitions", root and root verity of arm64.
	for label, want := range map[string]string{
		bootspec.LabelRootA: "b921b045-1df0-41c3-af44-4c6f280d3fae", bootspec.LabelVerityA: "df3300ce-d69f-4c92-978c-9bfb0f38d820",
	} {
		if p, _ := d.Partition(label); !strings.EqualFold(p.Type, want) {
			t.Errorf("%s has type %s", label, p.Type)
		}
	}
}

func TestPartsOfAnotherMachineAreRefused(t *testing.T) {
	for want, spoil := range map[string]func(*kitchen){
		"the kernel 6.12.1-test is for amd64, and the image for arm64": func(k *kitchen) {
			k.plan.Arch = "arm64"
			k.pack("systemd-boot-efi-arm64", "", fixture.File{Path: "usr/lib/systemd/boot/efi/linuxaa64.efi.stub", Content: string(fixture.StubFor(machineARM64, 3))})
		},
		"the EFI stub is for arm64, and the image for amd64": func(k *kitchen) {
			k.plan.Packages = k.plan.Packages[:3]
			k.pack("systemd-boot-efi", "", fixture.File{Path: "usr/lib/systemd/boot/efi/linuxx64.efi.stub", Content: string(fixture.StubFor(machineARM64, 3))})
		},
		"the kernel 6.12.2 can't boot with UEFI: not a PE32+ image": func(k *kitchen) {
			k.plan.Kernel = k.packageFile("linux-image", "", fixture.File{Path: "boot/vmlinuz-6.12.2", Content: "\x1f\x8b a kernel in gzip"})
			k.plan.KernelRelease = "6.12.2"
		},
	} {
		k := newKitchen(t)
		spoil(k)
		if _, err := Bake(context.Background(), k.options()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// TestDamagedLibrariesAreMadeAgain: a layer in the cache that lost a bit is found when its library is installed.
func TestDamagedLibrariesAreMadeAgain(t *testing.T) {
	k := newKitchen(t)
	none, err := Libraries(k.plan, k.cache, nil, nil)
	if none != "" || err != nil {
		t.Errorf("a plan without libraries has some: %q, %v", none, err)
	}
	k.plan.Libraries = []plan.Package{k.packageFile("libc6-dev", "", fixture.File{Path: "usr/lib/aarch64-linux-gnu/libc.a", Content: "the library"})}
	path := func(digest string) string { return filepath.Join(k.dir, digest) }
	first, err := Libraries(k.plan, k.cache, path, func(text string) { t.Log(text) })
	if err != nil {
		t.Fatal(err)
	}
	layers, err := filepath.Glob(filepath.Join(k.cache, "layers", "*.data"))
	if err != nil || len(layers) != 1 {
		t.Fatalf("layers: %q, %v", layers, err)
	}
	if err := errors.Join(os.WriteFile(layers[0], []byte("the libXary"), 0o644), os.RemoveAll(first)); err != nil {
		t.Fatal(err)
	}
	again, err := Libraries(k.plan, k.cache, path, func(text string) { t.Log(text) })
	if err != nil || again != first {
		t.Fatalf("%q, %v; before %q", again, err, first)
	}
	if got, err := os.ReadFile(filepath.Join(again, "usr/lib/aarch64-linux-gnu/libc.a")); string(got) != "the library" {
		t.Errorf("the library is %q (%v)", got, err)
	}
}
