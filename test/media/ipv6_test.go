package media

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// newBench6 is a bench whose machines may boot over IPv6 too.
func newBench6(t *testing.T) *bench {
	t.Helper()
	text := bytes.Replace(cluster.Lab(), []byte("  server: 10.1.0.1 "), []byte("  server6: fd00:1::1\n  server: 10.1.0.1 "), 1)
	text = bytes.Replace(text, []byte("cidr: 10.1.0.0/24"), []byte("cidr: 10.1.0.0/24, cidr6: fd00:1::/64"), 1)
	return newBenchFor(t, text, []string{"fd00:1::1/64"})
}

// uefi powers the lab's worker on, a machine with UEFI that boots from the network; words switch its ways to do so off: IPv4PXE, IPv6PXE.
func (b *bench) uefi(without ...string) *machine {
	b.t.Helper()
	args := pc().firmware(b.t, filepath.Join(b.t.TempDir(), "vars"), "")
	for _, way := range without {
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/"+way+"Support,string=no")
	}
	return launchIn(b.t, b.space, append(args, "-netdev", "tap,id=boot,ifname=tap0,script=no,downscript=no",
		"-device", "virtio-net-pci,netdev=boot,mac=52:54:00:00:00:21,romfile=,bootindex=1")...)
}

const lineAgent = "asking for an address"

// TestMachineWithUEFIPXEOverIPv6: OVMF has only PXE over IPv6 and loads the image by TFTP. When the node is to boot from its disk the firmware goes
// on with its next way to boot, at once.
func TestMachineWithUEFIPXEOverIPv6(t *testing.T) {
	b := newBench6(t)
	m := b.uefi("IPv4PXE")
	b.awaitLog(m, "advertise fd00:1::a01:15 for UEFI PXE, tftp://[fd00:1::1]/", "tftp: sent")
	m.await(lineAgent)
	run(t, "ip", "netns", "exec", b.space, filepath.Join(b.dir, "slipway"), "boot", "worker-1", "disk", "--cluster", filepath.Join(b.dir, "lab.yaml"), "--state", filepath.Join(b.dir, "states"))
	m.reset()
	b.awaitLog(m, "advertise fd00:1::a01:15 for UEFI PXE, boots from its disk", "no such file: boot-from-disk", "for UEFI HTTP, boots from its disk")
}

// TestMachineWithUEFIHTTPOverIPv6: OVMF has only HTTP Boot, and nobody answers it over IPv4. It loads the image over IPv6, and where the
// image's agent finds the boot server over IPv6 too, the node has its configuration without IPv4.
func TestMachineWithUEFIHTTPOverIPv6(t *testing.T) {
	b := newBench6(t)
	b.without4(t)
	m := b.uefi("IPv4PXE", "IPv6PXE")
	b.awaitLog(m, "advertise fd00:1::a01:15 for UEFI HTTP, http://[fd00:1::1]:8080/artifacts/", `msg="http: sent"`)
	m.await(lineAgent)
	b.awaitLog(m, "reply fd00:1::a01:15 for slipway-agent", "configuration sent")
}

// without4 has the boot server hear no DHCP over IPv4.
func (b *bench) without4(t *testing.T) {
	t.Helper()
	for _, words := range []string{"add table bridge six", "add chain bridge six in { type filter hook prerouting priority 0 ; }", "add rule bridge six in udp dport 67 drop"} {
		run(t, "ip", "netns", "exec", b.space, "nft", words)
	}
}

// TestMachineWithUEFIHTTP: HTTP Boot over IPv4.
func TestMachineWithUEFIHTTP(t *testing.T) {
	b := newBench(t)
	m := b.uefi("IPv4PXE", "IPv6PXE")
	b.awaitLog(m, "for UEFI HTTP, http://10.1.0.1:8080/artifacts/", `msg="http: sent"`)
	m.await(lineAgent)
}
