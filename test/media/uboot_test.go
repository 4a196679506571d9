package media

import (
	"os"
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
