package media

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// installing is a cluster of one node of our own and one that is never on. Each boot of the node writes a line to
// /var/lib/boots.
const installing = `
apiVersion: slipway.dev/v1alpha1
kind: Cluster
metadata: {name: lab}
provisioning: {subnet: 10.1.0.0/24, server: 10.1.0.1}
networks: {mgmt: {cidr: 10.1.0.0/24}}
ignition: [boots.ign]
nodes:
  - name: cp-1
    role: control-plane
    links: [{name: eth0, mac: "52:54:00:00:00:11", network: mgmt, address: 10.1.0.11}]
    install: {skip: true}
  - name: worker-1
    role: worker
    links: [{name: eth0, mac: "52:54:00:00:00:21", network: mgmt, address: 10.1.0.21}]
install: {disk: {minSize: 2GiB, smallest: true}}
`

const bootsIgnition = `{"ignition": {"version": "3.4.0"}, "storage": {"files": [{"path": "/etc/tmpfiles.d/boots.conf", "mode": 420,
"contents": {"source": "data:,f%20%2Fvar%2Flib%2Fboots%200644%20root%20root%20-%0Aw%2B%20%2Fvar%2Flib%2Fboots%20-%20-%20-%20-%20booted%5Cn%0A"}}]}}`

// rack is a network namespace with a boot server in it.
type rack struct {
	t              *testing.T
	name, dir, log string
	program        string
}

// newRack makes the namespace, with a bridge and a tap, and starts `slipway serve` in it.
func newRack(t *testing.T) *rack {
	t.Helper()
	return newRackOf(t, installing)
}

// newRackOf is newRack with a cluster document.
func newRackOf(t *testing.T, document string) *rack {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	dir := t.TempDir()
	r := &rack{t: t, name: fmt.Sprintf("slipway-%d", os.Getpid()), dir: dir, log: filepath.Join(dir, "serve.log"), program: filepath.Join(dir, "slipway")}
	r.run("go", "build", "-o", r.program, "github.com/slipway-os/slipway/builder/slipway")
	must(t, os.WriteFile(r.file("cluster.yaml"), []byte(document), 0o600), os.WriteFile(r.file("boots.ign"), []byte(bootsIgnition), 0o600))
	r.run("ip", "netns", "add", r.name)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", r.name).Run() })
	for _, words := range []string{
		"link set lo up", "link add br0 type bridge", "addr add 10.1.0.1/24 dev br0", "tuntap add dev tap0 mode tap", "link set tap0 master br0", "link set tap0 up", "link set br0 up",
	} {
		r.run("ip", append([]string{"-n", r.name}, strings.Fields(words)...)...)
	}
	r.run(r.program, "identity", "--cluster", r.file("cluster.yaml"))
	log, err := os.Create(r.log)
	must(t, err)
	serve := exec.Command("ip", "netns", "exec", r.name, r.program, "serve", "--cluster", r.file("cluster.yaml"), "--artifacts", os.Getenv("SLIPWAY_ARTIFACTS"), "--interface", "br0", "--state", r.file("state"))
	serve.Stdout, serve.Stderr = log, log
	must(t, serve.Start())
	t.Cleanup(func() { _ = serve.Process.Signal(syscall.SIGTERM); _ = serve.Wait(); log.Close() })
	r.await("msg=serving")
	return r
}

func (r *rack) file(name string) string { return filepath.Join(r.dir, name) }

func (r *rack) run(program string, args ...string) {
	r.t.Helper()
	r.output(program, args...)
}

// output runs a program and returns what it says.
func (r *rack) output(program string, args ...string) string {
	r.t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s %v: %v: %s", program, args, err, out)
	}
	return string(out)
}

// await waits for a text in the server's log.
func (r *rack) await(text string) {
	r.t.Helper()
	var log []byte
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if log, _ = os.ReadFile(r.log); bytes.Contains(log, []byte(text)) {
			return
		}
	}
	r.t.Fatalf("the server doesn't say %q:\n%s", text, log)
}

// bootsFrom is what the server has the worker boot.
func (r *rack) bootsFrom() string {
	r.t.Helper()
	said, err := exec.Command(r.program, "boot", "worker-1", "--cluster", r.file("cluster.yaml"), "--state", r.file("state")).Output()
	must(r.t, err)
	return strings.TrimSpace(string(said))
}

// powerOn starts a machine in the namespace whose firmware asks the network first, always, and then its disk.
func (r *rack) powerOn(disk string) *machine {
	r.t.Helper()
	return r.powerOnA(pc(), disk)
}

func (r *rack) powerOnA(p platform, disk string) *machine {
	r.t.Helper()
	return p.launchIn(r.t, r.name, append(p.firmware(r.t, r.file("vars"), ""),
		"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no",
		"-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n,mac=52:54:00:00:00:21,romfile=,bootindex=1",
		"-drive", "if=none,id=d,format=raw,cache=unsafe,file="+disk, "-device", "virtio-blk-pci,drive=d,serial=disk,bootindex=2")...)
}

// awaitCount waits until the console has said a text that often.
func (m *machine) awaitCount(text string, count int) {
	m.t.Helper()
	for deadline := time.Now().Add(m.patience); strings.Count(m.console(), text) < count; time.Sleep(300 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("the console says %q %d times, not %d", text, strings.Count(m.console(), text), count)
		}
		m.never(lineFailed)
		if m.t.Failed() {
			m.t.FailNow()
		}
	}
}

// TestMachineWithTheNetworkFirstInstallsOnce: UEFI PXE, installation, restart; then the firmware asks the network first at
// each boot, is sent to the disk, and the node keeps its state.
func TestMachineWithTheNetworkFirstInstallsOnce(t *testing.T) {
	installsOnce(t, pc())
}

func installsOnce(t *testing.T, p platform) {
	p.artifact(t, bootspec.ExtRoot)
	r, path := newRack(t), emptyDisk(t)
	m := r.powerOnA(p, path)
	m.awaitCount(lineInstalled, 1)
	m.awaitCount(lineStateMade, 1)
	if got := r.bootsFrom(); got != "disk" {
		t.Errorf("the server has the node boot from %q", got)
	}
	r.await(`event="network up"`)
	m.reset()
	m.awaitCount(lineMounted, 2)
	r.await("boots from its disk")
	m.awaitCount("slipway: network: eth0: set up", 2)
	m.off()
	if n := strings.Count(m.console(), lineInstalling); n != 1 {
		t.Errorf("it installed %d times", n)
	}
	if n := strings.Count(m.console(), lineStateMade); n != 1 {
		t.Errorf("its state was made %d times", n)
	}
	kept(t, path) // its file system is whole; what was written last was in memory when the reset button was pressed
}
