package iso

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const mib = 1 << 20

// volume is one that is right.
func volume() Volume {
	return Volume{
		Label: "SLIPWAY_WORKER", System: "SLIPWAY", Size: 44 * mib, Boot: Extent{mib, 40 * mib}, Epoch: 1700000000,
		Files: []File{{"LONG.TXT", bytes.Repeat([]byte("two sectors and more\r\n"), 200)}, {"README.TXT", []byte("read me\r\n")}},
	}
}

// image is a file with something where the boot file system and the partition table are.
func image(t *testing.T, v Volume) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "x.iso"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(v.Size); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{512, gapStart - 1, v.Boot.Start, v.Size - 1} {
		if _, err := f.WriteAt([]byte("#"), at); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("no %s", name)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func holds(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in:\n%s", w, text)
		}
	}
}

// TestOthersReadIt gives the image to the tools that people use.
func TestOthersReadIt(t *testing.T) {
	v := volume()
	f := image(t, v)
	if err := Add(f, v); err != nil {
		t.Fatal(err)
	}
	report := tool(t, "xorriso", "-indev", f.Name(), "-report_el_torito", "plain")
	holds(t, report, "Volume id    : 'SLIPWAY_WORKER'", "22528 data blocks",
		"El Torito boot img :   1  UEFI  y   none  0x0000  0x00      1         512\n")
	for _, word := range []string{"FAILURE", "SORRY", "WARNING"} {
		if strings.Contains(report, word) {
			t.Errorf("xorriso complains:\n%s", report)
		}
	}
	holds(t, tool(t, "isoinfo", "-d", "-i", f.Name()), "Key 55 AA", "Volume size is: 22528", "No Emulation Boot")
	if got := tool(t, "isoinfo", "-x", "/LONG.TXT;1", "-i", f.Name()); got != string(v.Files[0].Data) {
		t.Errorf("LONG.TXT has %d bytes", len(got))
	}
}

// TestKernelMountsIt mounts the image through a loop device.
func TestKernelMountsIt(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	v := volume()
	f := image(t, v)
	if err := Add(f, v); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "iso9660", "-o", "loop,ro", f.Name(), dir).CombinedOutput(); err != nil {
		t.Skipf("no loop devices or no iso9660 here: %s", out)
	}
	defer syscall.Unmount(dir, 0)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v %v", entries, err)
	}
	info, err := entries[1].Info()
	if err != nil || info.ModTime().Unix() != v.Epoch {
		t.Errorf("%s is of %v: %v", entries[1].Name(), info.ModTime(), err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, entries[1].Name())); err != nil || string(got) != "read me\r\n" {
		t.Errorf("%s: %q %v", entries[1].Name(), got, err)
	}
}

// TestNothingElseChanges: table, partitions and size stay, and equal volumes give equal bytes wherever the clock is.
func TestNothingElseChanges(t *testing.T) {
	v := volume()
	var all [][]byte
	for _, zone := range []string{"UTC", "Pacific/Chatham"} {
		t.Setenv("TZ", zone)
		f := image(t, v)
		before, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if err := Add(f, v); err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(before[:gapStart], after[:gapStart]) || !bytes.Equal(before[v.Boot.Start:], after[v.Boot.Start:]) {
			t.Error("bytes outside of the gap have changed")
		}
		all = append(all, after)
	}
	if !bytes.Equal(all[0], all[1]) {
		t.Error("equal volumes, different bytes")
	}
}

func TestSmallBootFileSystemSaysItsSize(t *testing.T) {
	v := volume()
	v.Boot.Size = 8 * mib
	f := image(t, v)
	if err := Add(f, v); err != nil {
		t.Fatal(err)
	}
	holds(t, tool(t, "xorriso", "-indev", f.Name(), "-report_el_torito", "plain"), "none  0x0000  0x00  16384         512\n")
}

func TestFaults(t *testing.T) {
	for want, spoil := range map[string]func(*Volume){
		`"slipway worker" and "SLIPWAY" are not`: func(v *Volume) { v.Label = "slipway worker" },
		"are not up to 32":                       func(v *Volume) { v.System = strings.Repeat("A", 33) },
		"of 46137345 bytes is not":               func(v *Volume) { v.Size++ },
		"is not on its sectors":                  func(v *Volume) { v.Boot.Start += 512 },
		"of 99614720 bytes at byte 1048576":      func(v *Volume) { v.Boot.Size = 95 * mib },
		`"readme.txt" is not a file name`:        func(v *Volume) { v.Files[1].Name = "readme.txt" },
		"not sorted":                             func(v *Volume) { v.Files[0].Name = "Z.TXT" },
		"not in 1900 to 2155":                    func(v *Volume) { v.Epoch = 1 << 40 },
		"do not fit into the gap":                func(v *Volume) { v.Files[0].Data = make([]byte, mib) },
		"too many files": func(v *Volume) {
			v.Files = nil
			for i := range 60 {
				v.Files = append(v.Files, File{Name: "F" + string(rune('0'+i/10)) + string(rune('0'+i%10)) + ".TXT"})
			}
		},
	} {
		v := volume()
		f := image(t, v)
		spoil(&v)
		if err := Add(f, v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	v := volume()
	f := image(t, v)
	if _, err := f.WriteAt([]byte{1}, 40000); err != nil {
		t.Fatal(err)
	}
	if err := Add(f, v); err == nil || !strings.Contains(err.Error(), "byte 40000 is used already") {
		t.Errorf("a gap that is in use: %v", err)
	}
}
