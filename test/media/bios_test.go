package media

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// bench is a network namespace with a bridge, a tap for a machine's interface, and `slipway serve` for the lab.
type bench struct {
	t     *testing.T
	space string
	log   string // of the boot server
	dir   string // with slipway, lab.yaml, identity and states
}

// newBench starts a boot server for the lab with the folder of artifacts; the words are more of its arguments.
func newBench(t *testing.T, words ...string) *bench {
	t.Helper()
	return newBenchFor(t, cluster.Lab(), nil, words...)
}

// newBenchFor is newBench for another document of a cluster "lab", with more addresses on the bridge.
func newBenchFor(t *testing.T, text []byte, addresses []string, words ...string) *bench {
	t.Helper()
	artifacts := filepath.Dir(artifact(t, bootspec.ExtUKI))
	if os.Getuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	dir := t.TempDir()
	program, document := filepath.Join(dir, "slipway"), filepath.Join(dir, "lab.yaml")
	run(t, "go", "build", "-o", program, "../../builder/slipway")
	must(t, os.WriteFile(document, text, 0o600))
	run(t, program, "identity", "--cluster", document, "--identity", filepath.Join(dir, "identity"))
	b := &bench{t: t, space: fmt.Sprintf("slipway-media-%d", os.Getpid()), log: filepath.Join(dir, "serve.log"), dir: dir}
	run(t, "ip", "netns", "add", b.space)
	t.Cleanup(func() { run(t, "ip", "netns", "del", b.space) })
	for _, words := range []string{
		"ip link set lo up", "ip link add br0 type bridge", "ip addr add 10.1.0.1/24 dev br0", "ip tuntap add tap0 mode tap",
		"ip link set tap0 master br0 up", "ip link set br0 up",
	} {
		run(t, "ip", append([]string{"netns", "exec", b.space}, strings.Fields(words)...)...)
	}
	for _, a := range addresses {
		run(t, "ip", "-n", b.space, "addr", "add", a, "dev", "br0")
	}
	log, err := os.Create(b.log)
	must(t, err)
	t.Cleanup(func() { log.Close() })
	server := exec.Command("ip", append([]string{"netns", "exec", b.space, program, "serve", "--cluster", document, "--artifacts", artifacts,
		"--identity", filepath.Join(dir, "identity"), "--interface", "br0", "--state", filepath.Join(dir, "states")}, words...)...)
	server.Stdout, server.Stderr = log, log
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	must(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
		if t.Failed() {
			words, _ := os.ReadFile(b.log)
			t.Logf("boot server:\n%s", words[max(0, len(words)-4000):])
		}
	})
	for deadline := time.Now().Add(time.Minute); b.get(bootspec.RouteHealth) == nil; {
		if time.Now().After(deadline) {
			t.Fatal("the boot server does not answer")
		}
		time.Sleep(200 * time.Millisecond)
	}
	return b
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// get asks the boot server; nil: no answer.
func (b *bench) get(route string) []byte {
	out, err := exec.Command("ip", "netns", "exec", b.space, "curl", "-sf", "-m", "5", "http://10.1.0.1:8080"+route).Output()
	if err != nil {
		return nil
	}
	return out
}

// boot powers the lab's worker on, a machine with SeaBIOS.
func (b *bench) boot(devices ...string) *machine {
	return launchIn(b.t, b.space, append([]string{
		"-machine", "smm=on", "-m", "1024",
		"-netdev", "tap,id=boot,ifname=tap0,script=no,downscript=no",
		"-netdev", "user,id=other,restrict=on", "-device", "virtio-net-pci,netdev=other,mac=52:54:00:00:01:21,romfile=,addr=0x10", // behind the one it boots from
	}, devices...)...)
}

// await waits until the server knows that the worker came to an event.
func (b *bench) await(event bootspec.Event, m *machine) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Second) {
		var nodes []struct {
			Name  string `json:"name"`
			State string `json:"state"`
		}
		if json.Unmarshal(b.get(bootspec.RouteNodes), &nodes) != nil {
			continue
		}
		for _, n := range nodes {
			if n.Name == "worker-1" && n.State == string(event) {
				return
			}
		}
		if strings.Contains(m.console(), lineFailed) {
			break
		}
	}
	b.t.Fatalf("the worker never came to %q", event)
}

// said checks the boot server's words.
func (b *bench) said(lines ...string) {
	b.t.Helper()
	log, err := os.ReadFile(b.log)
	must(b.t, err)
	for _, line := range lines {
		if !strings.Contains(string(log), line) {
			b.t.Errorf("the boot server doesn't say %q", line)
		}
	}
}

// TestMachineWithBIOSBootsFromTheNetwork: SeaBIOS, with the PXE ROM that QEMU gives its interfaces, which is iPXE. There is no
// control plane, so the worker's units can't all start: a network as the document wants it is the last it does alone.
func TestMachineWithBIOSBootsFromTheNetwork(t *testing.T) {
	b := newBench(t)
	m := b.boot("-device", "e1000e,netdev=boot,mac=52:54:00:00:00:21,bootindex=1")
	b.await(bootspec.EventNetworkUp, m)
	b.said("/boot.ipxe", "part=initrd")
}

// TestMachineWithBIOSBootsOverABond: iPXE's script has the bond that the node's address is on, so the agent asks over it from its first packet
// on, with the MAC address of the card that firmware booted by, which the document names last.
func TestMachineWithBIOSBootsOverABond(t *testing.T) {
	b := newBenchFor(t, []byte(`
apiVersion: slipway.dev/v1alpha1
kind: Cluster
metadata: {name: lab}
provisioning: {subnet: 10.1.0.0/24, server: 10.1.0.1}
networks: {mgmt: {cidr: 10.1.0.0/24}}
nodes:
  - name: cp-1
    role: control-plane
    links: [{name: eth0, mac: "52:54:00:00:00:11", network: mgmt, address: 10.1.0.11}]
  - name: worker-1
    role: worker
    match: {mac: "52:54:00:00:00:21"}
    links:
      - {name: lan0, mac: "52:54:00:00:01:21"}
      - {name: lan1, mac: "52:54:00:00:00:21"}
      - {name: bond0, members: [lan0, lan1], bond: {mode: active-backup}, network: mgmt, address: 10.1.0.21}
`), nil)
	for _, words := range []string{"tuntap add tap1 mode tap", "link set tap1 master br0 up"} {
		run(t, "ip", append([]string{"-n", b.space}, strings.Fields(words)...)...)
	}
	m := launchIn(t, b.space, "-machine", "smm=on", "-m", "1024",
		"-netdev", "tap,id=boot,ifname=tap0,script=no,downscript=no", "-device", "e1000e,netdev=boot,mac=52:54:00:00:00:21,bootindex=1",
		"-netdev", "tap,id=other,ifname=tap1,script=no,downscript=no", "-device", "virtio-net-pci,netdev=other,mac=52:54:00:00:01:21,romfile=")
	m.await("slipway: network is up (link bond0")
	b.await(bootspec.EventNetworkUp, m)
	m.never("taking the change back")
}

// TestMachineWithBIOSLoadsIPXE: a PXE ROM loads undionly.kpxe by TFTP, which asks again and boots. The ROM is played by an iPXE
// that is told to do what a plain one would.
func TestMachineWithBIOSLoadsIPXE(t *testing.T) {
	const rom = "/usr/lib/ipxe/ipxe.lkrn"
	if _, err := os.Stat(rom); err != nil {
		t.Skip("package ipxe is not installed: ", err)
	}
	b := newBench(t)
	script := filepath.Join(t.TempDir(), "first.ipxe")
	loader := filepath.Base(artifact(t, bootspec.ExtBIOS))
	must(t, os.WriteFile(script, []byte("#!ipxe\niseq ${net0/mac} 52:54:00:00:00:21 && dhcp net0 || dhcp net1\nchain tftp://10.1.0.1/"+loader+"\n"), 0o600))
	m := b.boot("-device", "e1000,netdev=boot,mac=52:54:00:00:00:21,romfile=", "-kernel", rom, "-initrd", script)
	b.await(bootspec.EventNetworkUp, m)
	b.said("tftp: sent", loader, "/boot.ipxe", "part=initrd")
}
