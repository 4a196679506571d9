package media

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// besideDnsmasq is a bench whose addresses come from dnsmasq, in a namespace of its own, which would have machines boot
// something else.
func besideDnsmasq(t *testing.T) *bench {
	t.Helper()
	if _, err := exec.LookPath("dnsmasq"); err != nil {
		t.Skip("dnsmasq is not installed (make deps)")
	}
	b := newBench(t, "--proxy")
	other := b.space + "-dhcp"
	run(t, "ip", "netns", "add", other)
	t.Cleanup(func() { run(t, "ip", "netns", "del", other) })
	run(t, "ip", "-n", b.space, "link", "add", "dhcp", "type", "veth", "peer", "name", "eth0", "netns", other)
	for _, words := range []string{"-n " + b.space + " link set dhcp master br0 up", "-n " + other + " addr add 10.1.0.2/24 dev eth0", "-n " + other + " link set eth0 up"} {
		run(t, "ip", strings.Fields(words)...)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "dnsmasq.log"))
	must(t, err)
	server := exec.Command("ip", "netns", "exec", other, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=eth0",
		"--bind-interfaces", "--user=root", "--pid-file=", "--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"), "--dhcp-authoritative", "--no-ping",
		"--dhcp-range=10.1.0.150,10.1.0.160", "--dhcp-boot=wrong.efi,wrong,10.1.0.2", "--log-dhcp", "--log-facility=-")
	server.Stdout, server.Stderr = log, log
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	must(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
		log.Close()
		if t.Failed() {
			words, _ := os.ReadFile(log.Name())
			t.Logf("dnsmasq:\n%s", words[max(0, len(words)-4000):])
		}
	})
	return b
}

// firmwarePatience is how long firmware may take to its kernel, emulated.
const firmwarePatience = 8 * time.Minute

// awaitLog waits until the boot server has said all of it.
func (b *bench) awaitLog(m *machine, lines ...string) {
	b.t.Helper()
	var missing string
	for deadline := time.Now().Add(firmwarePatience); time.Now().Before(deadline); time.Sleep(300 * time.Millisecond) {
		log, err := os.ReadFile(b.log)
		must(b.t, err)
		missing = ""
		for _, line := range lines {
			if !strings.Contains(string(log), line) {
				missing = line
			}
		}
		if missing == "" {
			return
		}
	}
	b.t.Fatalf("the boot server never says %q; the console:\n%s", missing, m.console())
}

// TestMachineWithIPXEBesideDnsmasq: iPXE as the ROM of a BIOS machine takes its address from dnsmasq and the script from us, not
// the file that dnsmasq names.
func TestMachineWithIPXEBesideDnsmasq(t *testing.T) {
	b := besideDnsmasq(t)
	m := b.boot("-device", "e1000e,netdev=boot,mac=52:54:00:00:00:21,bootindex=1")
	b.awaitLog(m, "proxy offer for iPXE", "/boot.ipxe", "part=initrd")
}

// TestMachineWithUEFIBesideDnsmasq: OVMF takes its address from dnsmasq, asks port 4011, and gets the image by TFTP.
func TestMachineWithUEFIBesideDnsmasq(t *testing.T) {
	b := besideDnsmasq(t)
	vars := filepath.Join(t.TempDir(), "vars")
	code, err := os.ReadFile(firmwareVars)
	must(t, err, os.WriteFile(vars, code, 0o600))
	m := launchIn(t, b.space, "-netdev", "tap,id=boot,ifname=tap0,script=no,downscript=no",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+firmwareCode, "-drive", "if=pflash,unit=1,format=raw,file="+vars,
		"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no",
		"-device", "virtio-net-pci,netdev=boot,mac=52:54:00:00:00:21,romfile=,bootindex=1")
	b.awaitLog(m, "msg=pxe", "proxy ack for UEFI PXE", "tftp: sent")
}

// TestMachineClaimsBesideDnsmasq: the agent takes its address from dnsmasq and the boot server's from us, and claims from there.
func TestMachineClaimsBesideDnsmasq(t *testing.T) {
	b := besideDnsmasq(t)
	m := b.power("", "4c4c4544-0042-3010-8051-b4c04f4e3132", "ABC1")
	m.await("configuration claimed over TLS")
	b.awaitLog(m, "proxy offer for slipway-agent", "configuration sent")
}
