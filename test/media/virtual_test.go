package media

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// virtual boots a copy of the ISO of the same size with a node's configuration, as `slipway flash` makes it for virtual media.
// Nothing can be kept there.
func virtual(t *testing.T, device string) {
	path := filepath.Join(t.TempDir(), "node.iso")
	if out, err := exec.Command("cp", artifact(t, bootspec.ExtISO), path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	configure(t, path, lone(t, nil))
	m := boot(t, "-device", "qemu-xhci", "-drive", strings.ReplaceAll(device, "FILE", path), "-device", "usb-storage,drive=media,bootindex=1")
	if m.await("slipway: units are started", lineFailed) == lineFailed {
		t.FailNow()
	}
	for _, line := range []string{"slipway: configuration read from the medium (cluster lab, node worker-1", "the state is kept in memory"} {
		if !strings.Contains(m.console(), line) {
			t.Errorf("the console doesn't say %q", line)
		}
	}
	m.never(lineStateMade)
	m.off()
}

// TestMachineBootsFromTheISOAsUSBCDROM: a CD-ROM drive behind USB, as many management controllers have it.
func TestMachineBootsFromTheISOAsUSBCDROM(t *testing.T) {
	virtual(t, "if=none,id=media,media=cdrom,readonly=on,format=raw,file=FILE")
}

// TestMachineBootsFromTheISOAsVirtualStick: a stick of the ISO's own size, so that the state finds no room to grow.
func TestMachineBootsFromTheISOAsVirtualStick(t *testing.T) {
	virtual(t, "if=none,id=media,format=raw,file=FILE")
}
