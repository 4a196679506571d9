package faults

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/nodeconfig"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// armPatience is how long an emulated machine may need for a step on its way from power to a pod.
const armPatience = 40 * time.Minute

// armPod goes where there is a node: the cluster's own scheduler chooses it.
const armPod = `
apiVersion: v1
kind: Pod
metadata: {name: proof, namespace: default}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  tolerations: [{operator: Exists}]
  nodeSelector: {kubernetes.io/arch: arm64}
  containers:
    - {name: check, image: "slipway.local/check:0.1.0", imagePullPolicy: Never, command: [/check, sleep, 1s]}
`

// TestClusterArm64 has a control plane of this machine's architecture in namespaces, and a worker for arm64 that was baked here: a
// virtual machine with firmware, disk and two network cards. It reaches its target, its node is Ready, and it runs a pod.
// SLIPWAY_ARM64 is the folder with its disk image (`make test-arm64`).
func TestClusterArm64(t *testing.T) {
	folder := os.Getenv("SLIPWAY_ARM64")
	if folder == "" {
		t.Skip("SLIPWAY_ARM64 doesn't name a folder with a worker's disk image for arm64")
	}
	r := newRackOf(t, "lab.yaml", cluster.Lab())
	r.administer(t)
	worker, _ := r.cluster.Node("worker-1")
	medium := r.medium(t, folder, worker)
	r.machines[0].on(t)
	t.Logf("FIGURE a control plane in namespaces: from power to ready %.1f s", await(t, "the control plane", r.whole).Seconds())
	r.risesOnArm(t, worker, medium)
}

// TestClusterArm64ControlPlane has a control plane for arm64 and no other machine: it makes a cluster of its own, is Ready in it, and runs
// a pod that its own scheduler gave it.
func TestClusterArm64ControlPlane(t *testing.T) {
	folder := os.Getenv("SLIPWAY_ARM64")
	if folder == "" {
		t.Skip("SLIPWAY_ARM64 doesn't name a folder with a control plane's disk image for arm64")
	}
	r := newRackOf(t, "lab.yaml", cluster.Lab())
	r.administer(t)
	node, _ := r.cluster.Node("cp-1")
	r.risesOnArm(t, node, r.medium(t, folder, node))
}

// risesOnArm powers an emulated machine on and wants it to get as far as a node gets.
func (r *rack) risesOnArm(t *testing.T, node *cluster.Node, medium string) {
	t.Helper()
	console := filepath.Join(r.folder, node.Name+".console")
	ended := r.emulate(t, node, medium, console)
	began := time.Now()
	target := "slipway-" + node.Role + ".target"
	for _, step := range []struct {
		words string
		try   func(context.Context) error
	}{
		{target, said(console, "slipway: units are started (target "+target)},
		{"its node Ready", r.says("True arm64", "get", "node", node.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.nodeInfo.architecture}`)},
		{"its pod", r.armPodDone},
	} {
		eventually(t, step.words, console, ended, step.try)
		t.Logf("FIGURE a %s for arm64, emulated: from power to %s %.0f s", node.Role, step.words, time.Since(began).Seconds())
	}
}

// medium is a copy of the disk image with the node's configuration in its place.
func (r *rack) medium(t *testing.T, folder string, node *cluster.Node) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(folder, "slipway-"+node.Role+"-*-arm64"+bootspec.ExtDisk))
	if err != nil || len(found) != 1 {
		t.Fatalf("there is no one disk image for arm64 in %s: %q %v", folder, found, err)
	}
	medium := filepath.Join(t.TempDir(), "disk") // on a disk: it takes more than memory has
	command(t, "cp", "--sparse=always "+found[0]+" "+medium)
	if err := os.Truncate(medium, 4<<30); err != nil {
		t.Fatal(err)
	}
	document, err := nodeconfig.Render(r.cluster, node.Name, r.identity, nodeconfig.Environment{Environment: environment(), Server: r.server()})
	if err != nil {
		t.Fatal(err)
	}
	d, err := disk.Inspect(medium)
	if err != nil {
		t.Fatal(err)
	}
	place, ok := d.Partition(bootspec.LabelConfig)
	if !ok {
		t.Fatalf("%s has no place for a configuration", found[0])
	}
	f, err := os.OpenFile(medium, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	config := bootspec.Config{Cluster: r.cluster.Metadata.Name, Node: node.Name, Document: document}
	if err := bootspec.WriteConfig(place.Of(f), config, f.Sync); err != nil {
		t.Fatal(err)
	}
	return medium
}

// emulate powers a machine on, with its network cards in the hall. What it gives tells that the machine is off.
func (r *rack) emulate(t *testing.T, node *cluster.Node, medium, console string) <-chan error {
	t.Helper()
	const code, vars = "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"
	own := filepath.Join(r.folder, "vars")
	command(t, "cp", vars+" "+own)
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-m", "2048", "-smp", "1",
		"-machine", "virt,gic-version=3", "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "cortex-a72", "-serial", "file:" + console,
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + code, "-drive", "if=pflash,unit=1,format=raw,file=" + own,
		"-smbios", "type=11,value=io.systemd.stub.kernel-cmdline-extra=systemd.default_timeout_start_sec=900",
		"-device", "virtio-rng-pci", "-drive", "if=none,id=disk,format=raw,cache=unsafe,file=" + medium, "-device", "virtio-blk-pci,drive=disk,bootindex=1",
	}
	for i, l := range node.Links {
		tap := fmt.Sprintf("tap%d", i)
		command(t, "ip", "tuntap add dev "+tap+" mode tap")
		command(t, "ip", "link set "+tap+" master "+l.Network+" up")
		args = append(args, "-netdev", fmt.Sprintf("tap,id=n%d,ifname=%s,script=no,downscript=no", i, tap),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=n%d,mac=%s,romfile=", i, l.MAC))
	}
	c := exec.Command("qemu-system-aarch64", args...)
	var words bytes.Buffer
	c.Stderr = &words
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Skip("no qemu-system-aarch64: ", err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- fmt.Errorf("the machine went off: %v: %s", c.Wait(), words.String())
		close(ended)
	}()
	t.Cleanup(func() { _ = c.Process.Kill(); <-ended })
	return ended
}

// said is a condition: the console has shown that.
func said(console, text string) func(context.Context) error {
	return func(context.Context) error {
		log, err := os.ReadFile(console)
		if err == nil && !strings.Contains(string(log), text) {
			err = fmt.Errorf("the console doesn't say %q", text)
		}
		return err
	}
}

// armPodDone is a condition: a pod has run on a node of arm64. It is applied when it isn't there.
func (r *rack) armPodDone(ctx context.Context) error {
	if _, err := r.kubectl(ctx, armPod, "apply", "-n", "default", "-f", "-"); err != nil {
		return err
	}
	return r.says("Succeeded", "get", "pod", "proof", "-n", "default", "-o", "jsonpath={.status.phase}")(ctx)
}

// eventually is await for what an emulated machine does.
func eventually(t *testing.T, what, console string, ended <-chan error, try func(context.Context) error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(armPatience); time.Now().Before(deadline); time.Sleep(time.Second) {
		select {
		case off := <-ended:
			t.Fatal(off)
		default:
		}
		if err = try(t.Context()); err == nil {
			return
		}
	}
	log, _ := os.ReadFile(console)
	t.Fatalf("%s: %v; end of the console:\n%s", what, err, log[max(0, len(log)-6000):])
}
