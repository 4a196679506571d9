package media

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// uboot is U-Boot for QEMU's arm64 machine (package u-boot-qemu), as boards have it in their flash.
const uboot = "/usr/lib/u-boot/qemu_arm64/u-boot.bin"

// TestArm64MachineWithUBoot: U-Boot's own boot script asks DHCP as PXEClient, loads the image by TFTP and starts it as an EFI program.
func TestArm64MachineWithUBoot(t *testing.T) {
	p := virt()
	p.artifact(t, bootspec.ExtRoot)
	if _, err := os.Stat(uboot); err != nil {
		t.Skip("package u-boot-qemu is not installed: ", err)
	}
	r := newRack(t)
	m := p.launchIn(t, r.name, "-bios", uboot,
		"-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-device,netdev=n,mac=52:54:00:00:00:21") // on PCI this U-Boot misreads its MAC address
	r.await("tftp: sent")
	m.await(lineAgent, lineFailed)
	r.await("configuration sent")
}

// ubootFlash is the flash that keeps U-Boot's settings: those that make it use its command pxe, instead of its own boot script.
func ubootFlash(t *testing.T) string {
	t.Helper()
	const flash, settings = 64 << 20, 0x40000 // CONFIG_ENV_SIZE of qemu_arm64
	data := make([]byte, settings-4)
	copy(data, strings.Join([]string{
		"bootdelay=0", "bootcmd=setenv autoload no; dhcp; pxe get; pxe boot", "kernel_addr_r=0x40400000", "ramdisk_addr_r=0x44000000",
		"pxefile_addr_r=0x40300000", "fdt_addr=0x40000000", "stdin=pl011@9000000", "stdout=pl011@9000000", "stderr=pl011@9000000",
	}, "\x00")+"\x00")
	image := append(binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(data)), data...)
	path := filepath.Join(t.TempDir(), "flash")
	must(t, os.WriteFile(path, image, 0o600), os.Truncate(path, flash))
	return path
}

// TestArm64MachineWithUBootPXE: U-Boot's command pxe, on boards that start no EFI programs: it finds the node's configuration file, and loads kernel
// and initrd, which are the image's own.
func TestArm64MachineWithUBootPXE(t *testing.T) {
	p := virt()
	p.artifact(t, bootspec.ExtRoot)
	if _, err := os.Stat(uboot); err != nil {
		t.Skip("package u-boot-qemu is not installed: ", err)
	}
	r := newRack(t)
	m := p.launchIn(t, r.name, "-bios", uboot, "-drive", "if=pflash,unit=1,format=raw,file="+ubootFlash(t),
		"-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-device,netdev=n,mac=52:54:00:00:00:21")
	r.await("offer 10.1.0.21 for U-Boot, TFTP pxelinux.cfg/01-52-54-00-00-00-21")
	r.await("/initrd")
	m.await(lineAgent, lineFailed)
	r.await("configuration sent")
}
