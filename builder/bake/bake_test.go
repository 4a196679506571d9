package bake

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/inventory"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/builder/provenance"
	"github.com/slipway-os/slipway/builder/squashfs"
	"github.com/slipway-os/slipway/builder/uki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

func (k *kitchen) bake() *manifest.Manifest {
	k.t.Helper()
	o := k.options()
	var mu sync.Mutex
	tell := o.Progress
	o.Progress = func(s Step) { mu.Lock(); defer mu.Unlock(); tell(s) }
	m, err := Bake(context.Background(), o)
	if errors.Is(err, squashfs.ErrNoTool) {
		k.t.Skip(err)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	return m
}

// artifacts is the output folder's content by name.
func (k *kitchen) artifacts() map[string][]byte {
	k.t.Helper()
	entries, err := os.ReadDir(k.out)
	if err != nil {
		k.t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(k.out, e.Name())); err != nil {
			k.t.Fatal(err)
		}
	}
	return files
}

var update = flag.Bool("update", false, "write golden files anew")

const base = "slipway-worker-0.1.0-amd64"

// list is what unsquashfs says about the root image: mode, owner, path, link.
func (k *kitchen) list() string {
	k.t.Helper()
	out, err := exec.Command("unsquashfs", "-lln", "-d", "", filepath.Join(k.out, base+".root")).CombinedOutput()
	if err != nil {
		k.t.Fatalf("unsquashfs: %v: %s", err, out)
	}
	var b strings.Builder
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) >= 6 {
			b.WriteString(f[0] + " " + f[1] + " " + strings.Join(f[5:], " ") + "\n")
		}
	}
	return b.String()
}

func (k *kitchen) cat(path string) string {
	k.t.Helper()
	out, err := exec.Command("unsquashfs", "-cat", filepath.Join(k.out, base+".root"), path).Output()
	if err != nil {
		k.t.Fatalf("unsquashfs -cat %s: %v", path, err)
	}
	return string(out)
}

func TestArtifacts(t *testing.T) {
	k := newKitchen(t)
	m := k.bake()
	files := k.artifacts()
	var names []string
	for name := range files {
		names = append(names, strings.TrimPrefix(name, base))
	}
	slices.Sort(names)
	if got := strings.Join(names, " "); got != ".cmdline .efi .files.json .initrd .json .plan.json .proof.json .provenance.json .root .spdx.json .vmlinuz" {
		t.Errorf("artifacts: %s", got)
	}
	written, err := manifest.Decode(files[base+".json"])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(written.Encode(), m.Encode()) {
		t.Error("the manifest written is not the one returned")
	}
	if err := m.VerifyFolder(k.out); err != nil {
		t.Error(err)
	}
	root, err := bootspec.ParseRoot(string(files[base+".cmdline"]))
	if err != nil {
		t.Fatal(err)
	}
	if root.Image != base || root.Hash != m.Root.Hash || root.Size != int64(len(files[base+".root"])) {
		t.Errorf("the command line says %+v of a root image of %d bytes", root, len(files[base+".root"]))
	}
	sections, err := uki.Read(files[base+".efi"])
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]string{}
	for _, s := range sections {
		parts[s.Name] = string(s.Data)
	}
	if parts[".linux"] != string(fixture.Stub(1)) || parts[".uname"] != release || parts[".initrd"] != string(files[base+".initrd"]) ||
		parts[".cmdline"]+"\n" != string(files[base+".cmdline"]) || !strings.Contains(parts[".osrel"], "IMAGE_ID=slipway-worker") {
		t.Error("the UKI does not hold the kernel, initrd, command line and release that lie beside it")
	}
	if err := bootspec.CheckUKIDigest(files[base+".efi"], bootspec.ParseArgs(m.Cmdline)[bootspec.ArgUKI]); err != nil {
		t.Errorf("the UKI's own digest: %v", err)
	}
}

func TestVeritysetupTakesTheRootImage(t *testing.T) {
	tool, err := exec.LookPath("veritysetup")
	if err != nil {
		t.Skip("veritysetup is not installed")
	}
	k := newKitchen(t)
	m := k.bake()
	path := filepath.Join(k.out, base+".root")
	if out, err := exec.Command(tool, "verify", path, path, m.Root.Hash, fmt.Sprintf("--hash-offset=%d", m.Root.Data)).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestRootTree shows the whole root image of a small worker. No etcd, no API server: a role's content is its role's.
func TestRootTree(t *testing.T) {
	k := newKitchen(t)
	k.bake()
	if *update {
		if err := os.WriteFile("testdata/worker.txt", []byte(k.list()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/worker.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got := k.list(); got != string(want) {
		t.Errorf("the root image holds:\n%s", got)
	}
	for path, want := range map[string]string{
		"etc/motd": "the role's\n", "usr/lib/modules-load.d/slipway.conf": "overlay\n", "usr/lib/sysctl.d/90-slipway.conf": "net.ipv4.ip_forward = 1\n",
	} {
		if got := k.cat(path); got != want {
			t.Errorf("%s holds %q", path, got)
		}
	}
}

func TestInitrd(t *testing.T) {
	tool, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is not installed")
	}
	k := newKitchen(t)
	k.bake()
	z, err := zstd.NewReader(bytes.NewReader(k.artifacts()[base+".initrd"]))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	cpio := exec.Command(tool, "-t", "--quiet")
	cpio.Stdin = z
	out, err := cpio.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll(`bin
dev
dev/console
etc
init
lib
proc
run
sbin
sys
sysroot
tmp
usr
usr/bin
usr/bin/ignition
usr/bin/ignition.alias
usr/lib
usr/lib/modules
usr/lib/modules/REL
usr/lib/modules/REL/kernel
usr/lib/modules/REL/kernel/drivers
usr/lib/modules/REL/kernel/drivers/virtio_blk.ko
usr/lib/modules/REL/kernel/drivers/virtio_ring.ko
usr/lib/modules/REL/kernel/fs
usr/lib/modules/REL/kernel/fs/squashfs.ko
usr/lib/modules/REL/modules.alias
usr/lib/modules/REL/modules.builtin
usr/lib/modules/REL/modules.dep
usr/lib/modules/REL/modules.devname
usr/lib/modules/REL/modules.softdep
var
`, "REL", release)
	if string(out) != want {
		t.Errorf("the initrd holds:\n%s", out)
	}
}

// TestSameBytes bakes the same plan on what looks like another machine: other folders, clock zone, umask, processors,
// order of packages, and nothing cached.
func TestSameBytes(t *testing.T) {
	k := newKitchen(t)
	k.bake()
	want := k.artifacts()

	k.cache, k.out = filepath.Join(k.dir, "other-cache"), filepath.Join(k.dir, "other-out")
	t.Setenv("TZ", "Pacific/Chatham")
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	t.Setenv("SOURCE_DATE_EPOCH", "5")
	defer syscall.Umask(syscall.Umask(0o077))
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	planned := k.plan.JSON()
	slices.Reverse(k.plan.Packages)
	slices.Reverse(k.plan.Components)
	k.bake()
	got := k.artifacts()
	for name := range want {
		if strings.HasSuffix(name, ".json") {
			continue // it holds the digest of the plan, whose order was changed
		}
		if !bytes.Equal(got[name], want[name]) {
			t.Errorf("%s differs: %d and %d bytes", name, len(want[name]), len(got[name]))
		}
	}
	slices.Reverse(k.plan.Packages)
	slices.Reverse(k.plan.Components)
	if !bytes.Equal(k.plan.JSON(), planned) {
		t.Error("baking changed the plan")
	}
	k.bake()
	if !bytes.Equal(k.artifacts()[base+".json"], want[base+".json"]) {
		t.Error("equal plans, different manifests")
	}
	if info, err := os.Stat(filepath.Join(k.out, base+".root")); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the umask shows in what is published: %v, %v", info.Mode(), err)
	}
}

// TestSecondBakeReuses looks at which steps come from the cache: all of them, then all but the root image.
func TestSecondBakeReuses(t *testing.T) {
	k := newKitchen(t)
	k.bake()
	cached := func() string {
		k.bake()
		var names []string
		for _, s := range k.steps {
			if s.Cached {
				names = append(names, s.Name)
			}
		}
		slices.Sort(names)
		return strings.Join(names, ", ")
	}
	if got := cached(); got != "make container image pause, pack initrd, pack root image" {
		t.Errorf("nothing changed, cached: %s", got)
	}
	k.role.Files[0].Content = append(k.role.Files[0].Content, "# changed\n"...)
	if got := cached(); got != "make container image pause, pack initrd" {
		t.Errorf("a unit changed, cached: %s", got)
	}
	if !strings.Contains(k.cat("usr/lib/systemd/system/kubelet.service"), "# changed") {
		t.Error("the changed unit is not in the image")
	}
}

func TestDamagedCache(t *testing.T) {
	k := newKitchen(t)
	k.bake()
	want := k.artifacts()
	for _, pattern := range []string{"stages/root-worker-*", "layers/*.data", "stages/initrd-*", "stages/oci-*", "pieces/*"} {
		k.flip(pattern)
		k.bake()
		if pattern != "pieces/*" && !slices.Contains(k.steps, Step{Name: "look for damage in the cache"}) { // a piece is just made again
			t.Errorf("%s damaged: nobody noticed", pattern)
		}
		for name, content := range k.artifacts() {
			if !bytes.Equal(content, want[name]) {
				t.Errorf("%s damaged: %s is another", pattern, name)
			}
		}
	}
}

// flip changes one bit in the middle of every cached file that matches, and forgets what was made of it.
func (k *kitchen) flip(pattern string) {
	k.t.Helper()
	files, err := filepath.Glob(filepath.Join(k.cache, pattern))
	if err != nil || len(files) == 0 {
		k.t.Fatalf("no file %s in the cache (%v)", pattern, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil || strings.HasSuffix(f, ".json") || len(data) == 0 {
			continue
		}
		data[len(data)/2] ^= 4
		if err := os.WriteFile(f, data, 0o600); err != nil {
			k.t.Fatal(err)
		}
	}
	if !strings.HasPrefix(pattern, "stages/root") { // else nobody reads it
		roots, _ := filepath.Glob(filepath.Join(k.cache, "stages/root-*"))
		if !strings.HasPrefix(pattern, "pieces/") {
			pieces, _ := filepath.Glob(filepath.Join(k.cache, "pieces/*"))
			roots = append(roots, pieces...)
		}
		for _, f := range roots {
			os.Remove(f)
		}
	}
}

func TestConflictsAndReplaces(t *testing.T) {
	k := newKitchen(t)
	k.pack("one", "", fixture.File{Path: "usr/bin/tool", Content: "one"})
	k.pack("two", "", fixture.File{Path: "bin/tool", Content: "two"})
	_, err := Bake(context.Background(), k.options())
	for _, want := range []string{"usr/bin/tool", "package one", "package two"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("two packages bring one file: %v does not name %s", err, want)
		}
	}
	for _, files := range [][2]string{{"usr/bin/tool", "usr/bin/tool/x"}, {"usr/bin/tool/x", "usr/bin/tool"}} {
		k := newKitchen(t)
		k.pack("one", "", fixture.File{Path: files[0], Content: "one"})
		k.pack("two", "", fixture.File{Path: files[1], Content: "two"})
		_, err := Bake(context.Background(), k.options())
		for _, want := range []string{"usr/bin/tool", "package one", "package two", "directory"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s and %s: %v does not name %s", files[0], files[1], err, want)
			}
		}
	}
	for _, replacer := range []string{"one", "two"} {
		k := newKitchen(t)
		fields := map[string]string{replacer: "Replaces: one (<< 2), two\n"}
		k.pack("one", fields["one"], fixture.File{Path: "usr/bin/tool", Content: "one"})
		k.pack("two", fields["two"], fixture.File{Path: "bin/tool", Content: "two"})
		k.bake()
		if got := k.cat("usr/bin/tool"); got != replacer {
			t.Errorf("%s replaces the other, the image has %s's", replacer, got)
		}
	}
}

func TestFaultsNameTheirCause(t *testing.T) {
	for want, spoil := range map[string]func(*kitchen){
		"the plan is one for role worker": func(k *kitchen) { k.role.Name = "other" },
		"cannot build component kube-w":   func(k *kitchen) { k.missing = map[string]bool{"kube-worker": true} },
		"package systemd 1.0-1":           func(k *kitchen) { k.write(k.plan.Packages[2].SHA256, []byte("not a .deb")) },
		"no package brings boot/vmlinuz":  func(k *kitchen) { k.plan.KernelRelease = "6.99" },
		"linuxx64.efi.stub":               func(k *kitchen) { k.plan.Packages = k.plan.Packages[:3] },
		"kernel module e1000":             func(k *kitchen) { k.plan.Initrd.Modules = []string{"e1000"} },
		"kernel module snd":               func(k *kitchen) { k.plan.Modules = []string{"snd"} },
		"brings no /usr/bin/pause":        func(k *kitchen) { k.plan.ContainerImages[0].Entrypoint = []string{"/usr/bin/pause"} },
		"cannot enable unit x.service":    func(k *kitchen) { k.role.Enable = []string{"x.service"} },
		"compression level 99":            func(k *kitchen) { k.plan.Compression.Level = 99 },
	} {
		k := newKitchen(t)
		spoil(k)
		if _, err := Bake(context.Background(), k.options()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		if left, err := os.ReadDir(k.out); err == nil && len(left) > 0 {
			t.Errorf("%q: left behind in the output folder: %v", want, left)
		}
	}
}

// TestFailureKeepsEarlierBake looks at the output folder after a bake that failed late.
func TestFailureKeepsEarlierBake(t *testing.T) {
	k := newKitchen(t)
	k.bake()
	want := k.artifacts()
	k.role.Files[1].Content = []byte("changed\n")
	ctx, cancel := context.WithCancel(context.Background())
	o := k.options()
	o.Progress = func(s Step) {
		if s.Name == "pack root image" {
			cancel()
		}
	}
	if _, err := Bake(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	got := k.artifacts()
	if len(got) != len(want) {
		t.Errorf("%d files, before %d", len(got), len(want))
	}
	for name := range want {
		if !bytes.Equal(got[name], want[name]) {
			t.Errorf("%s changed", name)
		}
	}
}

// TestKilledBakeLeavesNothingForLong: what a killed bake left half-made goes with the next one, but not while another
// bake is at work.
func TestKilledBakeLeavesNothingForLong(t *testing.T) {
	k := newKitchen(t)
	k.bake()
	left := filepath.Join(k.cache, "stages", ".new-123")
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Fatal(err)
	}
	other, err := newStages(k.cache, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("it is still there")
	}
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Fatal(err)
	}
	k.bake()
	if _, err := os.Stat(left); err != nil {
		t.Errorf("taken away although another bake is at work: %v", err)
	}
	other.leave()
}

// TestInitrdHasItsModulesFirmware: what a module of the initrd may ask for is there by that name, and nothing else of the
// firmware packages.
func TestInitrdHasItsModulesFirmware(t *testing.T) {
	k := newKitchen(t)
	module := "lib/modules/" + release + "/kernel/drivers/nic.ko"
	k.pack("nic", "", fixture.File{Path: module, Content: string(fixture.Module("depends=", "firmware=nic/a.fw", "firmware=nic/missing.fw", "firmware=../../../etc/motd"))})
	k.pack("firmware-nic", "", fixture.File{Path: "usr/lib/firmware/nic/a.fw", Link: "real-1.fw"},
		fixture.File{Path: "usr/lib/firmware/nic/real-1.fw", Content: "FIRMWARE"}, fixture.File{Path: "usr/lib/firmware/nic/other.fw", Content: "OTHER"})
	k.plan.Initrd.Modules = append(k.plan.Initrd.Modules, "nic")
	k.plan.Firmware = []plan.Firmware{{Modules: []string{"nic"}, Reason: "a test"}}
	k.bake()
	got := unpackInitrd(t, filepath.Join(k.out, base+bootspec.ExtInitrd))
	if data, err := os.ReadFile(filepath.Join(got, "usr/lib/firmware/nic/a.fw")); err != nil || string(data) != "FIRMWARE" {
		t.Errorf("the firmware: %q, %v", data, err)
	}
	for _, other := range []string{"usr/lib/firmware/nic/other.fw", "usr/lib/firmware/nic/missing.fw", "etc/motd"} {
		if _, err := os.Lstat(filepath.Join(got, other)); err == nil {
			t.Errorf("the initrd has %s", other)
		}
	}
}

// unpackInitrd unpacks an initrd's firmware and /etc into a folder.
func unpackInitrd(t *testing.T, path string) string {
	t.Helper()
	tool, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is not installed")
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	dir := t.TempDir()
	cpio := exec.Command(tool, "-idm", "--quiet", "-D", dir, "usr/lib/firmware*", "etc*")
	cpio.Stdin = z
	if out, err := cpio.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	return dir
}

// TestInventory: what it says is what unsquashfs finds in the root image.
func TestInventory(t *testing.T) {
	k := newKitchen(t)
	k.bake()
	i, err := inventory.Decode(k.artifacts()[base+".files.json"])
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, e := range i.Root {
		if e.Type == inventory.File {
			got = append(got, e.Path)
			if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(k.cat(e.Path)))); sum != e.SHA256 {
				t.Errorf("%s has SHA-256 %s, the inventory says %s", e.Path, sum, e.SHA256)
			}
		}
		if e.Path == "usr/bin/kube-worker" && (e.Mode != "0755" || e.Origin != "component kube-worker" || e.Packed < 100<<10) {
			t.Errorf("%+v", e)
		}
	}
	for line := range strings.Lines(k.list()) {
		if f := strings.Fields(line); f[0][0] == '-' {
			want = append(want, strings.TrimPrefix(f[2], "/"))
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("files\n%q\nin the image\n%q", got, want)
	}
	if !slices.ContainsFunc(i.Initrd, func(e inventory.Entry) bool { return e.Path == "init" && e.Size > 0 }) {
		t.Error("the initrd's init is not in the inventory")
	}
}

// TestProvenance: it is about the files that lie there, says what went in, and is the same each time.
func TestProvenance(t *testing.T) {
	k := newKitchen(t)
	k.origin = provenance.Origin{Builder: "https://ci.example.com/slipway", Invocation: "run/57", Lock: strings.Repeat("1", 64), Source: &provenance.Source{Commit: strings.Repeat("2", 40), Dirty: true}}
	m := k.bake()
	files := k.artifacts()
	text := files[base+provenance.Ext]
	s, err := provenance.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(m, files[base+".json"]); err != nil {
		t.Error(err)
	}
	if s.Builder != k.origin.Builder || s.Invocation != "run/57" || s.Lock != k.origin.Lock || s.Commit != k.origin.Source.Commit || !s.Dirty {
		t.Errorf("%+v", s)
	}
	for _, p := range m.Packages {
		if !strings.Contains(string(text), p.SHA256) {
			t.Errorf("it doesn't name package %s", p.Name)
		}
	}
	k.cache, k.out = filepath.Join(k.dir, "other-cache"), filepath.Join(k.dir, "other-out")
	k.bake()
	if !bytes.Equal(k.artifacts()[base+provenance.Ext], text) {
		t.Error("two bakes, two provenances")
	}
	k.origin.Source.Commit = strings.Repeat("3", 40)
	if again := k.bake(); !bytes.Equal(again.Encode(), m.Encode()) {
		t.Error("the commit shows in the manifest")
	}
}
