package flash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRefusals(t *testing.T) {
	const g = 1 << 30
	stick := Device{Path: "/dev/sdb", Serial: "S1", Size: 4 * g, SectorSize: 512, Removable: true}
	for _, c := range []struct {
		change func(*Device)
		want   Want
		says   []string // nothing: it may be written
	}{
		{func(*Device) {}, Want{Size: 2 * g, SectorSize: 512}, nil},
		{func(*Device) {}, Want{Size: 4 * g, Serial: "S1"}, nil},
		{func(*Device) {}, Want{Serial: "S2", Force: true}, []string{`its serial number is "S1", not "S2"`}},
		{func(d *Device) { d.Size-- }, Want{Size: 4 * g}, []string{"too small"}},
		{func(d *Device) { d.SectorSize = 4096 }, Want{SectorSize: 512}, []string{"sectors of 4096 bytes, and the image is for 512: use the disk-4k image"}},
		{func(*Device) {}, Want{SectorSize: 4096}, []string{"sectors of 512 bytes, and the image is for 4096: use the disk image"}},
		{func(d *Device) { d.ReadOnly = true }, Want{}, []string{"read-only"}},
		{func(d *Device) { d.Removable = false }, Want{}, []string{`--serial "S1" --force`}},
		{func(d *Device) { d.Removable = false }, Want{Serial: "S1"}, []string{`--serial "S1" --force`}},
		{func(d *Device) { d.Removable = false }, Want{Force: true}, []string{`--serial "S1" --force`}},
		{func(d *Device) { d.Removable = false }, Want{Serial: "S1", Force: true}, nil},
		{func(d *Device) { d.Removable, d.Serial = false, "" }, Want{Force: true}, []string{"no serial number"}},
		// What is in use is not written, whatever is said.
		{func(d *Device) { d.Uses = []string{"sdb1 is mounted at /mnt"} }, Want{Serial: "S1", Force: true}, []string{"in use: sdb1 is mounted at /mnt"}},
		{func(d *Device) { d.System = true }, Want{Serial: "S1", Force: true}, []string{"this machine runs from it"}},
	} {
		d := stick
		c.change(&d)
		got := d.Refusals(c.want)
		if len(got) != len(c.says) || slices.ContainsFunc(c.says, func(s string) bool { return !strings.Contains(strings.Join(got, "; "), s) }) {
			t.Errorf("%+v for %+v: %q, want %q", d, c.want, got, c.says)
		}
		if err := d.Refuse(c.want); errors.Is(err, ErrRefused) != (len(c.says) > 0) {
			t.Errorf("%+v: %v", d, err)
		}
	}
}

func found(t *testing.T, path string) Device {
	t.Helper()
	d, err := Find(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func wantUse(t *testing.T, device, use string) {
	t.Helper()
	if got := strings.Join(found(t, device).Refusals(Want{}), "; "); !strings.Contains(got, use) {
		t.Errorf("%s: want %q, got %q", device, use, got)
	}
}

func TestFindTellsWhatADeviceIs(t *testing.T) {
	device := stick(t, 64*mib, 4096)
	d := found(t, device)
	if d.Size != 64*mib || d.SectorSize != 4096 || d.Transport != TransportLoop || d.System || len(d.Uses) > 0 || len(d.Refusals(Want{Size: 64 * mib})) > 0 {
		t.Errorf("%+v", d)
	}
	if want := []string{"data without a partition table"}; !slices.Equal(d.Content, want) {
		t.Errorf("content %q", d.Content)
	}
	link := filepath.Join(t.TempDir(), "by-id")
	if err := os.Symlink(device, link); err != nil {
		t.Fatal(err)
	}
	if found(t, link).Size != d.Size {
		t.Error("a link to it is another device")
	}
}

// TestContentNamesTheNode: who is asked whether a stick may be lost should see whose it is.
func TestContentNamesTheNode(t *testing.T) {
	device := stick(t, imageSize, 512)
	if _, err := flashDevice(t, t.Context(), opened(t, makeImage(t, 512)), device, node); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(found(t, device).Content, "\n")
	want := `partition 1 "slipway-esp", 19 MB
partition 2 "slipway-config", 8 MB: configuration of node worker-1 of cluster lab
partition 3 "slipway-state", 11 MB`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestMountedDeviceIsRefused(t *testing.T) {
	device, dir := stick(t, 64*mib, 512), filepath.Join(t.TempDir(), "a folder")
	run(t, "mkfs.vfat", device)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(device, dir, "vfat", 0, ""); err != nil {
		run(t, "mkfs.ext4", "-qF", device)
		if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
			t.Skipf("this kernel mounts neither: %v", err)
		}
	}
	t.Cleanup(func() { unix.Unmount(dir, 0) })
	wantUse(t, device, filepath.Base(device)+" is mounted at "+dir)
	if _, err := OpenDevice(device); !errors.Is(err, ErrBusy) { // also where mounts can't be seen from here
		t.Errorf("got %v", err)
	}
	if _, err := Configure(device, "worker", *node); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v", err)
	}
}

func TestSwapIsRefused(t *testing.T) {
	device := stick(t, 64*mib, 512)
	run(t, "mkswap", device)
	run(t, "swapon", device)
	t.Cleanup(func() { run(t, "swapoff", device) })
	wantUse(t, device, "is swap space")
}

func TestMountedPartitionIsRefused(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "stick")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 64*mib); err != nil {
		t.Fatal(err)
	}
	device := loopDevice(t, path, 512)
	run(t, "addpart", device, "1", "2048", "100000")
	t.Cleanup(func() { run(t, "delpart", device, "1") })
	part := device + "p1"
	if _, err := os.Stat(part); err != nil {
		t.Skipf("nobody makes nodes of partitions here: %v", err)
	}
	if _, err := Find(part); err == nil || !strings.Contains(err.Error(), "name the whole disk, "+device) {
		t.Errorf("got %v", err)
	}
	run(t, "mkfs.ext4", "-qF", part)
	dir := t.TempDir()
	if err := unix.Mount(part, dir, "ext4", 0, ""); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, 0) })
	wantUse(t, device, filepath.Base(part)+" is mounted at "+dir)
	if _, err := OpenDevice(device); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v", err)
	}
}

// TestSystemDiskIsRefused: the disk below the root file system, if there is one here.
func TestSystemDiskIsRefused(t *testing.T) {
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		t.Skip("the root file system is on no device")
	}
	m, err := readMachine()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir)
	}
	d := m.device(dir)
	if !d.System || !slices.Contains(d.Refusals(Want{Serial: d.Serial, Force: true}), "this machine runs from it") {
		t.Errorf("%+v", d)
	}
}

// TestMountsOfManyKinds: what mountinfo says about subvolumes, overlays and names with spaces.
func TestMountsOfManyKinds(t *testing.T) {
	m := &machine{mounts: map[string][]string{}, system: map[string]bool{}}
	for _, line := range []string{
		`36 35 98:0 /mnt1 /mnt\040two rw,noatime master:1 - ext3 /dev/root rw,errors=continue`,
		`40 35 0:40 / /srv rw - btrfs /dev/does-not-exist rw`,
		`41 35 98:0 / /mnt\040two rw - ext3 /dev/root rw`,
		`42 35 0:41 / / rw - overlay overlay rw`,
		`too short`, ``, `1 2 3 4 5 -`,
	} {
		m.addMount(line)
	}
	if got := fmt.Sprint(m.mounts["98:0"]); got != "[/mnt two]" {
		t.Errorf("98:0 is mounted at %s", got)
	}
}

func TestWhatIsNoDeviceIsRefused(t *testing.T) {
	for path, want := range map[string]string{"/dev/null": "no block device", t.TempDir(): "no block device", "/dev/no-such": "no such file"} {
		if _, err := Find(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", path, err)
		}
	}
	for path, want := range map[string]string{"/dev/no-such": "no such device", t.TempDir(): "neither a device nor a file"} {
		if _, err := CreateFile(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", path, err)
		}
	}
	if _, err := os.Stat("/dev/no-such"); err == nil {
		t.Error("a file was made in /dev")
	}
}

func TestBusyDevice(t *testing.T) {
	device := stick(t, imageSize, 512)
	target, err := OpenDevice(device)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDevice(device); !errors.Is(err, ErrBusy) {
		t.Errorf("a second flash of the same stick: %v", err)
	}
	target.Close()
	if target, err = OpenDevice(device); err != nil {
		t.Fatal(err)
	}
	target.Close()
}

func TestDevicesListsNoLoops(t *testing.T) {
	device := stick(t, imageSize, 512)
	list, err := Devices()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		if d.Path == device || d.Size == 0 || d.SectorSize == 0 {
			t.Errorf("%+v", d)
		}
	}
}
