package media

import (
	"os"
	"testing"
)

// TestMachineWithIPXEOnUEFI: the ROM of QEMU's network card has an iPXE for UEFI. It takes the firmware's place, asks DHCP as iPXE, and starts
// the image by a script: with its own name as command line, as iPXE would by itself, no kernel would find its root image.
func TestMachineWithIPXEOnUEFI(t *testing.T) {
	const rom = "/usr/lib/ipxe/qemu/efi-e1000e.rom"
	if _, err := os.Stat(rom); err != nil {
		t.Skip("package ipxe-qemu is not installed: ", err)
	}
	b := newBench(t)
	args := pc().firmware(t, t.TempDir()+"/vars", "")
	m := launchIn(t, b.space, append(args, "-netdev", "tap,id=boot,ifname=tap0,script=no,downscript=no",
		"-device", "e1000e,netdev=boot,mac=52:54:00:00:00:21,romfile="+rom+",bootindex=1")...)
	b.awaitLog(m, "for iPXE, http://10.1.0.1:8080/ipxe/", `msg="http: sent"`)
	m.await(lineAgent)
}
