package drives

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// machine is a sysfs with drives of every kind, as real machines have them.
func machine(t testing.TB) string {
	t.Helper()
	sys := t.TempDir()
	const pci = "devices/pci0000:00/"
	block(t, sys, pci+"0000:00:04.0/virtio2", "vda", map[string]string{
		"size": "41943040", "queue/logical_block_size": "4096", "serial": "virtual-1", "device/vendor": "0x1af4",
		"vda1/partition": "1", "vda1/start": "2048", "vda1/size": "1048576", "vda1/uevent": "MAJOR=254\nPARTN=1\nPARTNAME=slipway-esp\n",
		"vda10/partition": "10", "vda10/start": "1050624", "vda10/size": "2048",
	})
	block(t, sys, pci+"0000:00:1d.0/0000:01:00.0/nvme/nvme0", "nvme0n1", map[string]string{
		"size": "1000215216", "device/serial": "S5GXNX0T  ", "device/model": "Samsung SSD 980 ", "wwid": "eui.002538d321b0c1d2\n",
	})
	block(t, sys, pci+"0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0", "sda", map[string]string{
		"size": "1000215216", "device/vendor": "ATA     ", "device/model": "WDC WD10", "device/wwid": "naa.50014ee2b1c2d3e4", "device/vpd_pg80": "\x00\x80\x00\x0aWD-WCC6Y0",
	})
	const usb = pci + "0000:00:14.0/usb1/1-2"
	block(t, sys, usb+"/1-2:1.0/host6/target6:0:0/6:0:0:0", "sdb", map[string]string{
		"size": "30277632", "removable": "1", "device/vendor": "SanDisk", "device/model": "Ultra Fit", "device/vpd_pg80": "\x00\x80\x00\x04nope",
	})
	put(t, filepath.Join(sys, usb), map[string]string{"idVendor": "0781", "serial": "4C530001"})
	block(t, sys, pci+"0000:00:17.0/ata2/host1/target1:0:0/1:0:0:0", "sr0", map[string]string{"size": "2097151", "removable": "1", "queue/logical_block_size": "2048"})
	block(t, sys, pci+"0000:00:14.0/usb1/1-3/1-3:1.0/host7/target7:0:0/7:0:0:0", "sdc", map[string]string{"size": "0", "removable": "1"}) // a card reader
	put(t, filepath.Join(sys, "devices/virtual/block/loop0"), map[string]string{"size": "8", "queue/logical_block_size": "512"})
	link(t, "../devices/virtual/block/loop0", filepath.Join(sys, "block/loop0"))
	return sys
}

// block makes a drive; device is where it hangs.
func block(t testing.TB, sys, device, name string, files map[string]string) {
	t.Helper()
	folder := filepath.Join(sys, device, "block", name)
	all := map[string]string{"ro": "0", "removable": "0", "queue/logical_block_size": "512"}
	inDevice := map[string]string{}
	for file, content := range files {
		if rest, ok := strings.CutPrefix(file, "device/"); ok {
			inDevice[rest] = content
			continue
		}
		all[file] = content
	}
	put(t, folder, all)
	put(t, filepath.Join(sys, device), inDevice)
	link(t, filepath.Join(sys, device), filepath.Join(folder, "device"))
	link(t, filepath.Join("..", device, "block", name), filepath.Join(sys, "block", name))
}

func put(t testing.TB, folder string, files map[string]string) {
	t.Helper()
	for file, content := range files {
		path := filepath.Join(folder, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

func link(t testing.TB, target, path string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(target, path)); err != nil {
		t.Fatal(err)
	}
}

func TestListTellsEveryDrive(t *testing.T) {
	got, err := List(machine(t))
	if err != nil {
		t.Fatal(err)
	}
	want := []Drive{
		{Name: "vda", Path: "/dev/vda", Serial: "virtual-1", Bus: "pci-0000:00:04.0", Transport: "virtio", Size: 41943040 * 512, SectorSize: 4096, Partitions: []Partition{
			{Name: "vda1", Path: "/dev/vda1", Label: "slipway-esp", Number: 1, Start: 1 << 20, Size: 512 << 20},
			{Name: "vda10", Path: "/dev/vda10", Number: 10, Start: 513 << 20, Size: 1 << 20},
		}},
		{Name: "sdb", Path: "/dev/sdb", Model: "SanDisk Ultra Fit", Serial: "4C530001", Bus: "pci-0000:00:14.0", Transport: "usb", Size: 30277632 * 512, SectorSize: 512, Removable: true},
		{Name: "sdc", Path: "/dev/sdc", Bus: "pci-0000:00:14.0", Transport: "usb", SectorSize: 512, Removable: true},
		{Name: "sda", Path: "/dev/sda", Model: "ATA WDC WD10", Serial: "WD-WCC6Y0", WWN: "naa.50014ee2b1c2d3e4", Bus: "pci-0000:00:17.0", Transport: "ata", Size: 1000215216 * 512, SectorSize: 512},
		{Name: "sr0", Path: "/dev/sr0", Bus: "pci-0000:00:17.0", Transport: "ata", Size: 2097151 * 512, SectorSize: 2048, Removable: true, Optical: true},
		{Name: "nvme0n1", Path: "/dev/nvme0n1", Model: "Samsung SSD 980", Serial: "S5GXNX0T", WWN: "eui.002538d321b0c1d2", Bus: "pci-0000:01:00.0", Transport: "nvme", Size: 1000215216 * 512, SectorSize: 512},
	}
	if len(got) != len(want) {
		t.Fatalf("%d drives: %+v", len(got), got)
	}
	for i := range want {
		if got[i].Device = ""; !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("got\n%+v\nwant\n%+v", got[i], want[i])
		}
	}
}

func TestListOfThisMachine(t *testing.T) {
	if _, err := List("/sys"); err != nil {
		t.Error(err)
	}
}

func TestListNamesWhatItCannotRead(t *testing.T) {
	sys := machine(t)
	put(t, filepath.Join(sys, "block/vda"), map[string]string{"size": "many"})
	if _, err := List(sys); err == nil || !strings.Contains(err.Error(), `vda: size says "many"`) {
		t.Errorf("got %v", err)
	}
	if _, err := List(t.TempDir()); err == nil {
		t.Error("a machine without /sys/block has drives")
	}
}

func TestChooseTakesTheDriveThatIsMeant(t *testing.T) {
	list, err := List(machine(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		match bootspec.DiskMatch
		want  string // a path or a part of the error
	}{
		"serial":                {bootspec.DiskMatch{Serial: "WD-WCC6Y0"}, "/dev/sda"},
		"USB's own serial":      {bootspec.DiskMatch{Serial: "4C530001"}, "/dev/sdb"},
		"wwn":                   {bootspec.DiskMatch{WWN: "0x50014EE2B1C2D3E4"}, "/dev/sda"},
		"eui":                   {bootspec.DiskMatch{WWN: "eui.002538d321b0c1d2"}, "/dev/nvme0n1"},
		"path":                  {bootspec.DiskMatch{Path: "/dev/vda"}, "/dev/vda"},
		"bus":                   {bootspec.DiskMatch{Path: "pci-0000:01:00.0"}, "/dev/nvme0n1"},
		"sys":                   {bootspec.DiskMatch{Path: "/sys/devices/pci0000:00/0000:00:17.0/ata1"}, "/dev/sda"},
		"not half of a name":    {bootspec.DiskMatch{Path: "/sys/devices/pci0000:00/0000:00:17.0/ata"}, "no drive fits"},
		"size":                  {bootspec.DiskMatch{MinSize: 20e9, MaxSize: 30e9}, "/dev/vda"},
		"smallest":              {bootspec.DiskMatch{Smallest: true}, "/dev/sdb"},
		"smallest of some":      {bootspec.DiskMatch{Smallest: true, MinSize: 20e9}, "/dev/vda"},
		"smallest, two of them": {bootspec.DiskMatch{Smallest: true, MinSize: 100e9}, "/dev/sda"},
		"two fit":               {bootspec.DiskMatch{MinSize: 100e9}, "more than one drive fits (at least 100.0 GB): say its serial or wwn"},
		"all must match":        {bootspec.DiskMatch{Serial: "WD-WCC6Y0", MaxSize: 1e9}, "no drive fits (serial WD-WCC6Y0, at most 1.0 GB)"},
		"no CD-ROM":             {bootspec.DiskMatch{Path: "/dev/sr0"}, "no drive fits (path /dev/sr0)"},
		"no empty card reader":  {bootspec.DiskMatch{Path: "/dev/sdc"}, "no drive fits"},
		"nothing said":          {bootspec.DiskMatch{}, "nothing is said to choose it by"},
		"no wwn is none":        {bootspec.DiskMatch{WWN: "naa."}, "no drive fits"},
	} {
		d, table, err := Choose(c.match, list, nil)
		if got := d.Path; err != nil && !strings.Contains(err.Error(), c.want) || err == nil && got != c.want {
			t.Errorf("%s: %s, %v\n%s", name, got, err, strings.Join(table.Lines(), "\n"))
		}
		for _, line := range table {
			if name != "nothing said" && len(line.Why) == 0 {
				t.Errorf("%s: nothing is said of %s", name, line.Path)
			}
		}
	}
}

func TestTheTableSaysWhy(t *testing.T) {
	list, err := List(machine(t))
	if err != nil {
		t.Fatal(err)
	}
	exclude := func(d Drive) string {
		if d.Transport == "usb" {
			return "the medium this machine booted from"
		}
		return ""
	}
	_, table, err := Choose(bootspec.DiskMatch{Smallest: true, MinSize: 10e9}, list, exclude)
	if err != nil {
		t.Fatal(err)
	}
	want := `DRIVE         SIZE      SECTOR  BUS                      MODEL              SERIAL     WWN                   VERDICT
/dev/vda      21.5 GB   4096    virtio pci-0000:00:04.0  -                  virtual-1  -                     CHOSEN: the smallest of 3 that fit
/dev/sdb      15.5 GB   512     usb pci-0000:00:14.0     SanDisk Ultra Fit  4C530001   -                     no: the medium this machine booted from
/dev/sdc      0.0 MB    512     usb pci-0000:00:14.0     -                  -          -                     no: no medium in it, the medium this machine booted from, smaller than 10.0 GB
/dev/sda      512.1 GB  512     ata pci-0000:00:17.0     ATA WDC WD10       WD-WCC6Y0  naa.50014ee2b1c2d3e4  no: /dev/vda is smaller
/dev/sr0      1.1 GB    2048    ata pci-0000:00:17.0     -                  -          -                     no: a CD-ROM, smaller than 10.0 GB
/dev/nvme0n1  512.1 GB  512     nvme pci-0000:01:00.0    Samsung SSD 980    S5GXNX0T   eui.002538d321b0c1d2  no: /dev/vda is smaller`
	if got := strings.Join(table.Lines(), "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestAwaitSeesADriveThatComesLater: a USB stick appears seconds after the kernel has started.
func TestAwaitSeesADriveThatComesLater(t *testing.T) {
	sys := machine(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go func() {
		time.Sleep(400 * time.Millisecond)
		block(t, sys, "devices/pci0000:00/0000:00:05.0/virtio3", "vdb", map[string]string{"serial": "late", "size": "2048"})
	}()
	if d, _, err := Await(ctx, sys, bootspec.DiskMatch{Serial: "late"}, nil); err != nil || d.Path != "/dev/vdb" {
		t.Errorf("%+v, %v", d, err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 0)
	defer cancel()
	if _, table, err := Await(ctx, sys, bootspec.DiskMatch{Serial: "never"}, nil); !errors.Is(err, ErrNone) || len(table) != 7 {
		t.Errorf("%d drives, %v", len(table), err)
	}
	if _, _, err := Await(context.Background(), sys, bootspec.DiskMatch{MinSize: 1}, nil); !errors.Is(err, ErrMany) {
		t.Errorf("waiting would not make it one: %v", err)
	}
}

// FuzzDrive gives a drive whatever a device may tell of itself.
func FuzzDrive(f *testing.F) {
	f.Add([]byte("\x00\x80\x00\x04abcd"), "model", "PARTNAME=x")
	f.Fuzz(func(t *testing.T, page []byte, model, event string) {
		sys := t.TempDir()
		block(t, sys, "devices/pci0000:00/0000:00:17.0/host0", "sda", map[string]string{
			"size": "4096", "device/vpd_pg80": string(page), "device/model": model,
			"sda1/partition": "1", "sda1/start": "1", "sda1/size": "1", "sda1/uevent": event,
		})
		list, err := List(sys)
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		for _, s := range []string{list[0].Serial, list[0].Model, list[0].Partitions[0].Label} {
			if len(s) > maxText || strings.ContainsAny(s, "\n\x00\x1b") {
				t.Errorf("%q gets through", s)
			}
		}
	})
}
