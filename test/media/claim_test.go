package media

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// power starts the lab's worker with kernel and initrd, without its firmware's detours, with words on its command line and what its SMBIOS
// says; more are further devices.
func (b *bench) power(words, uuid, serial string, more ...string) *machine {
	b.t.Helper()
	base := strings.TrimSuffix(artifact(b.t, bootspec.ExtRoot), bootspec.ExtRoot)
	cmdline, err := os.ReadFile(base + bootspec.ExtCmdline)
	must(b.t, err)
	return launchIn(b.t, b.space, append(more,
		"-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n,romfile=,mac=52:54:00:00:00:21",
		"-uuid", uuid, "-smbios", "type=1,serial="+serial, "-kernel", base+bootspec.ExtKernel, "-initrd", base+bootspec.ExtInitrd,
		"-append", strings.TrimSpace(string(cmdline))+" no_timer_check "+bootspec.ArgSource+"="+bootspec.SourceNetwork+" "+words)...)
}

// arm arms the worker.
func (b *bench) arm() {
	b.t.Helper()
	run(b.t, "ip", "netns", "exec", b.space, filepath.Join(b.dir, "slipway"), "arm", "worker-1", "--cluster", filepath.Join(b.dir, "lab.yaml"), "--state", filepath.Join(b.dir, "states"))
}

// TestMachineClaimsItsConfiguration: a machine whose image pins the boot server's authority claims its configuration over TLS; an image
// that pins another one stops; another machine with the same MAC address is refused until the node is armed.
func TestMachineClaimsItsConfiguration(t *testing.T) {
	b := newBench(t)
	certificate, err := os.ReadFile(filepath.Join(b.dir, "identity", "boot-ca.crt"))
	must(t, err)
	_, digest, err := bootspec.Secure{Authority: string(certificate)}.Trust(nil)
	must(t, err)
	const uuid, other = "4c4c4544-0042-3010-8051-b4c04f4e3132", "11111111-0042-3010-8051-b4c04f4e3132"
	pin := bootspec.ArgBootCA + "="

	m := b.power(pin+digest, uuid, "ABC1")
	m.await("is the one that is pinned in this image")
	m.await("configuration claimed over TLS")
	b.await(bootspec.EventProvisioned, m) // by a report over TLS
	m.off()
	b.said("configuration sent")

	m = b.power(pin, other, "ABC1") // without a pin
	m.await("BOOT CA NOT PINNED")
	m.await("slipway arm worker-1")
	m.off()
	b.said("CLAIM REFUSED")
	b.arm()

	m = b.power(pin+digest, other, "ABC1")
	m.await("configuration claimed over TLS")
	m.off()

	m = b.power(pin+strings.Repeat("ab", 32), uuid, "ABC1")
	m.await("BOOT FAILED")
	m.await("is not the one that is pinned in this image")
}
