package media

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// TestMachineIsAClusterWithoutAnyNetwork flashes the lab's control plane to a stick as an engineer does, and plugs it into a
// machine whose network ends at nobody. It comes up to a Ready node, its container images from its root image.
func TestMachineIsAClusterWithoutAnyNetwork(t *testing.T) {
	image := filepath.Join(filepath.Dir(artifact(t, bootspec.ExtDisk)), "slipway-control-plane-0.1.0-amd64"+bootspec.ExtDisk)
	for _, need := range []string{image, "../../bin/slipway"} {
		if _, err := os.Stat(need); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	stick := filepath.Join(dir, "stick")
	slipway(t, "identity", "--cluster", "lab", "--identity", filepath.Join(dir, "identity"))
	slipway(t, "flash", image, stick, "--cluster", "lab", "--node", "cp-1", "--identity", filepath.Join(dir, "identity"), "--offline", "--yes")
	must(t, os.Truncate(stick, 4<<30))
	devices := append(usbStick(stick), "-m", "2048")
	for i, mac := range []string{"52:54:00:00:00:11", "52:54:00:00:01:11"} {
		id := string(rune('a' + i))
		devices = append(devices, "-netdev", "hubport,hubid="+hub(i)+",id="+id, "-device", "virtio-net-pci,romfile=,netdev="+id+",mac="+mac)
	}
	m := boot(t, devices...)
	if m.await("slipway: node is Ready", lineFailed) == lineFailed {
		t.FailNow()
	}
	m.await(lineBlessed)
	if !strings.Contains(m.console(), lineMounted) {
		t.Errorf("the console doesn't say %q", lineMounted)
	}
}

func hub(i int) string { return string(rune('0' + i)) }

// slipway runs the operator's program.
func slipway(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("../../bin/slipway", args...).CombinedOutput(); err != nil {
		t.Fatalf("slipway %s: %v: %s", strings.Join(args, " "), err, out)
	}
}
