package storage

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// image is a folder that is a root image as far as file systems go: this machine's programs.
func image(t *testing.T) (Tools, *strings.Builder) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	if _, err := os.Stat("/usr/sbin/mkfs.ext4"); err != nil {
		t.Skip(err)
	}
	root := t.TempDir()
	for _, dir := range []string{"usr", "dev", "var"} {
		must(t, os.Mkdir(filepath.Join(root, dir), 0o755))
	}
	for _, link := range []string{"lib", "lib64", "bin", "sbin"} {
		must(t, os.Symlink("usr/"+link, filepath.Join(root, link)))
	}
	if err := unix.Mount("/usr", root+"/usr", "", unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Skip("cannot bind mount here: ", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(root+"/usr", unix.MNT_DETACH)) })
	var log strings.Builder
	return Tools{Root: root, Log: slog.New(slog.NewTextHandler(&log, nil))}, &log
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// device is a loop device of so many MiB, and its file.
func device(t *testing.T, size int64) (path, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "device")
	must(t, os.WriteFile(file, nil, 0o600), os.Truncate(file, size*mib))
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device can be had here: %v: %s", err, out)
	}
	path = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", path).CombinedOutput(); err != nil {
			t.Errorf("cannot detach %s: %v: %s", path, err, out)
		}
	})
	return path, file
}

// mounted mounts for as long as the test wants.
func mounted(t *testing.T, tools Tools, fs FileSystem) (folder string, unmount func()) {
	t.Helper()
	folder = filepath.Join(tools.Root, "var")
	must(t, tools.Mount(fs, folder, 0))
	done := false
	unmount = func() {
		if !done {
			done = true
			must(t, unix.Unmount(folder, 0))
		}
	}
	t.Cleanup(unmount)
	return folder, unmount
}

func TestStateIsMadeOnceAndKept(t *testing.T) {
	tools, log := image(t)
	path, file := device(t, 40)
	fs := FileSystem{Device: path, Label: "slipway-state", Format: FormatExt4}
	must(t, tools.Prepare(t.Context(), fs))
	if out, err := exec.Command("e2fsck", "-f", "-n", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v: %s", err, out)
	}
	folder, unmount := mounted(t, tools, fs)
	must(t, os.WriteFile(folder+"/kept", []byte("yes"), 0o600))
	unmount()
	must(t, tools.Prepare(t.Context(), fs))
	folder, unmount = mounted(t, tools, fs)
	if data, err := os.ReadFile(folder + "/kept"); string(data) != "yes" {
		t.Errorf("%q, %v", data, err)
	}
	unmount()
	if n := strings.Count(log.String(), "file system made"); n != 1 || strings.Contains(log.String(), "grown") {
		t.Errorf("%s", log)
	}
	if entries, err := os.ReadDir(filepath.Join(tools.Root, "dev")); err != nil || len(entries) != 0 {
		t.Errorf("the image's /dev stays mounted: %d entries, %v", len(entries), err)
	}
	must(t, os.Truncate(file, 400*mib)) // the drive was made larger
	if out, err := exec.Command("losetup", "--set-capacity", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, tools.Prepare(t.Context(), fs))
	folder, _ = mounted(t, tools, fs)
	if strings.Contains(log.String(), "operation not permitted") {
		t.Skip("file systems cannot be grown here (CAP_SYS_RESOURCE)")
	}
	var st unix.Statfs_t
	must(t, unix.Statfs(folder, &st))
	if size := int64(st.Blocks) * st.Bsize; size < 300*mib || !strings.Contains(log.String(), "file system grown") {
		t.Errorf("%d MiB; %s", size/mib, log)
	}
}

func TestDamageIsRepairedOrTold(t *testing.T) {
	tools, log := image(t)
	path, _ := device(t, 40)
	fs := FileSystem{Device: path, Label: "slipway-state", Format: FormatExt4}
	must(t, tools.Prepare(t.Context(), fs))
	debugfs := func(command string) {
		t.Helper()
		if out, err := exec.Command("debugfs", "-w", "-R", command, path).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	debugfs("set_super_value free_blocks_count 7")
	debugfs("set_super_value state 2") // it saw errors
	must(t, tools.Prepare(t.Context(), fs))
	if !strings.Contains(log.String(), "file system repaired") {
		t.Errorf("%s", log)
	}
	debugfs("clri <2>") // the root folder
	if err := tools.Prepare(t.Context(), fs); err != nil {
		t.Logf("told: %v", err)
	} else {
		debugfs("set_super_value state 2")
		if err := tools.Prepare(t.Context(), fs); err == nil || !strings.Contains(err.Error(), "cannot repair file system slipway-state") {
			t.Errorf("a file system without a root folder: %v", err)
		}
	}
}

func TestForeignDataStays(t *testing.T) {
	tools, _ := image(t)
	path, file := device(t, 40)
	fs := FileSystem{Device: path, Label: "slipway-state", Format: FormatExt4}
	must(t, os.WriteFile(file, append([]byte("somebody's"), make([]byte, 40*mib-10)...), 0o600))
	if err := tools.Prepare(t.Context(), fs); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), Unknown) {
		t.Errorf("got %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(data), "somebody's") {
		t.Errorf("it is gone: %v", err)
	}
	if err := tools.Prepare(t.Context(), FileSystem{Device: file + "-none", Format: FormatExt4}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a device that is not there: %v", err)
	}
}

// TestACutOffMakeIsMadeAnew: mkfs writes the superblock last, and before that only behind the first block.
func TestACutOffMakeIsMadeAnew(t *testing.T) {
	tools, _ := image(t)
	path, file := device(t, 40)
	fs := FileSystem{Device: path, Label: "slipway-state", Format: FormatExt4}
	must(t, tools.Prepare(t.Context(), fs))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt(make([]byte, 4096), 0)
	must(t, err, f.Sync(), f.Close())
	_ = file
	must(t, tools.Prepare(t.Context(), fs))
	_, unmount := mounted(t, tools, fs)
	unmount()
}

func TestAFileSystemThatTheImageCannotMakeIsNamed(t *testing.T) {
	tools, _ := image(t)
	path, _ := device(t, 40)
	err := tools.Prepare(t.Context(), FileSystem{Device: path, Label: "slipway-data-x", Format: "zfs"})
	if err == nil || !strings.Contains(err.Error(), "the image has no mkfs.zfs") {
		t.Errorf("got %v", err)
	}
}
