package media

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/flash"
	"github.com/slipway-os/slipway/images/bootspec"
)

// used is a device (and the file behind it) larger than an image, that was something else before: a text, again and again.
func used(t *testing.T) (device, path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a loop device needs root")
	}
	path = filepath.Join(t.TempDir(), "stick")
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	was := []byte(strings.Repeat("what was there before ", 50000))
	for at := int64(0); at < 2<<30; at += 32 << 20 {
		_, err := f.WriteAt(was, at)
		must(t, err)
	}
	out, err := exec.Command("losetup", "--find", "--show", path).Output()
	must(t, err)
	return strings.TrimSpace(string(out)), path
}

// TestMachineBootsFromWhatWasFlashed: the whole way of a field engineer, from the compressed image to started units.
func TestMachineBootsFromWhatWasFlashed(t *testing.T) {
	image, err := flash.Open(t.Context(), flash.Reference{Name: artifact(t, bootspec.ExtDisk+bootspec.ExtZstd)})
	must(t, err)
	device, path := used(t)
	func() {
		defer func() { must(t, exec.Command("losetup", "--detach", device).Run()) }()
		target, err := flash.OpenDevice(device)
		must(t, err)
		defer target.Close()
		_, err = flash.Write(t.Context(), flash.Order{Image: image, Target: target, Config: &bootspec.Config{Cluster: "lab", Node: "worker-9", Document: lone(t, nil)}})
		must(t, err)
	}()
	// The name on the medium is the first's, then the second's: it is configured anew before it boots.
	_, err = flash.Configure(path, "worker", bootspec.Config{Cluster: "lab", Node: "worker-1", Document: lone(t, nil)})
	must(t, err)
	m := boot(t, virtioDisk(path, 512)...)
	if m.await("slipway: units are started", lineFailed) != "slipway: units are started" {
		t.FailNow()
	}
	for _, line := range []string{"slipway: configuration read from the medium (cluster lab, node worker-1", lineStateMade, lineMounted} {
		if !strings.Contains(m.console(), line) {
			t.Errorf("the console doesn't say %q", line)
		}
	}
	m.off()
	if p := partition(t, path, bootspec.LabelState); p.Start+p.Size < 2<<30-32<<20 {
		t.Errorf("the state ends at byte %d", p.Start+p.Size)
	}
	if out, err := exec.Command("sgdisk", "-v", path).CombinedOutput(); err != nil || !strings.Contains(string(out), "No problems found") {
		t.Errorf("sgdisk, after the first boot: %v: %s", err, out)
	}
}
