package bake

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
	"github.com/slipway-os/slipway/images/manifest"
)

// TestISOIsADiskToo: one file that is a CD-ROM with a boot catalog, and a disk with a partition table.
func TestISOIsADiskToo(t *testing.T) {
	k := newDiskKitchen(t, FormatISO)
	m := k.bake()
	if err := m.VerifyFolder(k.out); err != nil {
		t.Error(err)
	}
	a, ok := m.Artifact(manifest.KindISO)
	if !ok || a.Name != base+".iso" {
		t.Fatalf("the manifest has %q", a.Name)
	}
	path := filepath.Join(k.out, a.Name)
	d, err := disk.Inspect(path)
	if err != nil {
		t.Fatal(err)
	}
	var labels []string
	for _, p := range d.Partitions {
		labels = append(labels, p.Label)
	}
	if got := strings.Join(labels, " "); got != "slipway-esp slipway-root-a slipway-verity-a slipway-config slipway-state" {
		t.Errorf("partitions %s", got)
	}
	place, _ := d.Partition(bootspec.LabelConfig)
	if !bytes.Equal(k.read(a.Name, place.Start, place.Size), make([]byte, place.Size)) {
		t.Error("the configuration place is not empty")
	}
	for tool, want := range map[string]string{
		"xorriso -indev FILE -report_el_torito plain": "UEFI  y   none  0x0000  0x00      1         512\n",
		"isoinfo -x /README.TXT;1 -i FILE":            "slipway flash " + base + ".iso node.iso --cluster",
		"sgdisk -v FILE":                              "No problems found",
		"fsck.vfat -n FILE.esp":                       "files,",
	} {
		if err := os.WriteFile(path+".esp", k.read(a.Name, d.Partitions[0].Start, d.Partitions[0].Size), 0o600); err != nil {
			t.Fatal(err)
		}
		words := strings.Fields(strings.ReplaceAll(tool, "FILE", path))
		if _, err := exec.LookPath(words[0]); err != nil {
			t.Logf("no %s", words[0])
			continue
		}
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, and no %q in:\n%s", tool, err, want, out)
		}
	}
}

// TestISOAndStickAreTwoDisks: both may be in one machine.
func TestISOAndStickAreTwoDisks(t *testing.T) {
	k := newDiskKitchen(t, FormatISO, FormatDisk)
	k.bake()
	iso, err := disk.Inspect(filepath.Join(k.out, base+bootspec.ExtISO))
	if err != nil {
		t.Fatal(err)
	}
	stick, err := disk.Inspect(filepath.Join(k.out, base+bootspec.ExtDisk))
	if err != nil {
		t.Fatal(err)
	}
	if iso.GUID == stick.GUID || iso.Partitions[0].GUID == stick.Partitions[0].GUID {
		t.Error("the ISO and the disk image have the same GUIDs")
	}
	first := k.read(base+bootspec.ExtISO, 0, 1<<20)
	k.cache, k.out = filepath.Join(k.dir, "other-cache"), filepath.Join(k.dir, "other-out")
	t.Setenv("TZ", "Pacific/Chatham")
	k.bake()
	if !bytes.Equal(first, k.read(base+bootspec.ExtISO, 0, 1<<20)) {
		t.Error("equal plans, different ISOs")
	}
}

func TestISOLabel(t *testing.T) {
	for want, in := range map[string][2]string{
		"SLIPWAY_WORKER_0_1_0":             {"worker", "0.1.0"},
		"SLIPWAY_CONTROL_PLANE_1_2_3_RC_1": {"control-plane", "1.2.3-rc.1+build.with.a.long.name"},
	} {
		if got := isoLabel(in[0], in[1]); got != want {
			t.Errorf("%v: %s, want %s", in, got, want)
		}
	}
}

// TestIPXELiesBesideTheImage: what a BIOS boots is an artifact, and not in the root image.
func TestIPXELiesBesideTheImage(t *testing.T) {
	k := newKitchen(t)
	if _, ok := k.bake().Artifact(manifest.KindBIOS); ok {
		t.Error("no package brings iPXE, and there is one")
	}
	k.pack("ipxe", "", fixture.File{Path: undionly, Content: "UNDIONLY"}, fixture.File{Path: "usr/lib/ipxe/ipxe.iso", Content: "ISO"})
	a, ok := k.bake().Artifact(manifest.KindBIOS)
	if !ok || a.Name != base+".kpxe" || string(k.read(a.Name, 0, a.Size)) != "UNDIONLY" {
		t.Errorf("%+v", a)
	}
	k.plan.Packages = k.plan.Packages[:len(k.plan.Packages)-1]
	k.bake()
	if _, err := os.Stat(filepath.Join(k.out, a.Name)); err == nil {
		t.Error("iPXE of an earlier bake lies beside an image without")
	}
}

// TestTheEntryOfAnISOIsNotCounted: a loader that counts renames a file, on a CD-ROM.
func TestTheEntryOfAnISOIsNotCounted(t *testing.T) {
	k := newDiskKitchen(t, FormatISO)
	k.bake()
	iso, err := disk.Inspect(filepath.Join(k.out, base+bootspec.ExtISO))
	if err != nil {
		t.Fatal(err)
	}
	if want := bootspec.UKIDirectory + "/" + base + bootspec.ExtUKI; !slices.ContainsFunc(iso.Files, func(f disk.BootFile) bool { return f.Path == want }) {
		t.Errorf("no %s in %+v", want, iso.Files)
	}
}
