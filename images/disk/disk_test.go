package disk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

var sectors = []int{512, 4096}

func each(t *testing.T, test func(t *testing.T, l Layout)) {
	for _, sector := range sectors {
		t.Run(fmt.Sprint(sector), func(t *testing.T) { test(t, small(t, sector)) })
	}
}

// describe is a disk in words: a line for each partition and each file.
func describe(d *Disk) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d MiB, sectors of %d, %s, recovered %v %s\n", d.Size/mib, d.SectorSize, d.GUID, d.Recovered, d.Unreadable)
	for _, p := range d.Partitions {
		fmt.Fprintf(&b, "%d %s %s %s %x at %d MiB: %d MiB\n", p.Index, p.Label, p.Type, p.GUID, p.Attributes, p.Start/mib, p.Size/mib)
	}
	for _, f := range d.Files {
		fmt.Fprintf(&b, "%s %d\n", f.Path, f.Size)
	}
	return b.String()
}

func TestInspectTellsWhatWasWritten(t *testing.T) {
	each(t, func(t *testing.T, l Layout) {
		d, err := Inspect(written(t, l))
		if err != nil {
			t.Fatal(err)
		}
		esp := l.Sizes.ESP / mib
		guid := func(h string) string { return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:32] }
		a, b := l.Slots[0].RootHash, l.Slots[1].RootHash
		want := fmt.Sprintf(`%d MiB, sectors of %d, 91d69a18-0e01-8bf9-b811-721fe1177485, recovered false 
1 slipway-esp c12a7328-f81f-11d2-ba4b-00a0c93ec93b ESP-GUID 0 at 1 MiB: %d MiB
2 slipway-root-a 4f68bce3-e8cd-4db1-96e7-fbcaf984b709 %s 9000000000000000 at %d MiB: 4 MiB
3 slipway-verity-a 2c7357ed-ebd2-46d9-aec1-23d437ec2bf5 %s 9000000000000000 at %d MiB: 1 MiB
4 slipway-root-b 4f68bce3-e8cd-4db1-96e7-fbcaf984b709 %s 9000000000000000 at %d MiB: 4 MiB
5 slipway-verity-b 2c7357ed-ebd2-46d9-aec1-23d437ec2bf5 %s 9000000000000000 at %d MiB: 1 MiB
6 slipway-config 6a5f1c2e-3d0b-4f5e-9a64-736c69707779 CONFIG-GUID 8000000000000000 at %d MiB: 8 MiB
7 slipway-state 0fc63daf-8483-4772-8e79-3d69d8477de4 STATE-GUID 0 at %d MiB: 2 MiB
EFI/BOOT/BOOTX64.EFI 100001
EFI/Linux/slipway-worker-0.1.0-amd64+3.efi 3146505
EFI/Linux/slipway-worker-0.2.0-rc.1-amd64+3.efi 3146505
loader/loader.conf 38
`, esp+22, l.SectorSize, esp, guid(a), esp+1, guid(a[32:]), esp+5, guid(b), esp+6, guid(b[32:]), esp+10, esp+11, esp+19)
		names := []string{d.Partitions[0].GUID, "ESP-GUID", d.Partitions[5].GUID, "CONFIG-GUID", d.Partitions[6].GUID, "STATE-GUID"}
		got := strings.NewReplacer(names...).Replace(describe(d))
		if got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}

func TestSgdiskFindsNoProblem(t *testing.T) {
	each(t, func(t *testing.T, l Layout) {
		device := written(t, l)
		if l.SectorSize != 512 {
			device = loop(t, device, l.SectorSize) // of a plain file, sgdisk takes sectors of 512 bytes for granted
		}
		out, err := tool(t, "sgdisk", "-v", device)
		if err != nil || !strings.Contains(out, "No problems found.") || strings.Contains(out, "Caution") || strings.Contains(out, "Warning") {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// loop is a loop device of an image, with sectors of its own size.
func loop(t *testing.T, image string, sector int) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a loop device with other sectors needs root")
	}
	out, err := tool(t, "losetup", "--find", "--show", "--read-only", "--sector-size", fmt.Sprint(sector), image)
	if err != nil {
		t.Skipf("no loop device can be had here: %v: %s", err, out)
	}
	device := strings.TrimSpace(out)
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("cannot detach %s: %v: %s", device, err, out)
		}
	})
	return device
}

func TestFsckFindsNoProblem(t *testing.T) {
	each(t, func(t *testing.T, l Layout) {
		out, err := tool(t, "fsck.vfat", "-n", "-v", cut(t, written(t, l), bootspec.LabelESP))
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, bad := range []string{"differ", "invalid", "Invalid", "wrong", "Wrong", "uninitialized", "orphan", "Reclaim", "has changes", "Dirty"} {
			if strings.Contains(out, bad) {
				t.Errorf("it says %q: %s", bad, out)
			}
		}
	})
}

// TestFsckFindsNoProblemAtSizesThatTheLibraryGetsWrong: of 64 MiB and others go-diskfs makes too small a table.
func TestFsckFindsNoProblemAtSizesThatTheLibraryGetsWrong(t *testing.T) {
	for _, at := range []struct {
		sector int
		size   int64
	}{{512, 34}, {512, 64}, {512, 260}, {512, 261}, {4096, 260}} {
		l := small(t, at.sector)
		l.Sizes.ESP = at.size * mib
		if out, err := tool(t, "fsck.vfat", "-n", cut(t, written(t, l), bootspec.LabelESP)); err != nil {
			t.Errorf("%d MiB, sectors of %d: %v: %s", at.size, at.sector, err, out)
		}
	}
}

func TestMtoolsReadTheFiles(t *testing.T) {
	each(t, func(t *testing.T, l Layout) {
		esp := cut(t, written(t, l), bootspec.LabelESP)
		t.Setenv("TZ", "UTC")
		out, err := tool(t, "mdir", "-i", esp, "-/", "-b", "::")
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		want := `::/EFI/
::/EFI/BOOT/
::/EFI/BOOT/BOOTX64.EFI
::/EFI/Linux/
::/EFI/Linux/slipway-worker-0.1.0-amd64+3.efi
::/EFI/Linux/slipway-worker-0.2.0-rc.1-amd64+3.efi
::/loader/
::/loader/loader.conf
`
		if got := sorted(out); got != want {
			t.Errorf("files:\n%s", got)
		}
		out, err = tool(t, "mdir", "-i", esp, "::EFI/Linux")
		if err != nil || strings.Count(out, "2023-11-14  22:13") != 4 || !strings.Contains(out, "Volume in drive : is SLIPWAY") {
			t.Errorf("times of files: %v: %s", err, out)
		}
		for _, f := range l.bootFiles() {
			copied := filepath.Join(t.TempDir(), "copy")
			if out, err := tool(t, "mcopy", "-i", esp, "::"+f.path, copied); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			var want bytes.Buffer
			if err := f.content.CopyTo(&want); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(copied); err != nil || !bytes.Equal(got, want.Bytes()) {
				t.Errorf("%s is another: %d bytes, %v", f.path, len(got), err)
			}
		}
	})
}

func sorted(text string) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := range lines {
		for j := i + 1; j < len(lines); j++ {
			if lines[j] < lines[i] {
				lines[i], lines[j] = lines[j], lines[i]
			}
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

func TestVeritysetupTakesTheSlots(t *testing.T) {
	each(t, func(t *testing.T, l Layout) {
		image := written(t, l)
		for i, slot := range [][2]string{{bootspec.LabelRootA, bootspec.LabelVerityA}, {bootspec.LabelRootB, bootspec.LabelVerityB}} {
			root, tree := cut(t, image, slot[0]), cut(t, image, slot[1])
			if out, err := tool(t, "veritysetup", "verify", root, tree, l.Slots[i].RootHash); err != nil {
				t.Errorf("%s: %v: %s", slot, err, out)
			}
			if out, err := tool(t, "veritysetup", "verify", root, tree, l.Slots[1-i].RootHash); err == nil {
				t.Errorf("%s passes for the other slot's root hash: %s", slot, out)
			}
		}
	})
}

var imageFlag = flag.String("image", "", "for the process that TestSameBytes starts: where to put the image")

// TestSameBytes makes an image at another time, in another zone, with another umask and other words in the environment.
func TestSameBytes(t *testing.T) {
	if *imageFlag != "" {
		if err := Write(*imageFlag, small(t, 512)); err != nil {
			t.Fatal(err)
		}
		return
	}
	first := digest(t, written(t, small(t, 512)))
	time.Sleep(2100 * time.Millisecond) // FAT's times have steps of two seconds
	path := filepath.Join(t.TempDir(), "other.raw")
	c := exec.Command(os.Args[0], "-test.run", "^TestSameBytes$", "-image", path)
	c.Env = append(os.Environ(), "TZ=Pacific/Chatham", "SOURCE_DATE_EPOCH=5", "LC_ALL=de_DE.UTF-8", "GOMAXPROCS=1")
	defer syscall.Umask(syscall.Umask(0o077))
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if second := digest(t, path); second != first {
		t.Errorf("equal layouts, different bytes: first difference at byte %d", difference(t, written(t, small(t, 512)), path))
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the umask shows: %v, %v", info.Mode(), err)
	}
}

// TestSeedMakesOtherIdentities: two images that differ in nothing but their seed are not taken for each other.
func TestSeedMakesOtherIdentities(t *testing.T) {
	l := small(t, 512)
	a, err := Inspect(written(t, l))
	if err != nil {
		t.Fatal(err)
	}
	l.Seed = "another"
	l.Slots = l.Slots[:1]
	b, err := Inspect(written(t, l))
	if err != nil {
		t.Fatal(err)
	}
	for i := range a.Partitions {
		if same := a.Partitions[i].GUID == b.Partitions[i].GUID; same != (i == 1 || i == 2) { // slot A: the root hash's
			t.Errorf("partition %s: same GUID %v", a.Partitions[i].Label, same)
		}
	}
	if a.GUID == b.GUID {
		t.Error("the disks have the same GUID")
	}
}

func digest(t *testing.T, path string) [32]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

func difference(t *testing.T, a, b string) int {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return i
		}
	}
	return min(len(x), len(y))
}

func TestImageIsSparse(t *testing.T) {
	l := small(t, 512)
	l.Sizes = Sizes{}
	info, err := os.Stat(written(t, l))
	if err != nil {
		t.Fatal(err)
	}
	if taken := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() < 1600*mib || taken > 24*mib {
		t.Errorf("%d bytes take %d", info.Size(), taken)
	}
}

func TestSlotsHaveRoomToGrow(t *testing.T) {
	for want, spoil := range map[string]func(*Layout){
		"slipway-root-a: 1228800 bytes would fill it to 118 %, and at most 80 % are allowed: make it 2 MiB": func(l *Layout) { l.Sizes.Root = mib },
		"slipway-root-b": func(l *Layout) { l.Slots[1].Data, l.Slots[1].Root.Size = 4*mib, 4*mib+4096 },
		"slipway-verity-b: 1048576 bytes would fill it to 100 %": func(l *Layout) { l.Slots[1].Root.Size = rootData + mib },
		"slipway-esp with 2 kernel images":                       func(l *Layout) { l.Slots[0].UKI.Size = 17 * mib },
	} {
		l := small(t, 512)
		spoil(&l)
		path := filepath.Join(t.TempDir(), "x.raw")
		if err := Write(path, l); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	l := small(t, 512)
	l.Slots[0].Data, l.Slots[0].Root = 3355443/4096*4096, exactly(3355443/4096*4096+838860/4096*4096)
	l.Slots[1].Data, l.Slots[1].Root = 4096, exactly(8192)
	if err := Write(filepath.Join(t.TempDir(), "x.raw"), l); err != nil {
		t.Errorf("a slot that is as full as it may be: %v", err)
	}
}

func exactly(size int) Content { return content(make([]byte, size)) }

func TestFaultsNameTheirCause(t *testing.T) {
	broken := errors.New("the cache is damaged")
	for want, spoil := range map[string]func(*Layout){
		"sectors of 520 bytes":            func(l *Layout) { l.SectorSize = 520 },
		`architecture "mips"`:             func(l *Layout) { l.Arch = "mips" },
		"no boot loader":                  func(l *Layout) { l.Loader = nil },
		"0 images":                        func(l *Layout) { l.Slots = nil },
		"in both slots":                   func(l *Layout) { l.Slots[1] = l.Slots[0] },
		"no seed":                         func(l *Layout) { l.Seed = "" },
		"that is no image name":           func(l *Layout) { l.Slots[0].Image = "../x" },
		"is not a SHA-256 value":          func(l *Layout) { l.Slots[0].RootHash = "00" },
		"not whole blocks":                func(l *Layout) { l.Slots[0].Root.Size++ },
		"its verity tree at byte 0":       func(l *Layout) { l.Slots[0].Data = 0 },
		"its verity tree at byte 1249280": func(l *Layout) { l.Slots[0].Data = l.Slots[0].Root.Size },
		"2 images do not go into 1 slots": func(l *Layout) { l.OneSlot = true },
		"has 0 bytes":                     func(l *Layout) { l.Slots[0].UKI.Size = 0 },
		"not a multiple of 1048576":       func(l *Layout) { l.Sizes.State = 1000 },
		"make it 34 MiB":                  func(l *Layout) { l.Sizes.ESP = 20 * mib },
		"make it 260 MiB":                 func(l *Layout) { l.SectorSize = 4096 },
		"over the limit of 32 GiB":        func(l *Layout) { l.Sizes.ESP = 33 << 30 },
		"over the limit of 2199023255552": func(l *Layout) { l.Sizes.State = maxSize },
		broken.Error():                    func(l *Layout) { l.Slots[1].Root.CopyTo = func(io.Writer) error { return broken } },
		"1 bytes less than were said":     func(l *Layout) { l.Slots[0].UKI.Size++ },
		"1 bytes more than were said":     func(l *Layout) { l.Slots[0].UKI.Size-- },
	} {
		l := small(t, 512)
		spoil(&l)
		dir := t.TempDir()
		err := Write(filepath.Join(dir, "x.raw"), l)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%q: left behind: %v, %v", want, left, err)
		}
	}
}

func TestFailureKeepsTheImageBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.raw")
	if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := small(t, 512)
	l.Slots[1].Root.CopyTo = func(io.Writer) error { return io.ErrUnexpectedEOF }
	if err := Write(path, l); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "before" {
		t.Errorf("%q, %v", got, err)
	}
}

// BenchmarkWrite makes an image of real sizes: a kernel image of 60 MB, a root image of 150 MB.
func BenchmarkWrite(b *testing.B) {
	l := small(b, 512)
	l.Sizes = Sizes{}
	l.Slots = l.Slots[:1]
	l.Slots[0].UKI, l.Slots[0].Root = content(noise("uki", 60<<20)), content(noise("root", 150<<20))
	l.Slots[0].Data = 148 << 20
	dir := b.TempDir()
	b.SetBytes(210 << 20)
	for b.Loop() {
		if err := Write(filepath.Join(dir, "x.raw"), l); err != nil {
			b.Fatal(err)
		}
	}
}
