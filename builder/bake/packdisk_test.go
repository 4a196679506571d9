package bake

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// tool runs a program that the test is nothing without.
func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is wanted (make deps): %v", name, err)
	}
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// TestPackedImagesAreTheSameImage: other people's tools make the raw image of each, byte for byte.
func TestPackedImagesAreTheSameImage(t *testing.T) {
	k := newDiskKitchen(t, FormatDisk, FormatDisk+manifest.FormZstd, FormatDisk+manifest.FormQCOW2)
	if err := k.bake().VerifyFolder(k.out); err != nil {
		t.Error(err)
	}
	raw := filepath.Join(k.out, base+bootspec.ExtDisk)
	want, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	unpacked, copied := filepath.Join(t.TempDir(), "unpacked"), filepath.Join(t.TempDir(), "copied")
	tool(t, "zstd", "-q", "-d", raw+bootspec.ExtZstd, "-o", unpacked)
	tool(t, "bmaptool", "copy", raw+bootspec.ExtZstd, copied) // it finds the block map by its name
	for _, file := range []string{unpacked, copied} {
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is another image: %v", filepath.Base(file), err)
		}
	}
	qcow2 := filepath.Join(k.out, base+".disk"+bootspec.ExtQCOW2)
	tool(t, "qemu-img", "check", "-f", "qcow2", qcow2)
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, qcow2)
}

func TestOnlyWhatIsWantedIsKept(t *testing.T) {
	k := newDiskKitchen(t, FormatDisk+manifest.FormZstd)
	first := k.bake()
	files := func() []string {
		list, err := filepath.Glob(filepath.Join(k.out, "*"+base+".disk*"))
		if err != nil {
			t.Fatal(err)
		}
		hidden, err := filepath.Glob(filepath.Join(k.out, ".*"))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, hidden...)
		for i := range list {
			list[i] = strings.TrimPrefix(filepath.Base(list[i]), base)
		}
		return list
	}
	if got, want := files(), []string{".disk.raw.bmap", ".disk.raw.zst"}; !slices.Equal(got, want) {
		t.Errorf("the folder has %v, want %v", got, want)
	}
	if again := k.bake(); !bytes.Equal(again.Encode(), first.Encode()) {
		t.Error("equal plans, different manifests")
	}
	k.formats = []string{FormatDisk + manifest.FormQCOW2}
	k.bake()
	if got, want := files(), []string{".disk.qcow2"}; !slices.Equal(got, want) {
		t.Errorf("the folder has %v, want %v", got, want)
	}
}
