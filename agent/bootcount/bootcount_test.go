package bootcount

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const image = "slipway-worker-0.2.0-amd64"

// esp is a folder with boot entries.
func esp(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "EFI/Linux"), 0o755))
	for _, n := range names {
		must(t, os.WriteFile(filepath.Join(dir, "EFI/Linux", n), []byte(n), 0o644))
	}
	return dir
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(dir, "EFI/Linux"))
	must(t, err)
	var words []string
	for _, e := range list {
		words = append(words, e.Name())
	}
	return strings.Join(words, " ")
}

func TestRenameTakesTheCounterOfThisImageOnly(t *testing.T) {
	for _, c := range []struct{ before, entry, after string }{
		{image + "+3.efi", image + ".efi", image + ".efi"},
		{image + "+2-1.efi slipway-worker-0.1.0-amd64+3.efi", image + ".efi", "slipway-worker-0.1.0-amd64+3.efi " + image + ".efi"},
		{image + ".efi", "", image + ".efi"},
		{image + "+1-2.efi " + image + ".efi", image + ".efi", image + ".efi"},
		{image + "+0-3.efi " + image + "+3.efi", image + ".efi", image + ".efi"},
	} {
		dir := esp(t, strings.Fields(c.before)...)
		entry, err := Rename(dir, image)
		if err != nil || entry != c.entry || names(t, dir) != c.after {
			t.Errorf("%s: entry %q, %v, then %s", c.before, entry, err, names(t, dir))
		}
		if entry, err := Rename(dir, image); entry != "" || err != nil {
			t.Errorf("%s: once more: %q, %v", c.before, entry, err)
		}
	}
}

func TestRenameTellsOfAMissingEntry(t *testing.T) {
	if _, err := Rename(esp(t, "slipway-worker-0.1.0-amd64+3.efi"), image); err == nil || !strings.Contains(err.Error(), "there is none of "+image) {
		t.Errorf("got %v", err)
	}
	if _, err := Rename(t.TempDir(), image); err == nil || !strings.Contains(err.Error(), "EFI/Linux") {
		t.Errorf("got %v", err)
	}
}

// TestBlessOnARealESP mounts a FAT file system, and one that is damaged.
func TestBlessOnARealESP(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	file := filepath.Join(t.TempDir(), "esp")
	must(t, os.WriteFile(file, nil, 0o600), os.Truncate(file, 40<<20))
	run(t, "mkfs.vfat", "-F", "32", file)
	run(t, "mmd", "-i", file, "::EFI", "::EFI/Linux")
	entry := filepath.Join(t.TempDir(), "entry")
	must(t, os.WriteFile(entry, []byte("kernel"), 0o600))
	run(t, "mcopy", "-i", file, entry, "::EFI/Linux/"+image+"+2-1.efi")
	device := strings.TrimSpace(run(t, "losetup", "--find", "--show", file))
	defer run(t, "losetup", "--detach", device)
	folder := filepath.Join(t.TempDir(), "esp")
	got, err := Bless(device, folder, image)
	if err != nil && strings.Contains(err.Error(), "no such device") {
		t.Skip("this kernel has no vfat: ", err)
	}
	if err != nil || got != image+".efi" {
		t.Errorf("%q, %v", got, err)
	}
	if out := run(t, "mdir", "-b", "-i", file, "::EFI/Linux"); strings.TrimSpace(out) != "::/EFI/Linux/"+image+".efi" {
		t.Errorf("entries: %s", out)
	}
	run(t, "fsck.vfat", "-n", file)
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("the ESP's folder stays: %v", err)
	}
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.Write(make([]byte, 4096))
	must(t, err, f.Close())
	if _, err := Bless(device, folder, image); err == nil || !strings.Contains(err.Error(), "cannot mount the ESP "+device) {
		t.Errorf("a damaged ESP: %v", err)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skip(err)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return string(out)
}
