package media

import (
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// usbStick is a stick at a USB 3 controller.
func usbStick(path string) []string {
	return []string{
		"-drive", "if=none,id=disk,format=raw,cache=unsafe,file=" + path,
		"-device", "qemu-xhci", "-device", "usb-storage,drive=disk,serial=stick,removable=on,bootindex=1",
	}
}

// cdrom is a drive with an image in it, as the virtual media of a management controller are.
func cdrom(path string) []string {
	return []string{
		"-drive", "if=none,id=cd,format=raw,media=cdrom,readonly=on,file=" + path,
		"-device", "ide-cd,drive=cd,bus=ide.1,bootindex=1",
	}
}

// sticks boots an image from a USB stick: the firmware is done with it, and the kernel finds it again after seconds.
func sticks(t *testing.T, ext, proved string) {
	path := medium(t, artifact(t, ext))
	configure(t, path, lone(t, nil))
	m := boot(t, usbStick(path)...)
	if m.await(proved, lineFailed) != proved {
		t.FailNow()
	}
	for _, line := range []string{"slipway: medium found (drive /dev/sda, model QEMU QEMU HARDDISK, serial stick", lineStateMade, lineMounted} {
		if !strings.Contains(m.console(), line) {
			t.Errorf("the console doesn't say %q", line)
		}
	}
	m.off()
	if got := kept(t, path); got != "booted\n" {
		t.Errorf("what the boot wrote: %q", got)
	}
}

func TestMachineBootsFromAUSBStick(t *testing.T)      { sticks(t, bootspec.ExtDisk, lineBlessed) }
func TestMachineBootsFromTheISOOnAStick(t *testing.T) { sticks(t, bootspec.ExtISO, lineUncounted) }

// TestMachineBootsFromTheISOAsCDROM: nothing can be written there, so the state is in memory. Beside it is a disk that holds
// the same image, and another node's configuration: the CD-ROM is meant.
func TestMachineBootsFromTheISOAsCDROM(t *testing.T) {
	iso := medium(t, artifact(t, bootspec.ExtISO))
	configure(t, iso, lone(t, nil))
	installed := medium(t, artifact(t, bootspec.ExtDisk))
	configure(t, installed, lone(t, func(n *bootspec.Node) { n.Name = "another" }))
	disk := virtioDisk(installed, 512)
	disk[len(disk)-1] = strings.Replace(disk[len(disk)-1], "bootindex=1", "bootindex=2", 1)
	m := boot(t, append(cdrom(iso), disk...)...)
	if m.await("slipway: units are started", lineFailed) == lineFailed {
		t.FailNow()
	}
	for _, line := range []string{"slipway: medium found (drive /dev/sr0", "node worker-1", "the state is kept in memory"} {
		if !strings.Contains(m.console(), line) {
			t.Errorf("the console doesn't say %q", line)
		}
	}
	m.never(lineStateMade, "cannot mark the boot entry")
	m.off()
	if got := entries(t, installed); !strings.Contains(got, "+3.efi") {
		t.Errorf("the disk's boot entries: %s", got)
	}
}

// TestMachineKeepsItsStateWhereItsDocumentSays: on a second, empty disk, with a volume on a third.
func TestMachineKeepsItsStateWhereItsDocumentSays(t *testing.T) {
	path := medium(t, artifact(t, bootspec.ExtDisk))
	config := lone(t, func(n *bootspec.Node) {
		n.Storage = &bootspec.Storage{
			State: &bootspec.DiskMatch{Serial: "for-state"},
			Data:  []bootspec.Volume{{Name: "photos", Disk: bootspec.DiskMatch{Serial: "for-data"}, Size: 64 << 20, Mount: "/srv/photos"}},
		}
	})
	configure(t, path, config)
	devices := virtioDisk(path, 512)
	for _, name := range []string{"state", "data"} {
		devices = append(devices, "-drive", "if=none,id="+name+",format=raw,cache=unsafe,file="+blank(t, name),
			"-device", "virtio-blk-pci,drive="+name+",serial=for-"+name)
	}
	m := boot(t, devices...)
	if m.await(lineBlessed, lineFailed) != lineBlessed {
		t.FailNow()
	}
	for _, line := range []string{"slipway: state is mounted at /var (device /dev/vdb1", "slipway: volume is mounted (name photos, device /dev/vdc1, at /srv/photos)"} {
		if !strings.Contains(m.console(), line) {
			t.Errorf("the console doesn't say %q", line)
		}
	}
}
