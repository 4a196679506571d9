package media

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/verity"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

// Lines of the agent.
const (
	lineStateMade = "slipway: file system made"
	lineMounted   = "slipway: state is mounted at /var"
	lineGrown     = "slipway: file system grown to the size of its partition"
	lineBlessed   = "slipway: boot entry marked as good"
	lineUncounted = "slipway: boot entry has no counter"
	lineFailed    = "slipway: BOOT FAILED: "
	linePanic     = "Kernel panic - not syncing: dm-verity device corrupted"
)

func TestMachineBootsFromADisk(t *testing.T)                  { disks(t, bootspec.ExtDisk, 512) }
func TestMachineBootsFromADiskWithSectorsOf4096(t *testing.T) { disks(t, bootspec.ExtDisk4K, 4096) }

// disks boots a disk without any network twice: on the first boot the state is made, as large as the disk allows, and the
// boot entry proves itself; the second one, on a disk that has become larger, keeps both and grows the state.
func disks(t *testing.T, ext string, sector int) {
	path := medium(t, artifact(t, ext))
	configure(t, path, lone(t, nil))
	m := boot(t, virtioDisk(path, sector)...)
	if m.await(lineBlessed, lineFailed) != lineBlessed {
		t.FailNow()
	}
	for _, line := range []string{"slipway: configuration read from the medium (cluster lab, node worker-1", lineStateMade, lineMounted} {
		if !strings.Contains(m.console(), line) {
			t.Errorf("the console doesn't say %q", line)
		}
	}
	m.off() // nobody shuts a machine down at a pulled plug
	if got := entries(t, path); strings.Contains(got, "+") || !strings.HasSuffix(got, "-amd64.efi") {
		t.Errorf("boot entries: %s", got)
	}
	if p := partition(t, path, bootspec.LabelState); p.Size < 900<<20 {
		t.Errorf("the state partition has %d bytes", p.Size)
	}
	if got := kept(t, path); got != "booted\n" {
		t.Errorf("what the first boot wrote: %q", got)
	}
	must(t, os.Truncate(path, 3584<<20))
	m = boot(t, virtioDisk(path, sector)...)
	m.await(lineUncounted, lineFailed)
	m.never(lineStateMade, lineFailed, lineBlessed)
	if !strings.Contains(m.console(), lineGrown) {
		t.Errorf("the console doesn't say %q", lineGrown)
	}
	m.off()
	if p := partition(t, path, bootspec.LabelState); p.Size < 1900<<20 {
		t.Errorf("the state partition has not grown with its disk: %d bytes", p.Size)
	}
	if got := kept(t, path); !strings.HasPrefix(got, "booted\n") { // the second one's words may still have been in memory
		t.Errorf("what the first boot wrote: %q", got)
	}
}

// kept is what boots wrote to the state.
func kept(t *testing.T, path string) string {
	t.Helper()
	state := cut(t, path, bootspec.LabelState)
	if out, err := exec.Command("e2fsck", "-f", "-p", state).CombinedOutput(); err != nil && err.(*exec.ExitError).ExitCode() > 1 {
		t.Errorf("e2fsck: %v: %s", err, out)
	}
	out, err := exec.Command("debugfs", "-R", "cat /lab/worker-1/lib/boots", state).Output()
	must(t, err)
	return string(out)
}

// flip changes a byte.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	change(t, path, func(f *os.File) error {
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			return err
		}
		b[0] ^= 0x40
		_, err := f.WriteAt(b, at)
		return err
	})
}

// twoSlots is a disk with the baked image as version 0.2.0 in slot A, whose entry has one try left, and as it is in slot B.
// The loader prefers the newer one.
func twoSlots(t *testing.T) string {
	t.Helper()
	base := strings.TrimSuffix(artifact(t, bootspec.ExtRoot), bootspec.ExtRoot)
	cmdline, err := os.ReadFile(base + bootspec.ExtCmdline)
	must(t, err)
	root, err := bootspec.ParseRoot(string(cmdline))
	must(t, err)
	file, err := os.ReadFile(base + bootspec.ExtRoot)
	must(t, err)
	kernel, err := os.ReadFile(base + bootspec.ExtUKI)
	must(t, err)
	loader, _, err := disk.OpenBootFile(open(t, base+bootspec.ExtDisk), partition(t, base+bootspec.ExtDisk, bootspec.LabelESP), bootspec.RemovableLoader("amd64"))
	must(t, err)
	program, err := io.ReadAll(loader)
	must(t, err)
	// Another salt makes another image of the same files; what the command line says keeps its length.
	tree, err := verity.Build(t.Context(), bytes.NewReader(file[:root.Data]), root.Data, [32]byte{2}, [16]byte{2})
	must(t, err)
	newer := disk.Slot{Image: strings.Replace(root.Image, "-0.1.0-", "-0.2.0-", 1), RootHash: hex.EncodeToString(tree.RootHash[:]), Data: root.Data}
	newer.Root = content(append(bytes.Clone(file[:root.Data]), tree.Bytes...))
	newer.UKI = content(bytes.ReplaceAll(bytes.ReplaceAll(kernel, []byte(root.Hash), []byte(newer.RootHash)), []byte(bootspec.ArgImage+"="+root.Image), []byte(bootspec.ArgImage+"="+newer.Image)))
	older := disk.Slot{Image: root.Image, RootHash: root.Hash, Data: root.Data, Root: content(file), UKI: content(kernel)}
	path := filepath.Join(t.TempDir(), "disk")
	must(t, disk.Write(path, disk.Layout{Arch: "amd64", SectorSize: 512, Loader: program, Slots: []disk.Slot{newer, older}, Seed: "two slots"}))
	at := fmt.Sprintf("%s@@%d", path, partition(t, path, bootspec.LabelESP).Start)
	old := "::EFI/Linux/" + bootspec.BootEntry(newer.Image, bootspec.BootTries)
	if out, err := exec.Command("mren", "-i", at, old, bootspec.BootEntry(newer.Image, 1)).CombinedOutput(); err != nil {
		t.Fatalf("mren: %v: %s", err, out)
	}
	return path
}

func content(data []byte) disk.Content {
	return disk.Content{Size: int64(len(data)), CopyTo: func(w io.Writer) error { _, err := w.Write(data); return err }}
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// TestMachineBootsSlotBWhenSlotAIsCorrupted: nothing of the corrupted one runs, its tries are used up, and the loader takes
// the other slot.
func TestMachineBootsSlotBWhenSlotAIsCorrupted(t *testing.T) {
	path := twoSlots(t)
	configure(t, path, lone(t, nil))
	flip(t, path, partition(t, path, bootspec.LabelRootA).Start+40) // in the squashfs superblock, which is read first
	m := boot(t, virtioDisk(path, 512)...)
	m.await(linePanic)
	m.never("systemd[1]")
	m.await(lineBlessed)
	m.off()
	if got := entries(t, path); got != "slipway-worker-0.1.0-amd64.efi slipway-worker-0.2.0-amd64+0-1.efi" {
		t.Errorf("boot entries: %s", got)
	}
	if !strings.Contains(m.console(), "slot "+bootspec.LabelRootB) {
		t.Error("the console doesn't say that slot B was booted")
	}
}

// TestMachineStopsAtADamagedConfiguration: it does not go on as another node, or as none.
func TestMachineStopsAtADamagedConfiguration(t *testing.T) {
	path := medium(t, artifact(t, bootspec.ExtDisk))
	configure(t, path, lone(t, nil))
	flip(t, path, partition(t, path, bootspec.LabelConfig).Start+4096+100) // in the document
	// A folder of the ESP that leads nowhere: the loader does not need it, and a person should know.
	esp := partition(t, path, bootspec.LabelESP)
	spoilFolder(t, path, esp.Start, esp.Size, "LOADER     ")
	m := boot(t, virtioDisk(path, 512)...)
	m.await(lineFailed)
	for _, want := range []string{
		lineFailed + "step claim: partition slipway-config of /dev/vda: cannot read the node configuration on the medium: its document is damaged",
		"slipway: the ESP cannot be read: the machine may not boot from this medium again",
	} {
		if !strings.Contains(m.console(), want) {
			t.Errorf("the console doesn't say %q", want)
		}
	}
	m.never("systemd[1]")
}

// spoilFolder gives a folder's record in the root directory a first cluster that there is not.
func spoilFolder(t *testing.T, path string, start, size int64, name string) {
	t.Helper()
	change(t, path, func(f *os.File) error {
		head := make([]byte, min(size, 8<<20))
		if _, err := f.ReadAt(head, start); err != nil {
			return err
		}
		at := bytes.Index(head, []byte(name+"\x10")) // a directory
		if at < 0 {
			return fmt.Errorf("no folder %s", name)
		}
		_, err := f.WriteAt([]byte{0xff, 0x0f}, start+int64(at)+20)
		return err
	})
}
