package kmod

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/internal/fixture"
)

const release = "6.12.1-test"

// kernel is a small kernel's modules: what ext4 and virtio are to each other in the real one.
func kernel() map[string][]byte {
	return map[string][]byte{
		"kernel/fs/ext4/ext4.ko":           fixture.Module("alias=fs-ext4", "alias=ext3", "softdep=pre: crc32c", "depends=jbd2,mbcache", "license=GPL"),
		"kernel/fs/jbd2/jbd2.ko":           fixture.Module("depends=", "name=jbd2"),
		"kernel/crypto/crc32c-intel.ko":    fixture.Module("alias=crc32c", "alias=cpu:type:x86,ven*fam*mod*:feature:*0094*", "depends=lib-crc"),
		"kernel/crypto/crc32c-gen.ko":      fixture.Module("alias=crc32c", "depends="),
		"kernel/lib/lib-crc.ko":            fixture.Module("depends="),
		"kernel/drivers/net/virtio-net.ko": fixture.Module("alias=virtio:d00000001v*", "depends=net_failover,failover,virtio"),
		"kernel/net/failover.ko":           fixture.Module("depends="),
		"kernel/net/net_failover.ko":       fixture.Module("depends=failover", "softdep=post: not-there"),
		"kernel/drivers/net/tun.ko":        fixture.Module("alias=devname:net/tun", "alias=char-major-10-200", "depends="),
	}
}

const (
	order       = "kernel/fs/jbd2/jbd2.ko\nkernel/fs/ext4/ext4.ko\nkernel/drivers/net/tun.ko\n"
	builtin     = "kernel/fs/mbcache.ko\nkernel/drivers/virtio/virtio.ko\n"
	builtinInfo = "virtio.license=GPL\x00virtio.alias=pci:v00001AF4d*sv*sd*bc*sc*i*\x00mbcache.alias=mb-cache\x00"
)

func index(t *testing.T, files map[string][]byte) *Index {
	t.Helper()
	var modules []Module
	for _, p := range slices.Sorted(maps.Keys(files)) {
		m, err := Read(p, bytes.NewReader(files[p]))
		if err != nil {
			t.Fatal(err)
		}
		modules = append(modules, m)
	}
	x, err := NewIndex(modules, []byte(order), []byte(builtin), []byte(builtinInfo))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func write(t *testing.T, root string, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		p := filepath.Join(root, "lib/modules", release, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// tool is one of kmod's own tools: in no PATH of an ordinary user.
func tool(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"/sbin", "/usr/sbin"} {
		if p := filepath.Join(dir, name); exec.Command(p, "--version").Run() == nil {
			return p
		}
	}
	t.Skipf("%s (package kmod) is not installed", name)
	return ""
}

// TestModprobeReadsTheIndexes asks the real modprobe, which reads the binary indexes, what it would load.
func TestModprobeReadsTheIndexes(t *testing.T) {
	modprobe, root := tool(t, "modprobe"), t.TempDir()
	x := index(t, kernel())
	write(t, root, kernel())
	write(t, root, x.Files())
	for ask, want := range map[string]string{
		"ext4":                      "crc32c-intel crc32c-gen lib-crc jbd2 ext4",
		"fs-ext4":                   "crc32c-intel crc32c-gen lib-crc jbd2 ext4",
		"virtio_net":                "failover net_failover virtio-net",
		"virtio:d00000001v00001AF4": "failover net_failover virtio-net",
		"char-major-10-200":         "tun",
		"cpu:type:x86,ven0000fam0006mod00DD:feature:,0094,": "lib-crc crc32c-intel",
		"virtio":   "",
		"mb-cache": "",
	} {
		out, err := exec.Command(modprobe, "-d", root, "-S", release, "--show-depends", "-C", "/dev/null", ask).CombinedOutput()
		if err != nil {
			t.Errorf("modprobe %s: %v: %s", ask, err, out)
		}
		var got []string
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "insmod" {
				got = append(got, strings.TrimSuffix(filepath.Base(f[1]), ".ko"))
			}
		}
		wanted := strings.Fields(want)
		if !before(got, "lib-crc", "crc32c-intel") || !before(got, "jbd2", "ext4") || !before(got, "crc32c-gen", "ext4") || !before(got, "failover", "net_failover") {
			t.Errorf("%s: modprobe would load in the order %v", ask, got)
		}
		slices.Sort(got)
		slices.Sort(wanted)
		if !slices.Equal(slices.Compact(got), wanted) {
			t.Errorf("%s: modprobe would load %v, want %v", ask, got, wanted)
		}
	}
}

func before(list []string, a, b string) bool {
	return !slices.Contains(list, b) || !slices.Contains(list, a) || slices.Index(list, a) < slices.Index(list, b)
}

// TestSameBytesAsDepmod compares with what the real depmod writes. modules.dep and modules.symbols are not compared: it
// takes dependencies from symbols, of which the test's modules have none.
func TestSameBytesAsDepmod(t *testing.T) {
	depmod, root := tool(t, "depmod"), t.TempDir()
	write(t, root, kernel())
	write(t, root, map[string][]byte{"modules.order": []byte(order), "modules.builtin": []byte(builtin), "modules.builtin.modinfo": []byte(builtinInfo)})
	if out, err := exec.Command(depmod, "-b", root, "-C", "/dev/null", release).CombinedOutput(); err != nil {
		t.Fatalf("depmod: %v: %s", err, out)
	}
	ours := index(t, kernel()).Files()
	for _, name := range []string{"modules.builtin.bin", "modules.builtin.alias.bin", "modules.devname"} {
		theirs, err := os.ReadFile(filepath.Join(root, "lib/modules", release, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ours[name], theirs) {
			t.Errorf("%s:\n%q\ndepmod:\n%q", name, ours[name], theirs)
		}
	}
	for _, name := range []string{"modules.alias", "modules.softdep"} { // depmod reads files in the directory's order
		theirs, err := os.ReadFile(filepath.Join(root, "lib/modules", release, name))
		if err != nil {
			t.Fatal(err)
		}
		if a, b := sortedLines(ours[name]), sortedLines(theirs); a != b {
			t.Errorf("%s:\n%s\ndepmod:\n%s", name, a, b)
		}
	}
}

func sortedLines(b []byte) string {
	lines := strings.Split(string(b), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestClosure(t *testing.T) {
	modules, err := index(t, kernel()).Closure([]string{"virtio-net", "ext4", "virtio", "virtio_net"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range modules {
		names = append(names, m.Name)
	}
	want := "failover net_failover virtio_net jbd2 crc32c_gen lib_crc crc32c_intel ext4"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestMissingModules(t *testing.T) {
	if _, err := index(t, kernel()).Closure([]string{"e1000"}); err == nil || !strings.Contains(err.Error(), "e1000") {
		t.Errorf("unknown module: %v", err)
	}
	_, err := NewIndex([]Module{{Path: "kernel/a.ko", Name: "a", Depends: []string{"b"}}}, nil, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "a needs b") {
		t.Errorf("missing dependency: %v", err)
	}
	_, err = NewIndex([]Module{{Path: "kernel/a.ko", Name: "a"}, {Path: "kernel/x/a.ko", Name: "a"}}, nil, nil, nil)
	if err == nil {
		t.Error("two modules of one name were taken")
	}
}

func TestPlain(t *testing.T) {
	want := bytes.Repeat([]byte("module "), 1000)
	for ext, command := range map[string][]string{"": {"cat"}, ".xz": {"xz", "-c"}, ".zst": {"zstd", "-qc"}, ".gz": {"gzip", "-c"}} {
		if _, err := exec.LookPath(command[0]); err != nil {
			t.Logf("%s is not installed", command[0])
			continue
		}
		pack := exec.Command(command[0], command[1:]...)
		pack.Stdin = bytes.NewReader(want)
		packed, err := pack.Output()
		if err != nil {
			t.Fatal(err)
		}
		name := "kernel/a-b.ko" + ext
		if got, err := Plain(name, bytes.NewReader(packed)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if ext != "" {
			if _, err := Plain(name, bytes.NewReader(packed[:len(packed)-9])); err == nil {
				t.Errorf("a cut %s was taken", name)
			}
		}
		if PlainName(name) != "kernel/a-b.ko" || Name(name) != "a_b" || !IsModule(name) {
			t.Errorf("%s: plain name %s, module name %s", name, PlainName(name), Name(name))
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(fixture.Module("alias=a", "depends=b,c"))
	f.Add(fixture.Module())
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Read("kernel/a.ko", bytes.NewReader(data))
		if err != nil {
			return
		}
		x, err := NewIndex([]Module{m}, nil, nil, data)
		if err != nil {
			return
		}
		x.Files()
		x.Closure([]string{"a"})
	})
}
