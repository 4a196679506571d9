package rebuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/qcow2"
	"github.com/slipway-os/slipway/builder/rootfs"
	"github.com/slipway-os/slipway/builder/uki"
	"github.com/slipway-os/slipway/builder/verity"
	"github.com/slipway-os/slipway/images/disk"
	"github.com/slipway-os/slipway/images/manifest"
)

const mib = 1 << 20

// noise is size bytes that do not compress and that follow from a name.
func noise(name string, size int) []byte {
	data := make([]byte, 0, size+sha256.Size)
	for sum := sha256.Sum256([]byte(name)); len(data) < size; sum = sha256.Sum256(sum[:]) {
		data = append(data, sum[:]...)
	}
	return data[:size]
}

// source is what a small image is made of.
type source struct {
	root, initrd map[string]rootfs.Entry
	kernel       string
	plan         string
	disks        bool // make disk images too
}

func newSource() source {
	file := func(path string, mode uint32, data []byte) rootfs.Entry {
		return rootfs.Entry{Path: path, Type: rootfs.Regular, Mode: mode, Content: rootfs.Inline(data)}
	}
	s := source{root: map[string]rootfs.Entry{}, initrd: map[string]rootfs.Entry{}, kernel: "KERNEL", plan: "{}\n"}
	for _, e := range []rootfs.Entry{
		file("usr/bin/big", 0o755, noise("big", 3<<20)), file("usr/bin/kube", 0o755, bytes.Repeat([]byte("kubelet "), 40<<10)),
		file("etc/empty", 0o644, nil), file("etc/hosts", 0o644, []byte("127.0.0.1 localhost\n")),
		{Path: "bin", Type: rootfs.Symlink, Link: "usr/bin"}, {Path: "dev/null", Type: rootfs.CharDevice, Mode: 0o666, Major: 1, Minor: 3},
	} {
		s.root[e.Path] = e
	}
	for _, e := range []rootfs.Entry{file("init", 0o755, noise("init", 100_000)), {Path: "bin", Type: rootfs.Symlink, Link: "usr/bin"}, file("usr/lib/m.ko", 0o644, []byte("module"))} {
		s.initrd[e.Path] = e
	}
	return s
}

// changed is a file's entry with another byte.
func changed(e rootfs.Entry, at int) rootfs.Entry {
	data, _ := e.Content.Bytes()
	data = bytes.Clone(data)
	data[at] ^= 0xff
	e.Content = rootfs.Inline(data)
	return e
}

func tree(t *testing.T, entries map[string]rootfs.Entry) *rootfs.Tree {
	t.Helper()
	tr := rootfs.New()
	for _, e := range entries {
		if err := tr.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

// bake writes an image with all that can be compared into a folder.
func (s source) bake(t *testing.T) (string, *manifest.Manifest) {
	t.Helper()
	b := &oven{t: t, dir: t.TempDir(), m: &manifest.Manifest{Plan: strings.Repeat("a", 64), Components: []manifest.Component{{Name: "kube", Version: "1", Key: "k" + s.kernel}}}}
	b.put(manifest.KindPlan, "plan.json", []byte(s.plan))
	root, data, hash := b.rootImage(tree(t, s.root))
	b.put(manifest.KindRoot, "root", root)
	var initrd bytes.Buffer
	for _, archive := range tree(t, s.initrd).CPIO(1) { // one for each file
		z, err := zstd.NewWriter(&initrd)
		b.check(err)
		b.check(archive.Write(z, 1700000000))
		b.check(z.Close())
	}
	b.put(manifest.KindInitrd, "initrd", initrd.Bytes())
	efi, err := uki.Build(fixture.Stub(3), uki.Image{OSRelease: []byte("ID=x\n"), Cmdline: "root=" + hash, Uname: "6", Kernel: []byte(s.kernel), Initrd: initrd.Bytes()})
	b.check(err)
	b.put(manifest.KindUKI, "efi", efi)
	if !s.disks {
		return b.dir, b.m
	}
	b.disks(disk.Layout{
		Arch: "amd64", SectorSize: 512, OneSlot: true, Sizes: disk.Sizes{ESP: 40 * mib, Root: 8 * mib, Verity: mib, State: mib}, Loader: noise("loader", 5000), Epoch: 1700000000, Seed: hash,
		Slots: []disk.Slot{{Image: "slipway-worker-0.1.0-amd64", RootHash: hash, Data: data, UKI: diskContent(efi), Root: diskContent(root)}},
	})
	return b.dir, b.m
}

func diskContent(data []byte) disk.Content {
	return disk.Content{Size: int64(len(data)), CopyTo: func(w io.Writer) error { _, err := w.Write(data); return err }}
}

type oven struct {
	t   *testing.T
	dir string
	m   *manifest.Manifest
}

func (b *oven) check(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *oven) put(kind, name string, data []byte) {
	b.t.Helper()
	b.check(os.WriteFile(filepath.Join(b.dir, name), data, 0o600))
	b.m.Artifacts = append(b.m.Artifacts, manifest.Artifact{Name: name, Kind: kind, Size: int64(len(data)), SHA256: fmt.Sprintf("%x", sha256.Sum256(data))})
}

func (b *oven) rootImage(tr *rootfs.Tree) (image []byte, data int64, hash string) {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), "squashfs")
	const epoch = "1700000000"
	var archive bytes.Buffer
	b.check(tr.WriteTar(&archive, 1700000000))
	pack := exec.Command("mksquashfs", "-", path, "-tar", "-quiet", "-no-progress", "-comp", "zstd", "-Xcompression-level", "3", "-b", "1M",
		"-mkfs-time", epoch, "-all-time", epoch, "-root-mode", "755", "-root-uid", "0", "-root-gid", "0")
	pack.Stdin = &archive
	if out, err := pack.CombinedOutput(); err != nil {
		b.t.Fatalf("mksquashfs (make deps): %v: %s", err, out)
	}
	image, err := os.ReadFile(path)
	b.check(err)
	image = append(image, make([]byte, verity.Pad(int64(len(image))))...)
	v, err := verity.Build(b.t.Context(), bytes.NewReader(image), int64(len(image)), [32]byte{}, [16]byte{})
	b.check(err)
	return append(image, v.Bytes...), int64(len(image)), fmt.Sprintf("%x", v.RootHash)
}

func (b *oven) disks(l disk.Layout) {
	b.t.Helper()
	path := filepath.Join(b.dir, "disk.raw")
	b.check(disk.Write(path, l))
	raw, err := os.ReadFile(path)
	b.check(err)
	b.put(manifest.KindDisk, "disk.raw", raw)
	z, err := zstd.NewWriter(nil)
	b.check(err)
	b.put(manifest.KindDisk+manifest.FormZstd, "disk.raw.zst", z.EncodeAll(raw, nil))
	var q bytes.Buffer
	b.check(qcow2.Write(&q, bytes.NewReader(raw), int64(len(raw)), func(at, size int64) bool { return len(bytes.Trim(raw[at:at+size], "\x00")) > 0 }))
	b.put(manifest.KindDisk+manifest.FormQCOW2, "disk.qcow2", q.Bytes())
}

func compare(t *testing.T, given, again string, m, baked *manifest.Manifest) *Report {
	t.Helper()
	g, err := os.OpenRoot(given)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	a, err := os.OpenRoot(again)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	r, err := Compare(t.Context(), g, m, a, baked, nil, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// words are a report's differences, an artifact a line.
func words(r *Report) string {
	var b strings.Builder
	for _, a := range r.Artifacts {
		if !a.Same {
			fmt.Fprintf(&b, "%s: %s\n", a.Name, a.Difference)
		}
	}
	return b.String()
}

func TestTheFirstFileAndItsFirstByte(t *testing.T) {
	plain, m := newSource().bake(t)
	s := newSource()
	s.disks = true
	full, all := s.bake(t)
	for name, c := range map[string]struct {
		change func(*source)
		want   []string
	}{
		"the same": {func(*source) {}, nil},
		"a byte of a large file": {func(s *source) { s.root["usr/bin/big"] = changed(s.root["usr/bin/big"], 2_500_000) }, []string{
			"root: usr/bin/big: byte 2500000 (0x2625a0) is 0x",
			"efi: section .cmdline: byte 5 (0x5) is 0x",
			"disk.raw: partition slipway-root-a: usr/bin/big: byte 2500000 ",
			"disk.raw.zst: image: partition slipway-root-a: usr/bin/big: byte 2500000 ",
			"disk.qcow2: image: partition slipway-root-a: usr/bin/big: byte 2500000 ",
		}},
		"two bytes of a small file": {func(s *source) { s.root["etc/hosts"] = changed(changed(s.root["etc/hosts"], 9), 4) }, []string{
			"root: etc/hosts: byte 4 (0x4) is 0xcf, and 0x30 when baked again\n"}},
		"a shorter file": {func(s *source) {
			e := s.root["etc/hosts"]
			e.Content = rootfs.Inline([]byte("127.0.0.1"))
			s.root["etc/hosts"] = e
		}, []string{"root: etc/hosts: byte 9 (0x9) is the end, and 0x20 when baked again\n"}},
		"a mode": {func(s *source) { e := s.root["usr/bin/kube"]; e.Mode = 0o4755; s.root["usr/bin/kube"] = e }, []string{
			"root: usr/bin/kube: mode is 4755, and 0755 when baked again\n"}},
		"an owner": {func(s *source) { e := s.root["usr/bin/kube"]; e.GID = 42; s.root["usr/bin/kube"] = e }, []string{
			"root: usr/bin/kube: owner is 0:42, and 0:0 when baked again\n"}},
		"a link": {func(s *source) { e := s.root["bin"]; e.Link = "usr/sbin"; s.root["bin"] = e }, []string{
			"root: bin: link is usr/sbin, and usr/bin when baked again\n"}},
		"a device": {func(s *source) { e := s.root["dev/null"]; e.Minor = 5; s.root["dev/null"] = e }, []string{"root: dev/null: device number is 0x105, and 0x103"}},
		"one file more": {func(s *source) { e := s.root["etc/hosts"]; e.Path = "etc/extra"; s.root["etc/extra"] = e }, []string{
			"root: etc/extra: it is there, and not there when baked again\n"}},
		"one file less": {func(s *source) { delete(s.root, "etc/empty") }, []string{"root: etc/empty: it is not there, and there when baked again\n"}},
		"another capability": {func(s *source) {
			e := s.root["usr/bin/kube"]
			e.Xattrs = map[string]string{"security.capability": "x"}
			s.root["usr/bin/kube"] = e
		}, []string{"root: usr/bin/kube: whether it has extended attributes is true, and false"}},
		"a byte of init": {func(s *source) { s.initrd["init"] = changed(s.initrd["init"], 77_777) }, []string{
			"initrd: init: byte 77777 (0x12fd1) is 0x",
			"efi: section .initrd: init: byte 77777 ",
			"disk.raw: partition slipway-esp: EFI/Linux/slipway-worker-0.1.0-amd64.efi: section .initrd: init: byte 77777 ",
		}},
		"a module's mode": {func(s *source) { e := s.initrd["usr/lib/m.ko"]; e.Mode = 0o600; s.initrd["usr/lib/m.ko"] = e }, []string{"initrd: usr/lib/m.ko: mode is 100600, and 100644 "}},
		"the kernel":      {func(s *source) { s.kernel = "KERNAL" }, []string{"efi: section .linux: byte 4 (0x4) is 0x41, and 0x45 when baked again\n"}},
		"the plan":        {func(s *source) { s.plan = "{ }\n" }, []string{"plan.json: byte 1 (0x1) is 0x20, and 0x7d when baked again\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource()
			c.change(&s)
			again, baked := plain, m
			if s.disks = strings.Contains(strings.Join(c.want, " "), "disk") || c.want == nil; s.disks {
				again, baked = full, all
			}
			given, m := s.bake(t)
			r := compare(t, given, again, m, baked)
			got := words(r)
			if r.Same != (len(c.want) == 0) || r.Same != (got == "") {
				t.Errorf("same: %v, and it differs: %q", r.Same, got)
			}
			if len(c.want) > 0 && !strings.HasPrefix(got, c.want[0]) {
				t.Errorf("the first difference is not %q:\n%s", c.want[0], got)
			}
			for _, w := range c.want {
				if !strings.Contains(got, w) {
					t.Errorf("no %q in\n%s", w, got)
				}
			}
			if (s.kernel != "KERNEL") != (len(r.Inputs) == 1 && strings.Contains(r.Inputs[0], "component kube 1: made of other sources")) {
				t.Errorf("inputs: %q", r.Inputs)
			}
		})
	}
}

// TestDamage: what was given is damaged somewhere; whatever can be said of it is said, and where.
func TestDamage(t *testing.T) {
	s := newSource()
	s.disks = true
	dir, m := s.bake(t)
	good := map[string][]byte{}
	for _, a := range m.Artifacts {
		data, err := os.ReadFile(filepath.Join(dir, a.Name))
		if err != nil {
			t.Fatal(err)
		}
		good[a.Name] = data
	}
	for _, c := range []struct {
		file   string
		damage func([]byte) []byte
		want   string
	}{
		{"root", func(b []byte) []byte { b[0] = 0; return b }, "root: byte 0 (0x0) is 0x00, and 0x68 when baked again (it can't be read as a squashfs file: "},
		{"root", func(b []byte) []byte { return b[:96] }, "root: byte 96 (0x60) is the end, and 0x04 when baked again (it can't be read as a squashfs file: "},
		{"root", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, "(its parts are the same, and how they are put together is not)"},
		{"root", func(b []byte) []byte { b[1000] ^= 1; return b }, "root: "},
		{"initrd", func(b []byte) []byte { return b[:len(b)-10] }, "(it can't be read as an initrd: "},
		{"efi", func(b []byte) []byte { clear(b[:64]); return b }, "efi: byte 0 (0x0) is 0x00, and 0x4d when baked again (it can't be read as a unified kernel image: "},
		{"disk.raw", func(b []byte) []byte { clear(b[:8<<10]); clear(b[len(b)-mib:]); return b }, "(it can't be read as a disk image: "},
		{"disk.raw", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, "disk.raw: backup partition table: byte "},
		{"disk.raw.zst", func(b []byte) []byte { return b[:len(b)/2] }, "(it can't be read as a compressed image: "},
		{"disk.qcow2", func(b []byte) []byte { b[7] = 9; return b }, "disk.qcow2: byte 7 (0x7) is 0x09, and 0x03 when baked again (it can't be read as a qcow2 image: "},
		{"plan.json", func(b []byte) []byte { return append(b, '\n') }, "plan.json: byte 3 (0x3) is 0x0a, and the end when baked again\n"},
	} {
		bad := t.TempDir()
		for name, data := range good {
			if name == c.file {
				data = c.damage(bytes.Clone(data))
			}
			if err := os.WriteFile(filepath.Join(bad, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r := compare(t, bad, dir, m, m)
		if got := words(r); r.Same || !strings.Contains(got, c.want) || strings.Count(got, "\n") != 1 || r.First().Name != c.file {
			t.Errorf("no %q, or more, in\n%s", c.want, got)
		}
	}
}

func TestWhatIsNotThere(t *testing.T) {
	dir, m := newSource().bake(t)
	baked := *m
	baked.Artifacts = m.Artifacts[:2]
	r := compare(t, dir, dir, m, &baked)
	if got := words(r); r.Same || !strings.Contains(got, "efi: it is there, and not there when baked again\n") {
		t.Error(got)
	}
	if err := os.Remove(filepath.Join(dir, "efi")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := Compare(t.Context(), root, m, root, m, []string{"efi"}, t.TempDir()); err == nil || !strings.Contains(err.Error(), "cannot compare efi") {
		t.Errorf("a file that is missing: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Compare(ctx, root, m, root, m, []string{"root"}, t.TempDir()); err == nil {
		t.Error("an interrupted comparison gave a result")
	}
}

func FuzzReadCPIO(f *testing.F) {
	tr := rootfs.New()
	_ = tr.Add(rootfs.Entry{Path: "a/b", Type: rootfs.Regular, Mode: 0o644, Content: rootfs.Inline([]byte("text"))})
	var b bytes.Buffer
	for _, archive := range tr.CPIO(1) {
		_ = archive.Write(&b, 1)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := readCPIO(data)
		size := 0
		for _, e := range list {
			size += len(e.data)
		}
		if err == nil && size > len(data) {
			t.Fatalf("%d bytes of files in %d", size, len(data))
		}
	})
}
