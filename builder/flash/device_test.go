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

// TestKindsOfDevices: folders of /sys as real machines have them, with what matters in them.
func TestKindsOfDevices(t *testing.T) {
	root := t.TempDir()
	for _, c := range []struct {
		dir   string
		files map[string]string // relative to dir
		want  string
	}{
		{"devices/pci0000:00/0000:00:14.0/usb2/2-3/2-3:1.0/host4/target4:0:0/4:0:0:0/block/sdb", map[string]string{
			"removable": "1", "device/vendor": "SanDisk ", "device/model": "Ultra Fit       ", "device/vpd_pg80": "\x00\x80\x00\x04AB12", "../../../../../../idVendor": "0781", "../../../../../../serial": "4C530001",
		}, "SanDisk Ultra Fit, 4C530001, usb, removable"},
		{"devices/pci0000:00/0000:00:14.0/usb2/2-4/2-4:1.0/host5/target5:0:0/5:0:0:0/block/sdc", map[string]string{ // a fast one, which says it is a disk
			"removable": "0", "device/model": "Extreme\x1b[31m", "device/vpd_pg80": "\x00\x80\x00\x04AB12", "../../../../../../idVendor": "0781", "../../../../../../removable": "removable",
		}, "Extreme[31m, AB12, usb, removable"},
		{"devices/pci0000:00/0000:00:14.0/usb2/2-5/2-5:1.0/host6/target6:0:0/6:0:0:0/block/sdd", map[string]string{ // soldered onto the board
			"removable": "0", "../../../../../../idVendor": "0781", "../../../../../../removable": "fixed",
		}, ", , usb, fixed"},
		{"devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda", map[string]string{
			"removable": "0", "device/model": "Samsung SSD 870", "device/vpd_pg80": "\x00\x80\x00\x06S5Y1NG",
		}, "Samsung SSD 870, S5Y1NG, sata, fixed"},
		{"devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1", map[string]string{
			"removable": "0", "device/model": "WD_BLACK SN850X 1000GB", "device/serial": "22190W",
		}, "WD_BLACK SN850X 1000GB, 22190W, nvme, fixed"},
		{"devices/pci0000:00/0000:00:1a.0/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0", map[string]string{
			"removable": "0", "device/type": "SD", "device/serial": "0x1234",
		}, ", 0x1234, mmc, removable"},
		{"devices/pci0000:00/0000:00:1b.0/mmc_host/mmc1/mmc1:0001/block/mmcblk1", map[string]string{
			"removable": "0", "device/type": "MMC",
		}, ", , mmc, fixed"},
		{"devices/pci0000:00/0000:00:04.0/virtio1/block/vda", map[string]string{
			"removable": "0", "serial": "disk-1", "device/vendor": "0x1af4",
		}, ", disk-1, virtio, fixed"},
	} {
		dir := filepath.Join(root, c.dir)
		for name, text := range c.files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d := (&machine{}).device(dir)
		got := fmt.Sprintf("%s, %s, %s, %s", d.Model, d.Serial, d.Transport, map[bool]string{true: "removable", false: "fixed"}[d.Removable])
		if got != c.want {
			t.Errorf("%s: got %q, want %q", filepath.Base(dir), got, c.want)
		}
	}
}
