package squashfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// noise is content that doesn't get smaller.
func noise(seed, n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(int64(seed))).Read(b)
	return b
}

// rich is a tree with all that the format treats apart.
func rich(t *testing.T) *rootfs.Tree {
	t.Helper()
	const block = 128 << 10
	tr := tree(t)
	add := func(e rootfs.Entry) {
		t.Helper()
		if err := tr.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	file := func(p string, data []byte) {
		add(rootfs.Entry{Path: p, Type: rootfs.Regular, Mode: 0o640, UID: 7, GID: 70000, Content: rootfs.Inline(data)})
	}
	for i := range 3000 { // over 64 KiB of names, several runs, several metadata blocks
		file(fmt.Sprintf("many/a-file-with-a-long-name-%04d", i), []byte(fmt.Sprint(i%50)))
	}
	for _, n := range []int{block - 1, block, block + 1, 3 * block, 3*block + 100} {
		file(fmt.Sprintf("noise/%d", n), noise(n, n))
		file(fmt.Sprintf("text/%d", n), bytes.Repeat([]byte("text\n"), n)[:n])
		file(fmt.Sprintf("zero/%d", n), make([]byte, n))
	}
	file("same/one", noise(1, 2*block+5))
	file("same/two", noise(1, 2*block+5))
	add(rootfs.Entry{Path: "same/link", Type: rootfs.HardLink, Link: "same/one"})
	add(rootfs.Entry{Path: "a", Type: rootfs.Directory, Mode: 0o1777})
	file("a/z", nil)
	file("a.b", []byte("after a/z by bytes of the whole path, and before it by name"))
	add(rootfs.Entry{Path: "dev/many", Type: rootfs.BlockDevice, Mode: 0o660, Major: 259, Minor: 70000})
	add(rootfs.Entry{Path: "x/dir", Type: rootfs.Directory, Mode: 0o700, Xattrs: map[string]string{"user.a": "1", "trusted.b": ""}})
	add(rootfs.Entry{Path: "x/again", Type: rootfs.Directory, Mode: 0o700, Xattrs: map[string]string{"user.a": "1", "trusted.b": ""}})
	add(rootfs.Entry{Path: "x/link", Type: rootfs.Symlink, Link: strings.Repeat("far/", 200)})
	return tr
}

// list is what unsquashfs lists, without the sizes of directories, which tell how the tool splits runs of names.
func list(t *testing.T, path string) []string {
	t.Helper()
	cmd := exec.Command("unsquashfs", "-lln", path)
	cmd.Env = []string{"TZ=UTC", "PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if strings.HasPrefix(line, "d") {
			words[2] = "-"
		}
		lines = append(lines, strings.Join(words, " "))
	}
	return lines
}

// contents are digests of all regular files.
func contents(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	all := map[string][32]byte{}
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(p)
		all[strings.TrimPrefix(p, dir+"/")] = sha256.Sum256(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestSameAsMksquashfs(t *testing.T) {
	tr, o := rich(t), options()
	ours, theirs := packTree(t, packer(t), tr, o), filepath.Join(t.TempDir(), "theirs")
	if err := Program(Host).Write(context.Background(), theirs, o, func(w io.Writer) error { return tr.WriteTar(w, o.Epoch) }); err != nil {
		t.Fatal(err)
	}
	a, b := list(t, ours), list(t, theirs)
	if !slices.Equal(a, b) {
		for i := range min(len(a), len(b)) {
			if a[i] != b[i] {
				t.Fatalf("unsquashfs lists %q, and of mksquashfs's %q", a[i], b[i])
			}
		}
		t.Fatalf("unsquashfs lists %d lines, and of mksquashfs's %d", len(a), len(b))
	}
	out := filepath.Join(t.TempDir(), "out")
	if said, err := exec.Command("unsquashfs", "-quiet", "-no-progress", "-no-xattrs", "-ignore-errors", "-d", out, ours).CombinedOutput(); err != nil && os.Geteuid() == 0 {
		t.Fatalf("%v: %s", err, said)
	}
	compare(t, tr, contents(t, out))
}

func compare(t *testing.T, tr *rootfs.Tree, got map[string][32]byte) {
	t.Helper()
	files := 0
	for _, e := range tr.All() {
		if e.Type != rootfs.Regular {
			continue
		}
		if files++; got[e.Path] != e.Content.SHA256 {
			t.Errorf("%s has another content", e.Path)
		}
	}
	if files != len(got) {
		t.Errorf("%d files, not %d", len(got), files)
	}
}

func TestKernelMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	tr, o := rich(t), options()
	path, theirs, dir := packTree(t, packer(t), tr, o), filepath.Join(t.TempDir(), "theirs"), t.TempDir()
	if err := Program(Host).Write(context.Background(), theirs, o, func(w io.Writer) error { return tree(t).WriteTar(w, o.Epoch) }); err != nil {
		t.Fatal(err)
	}
	mount := func(path string) ([]byte, error) {
		return exec.Command("mount", "-t", "squashfs", "-o", "loop,ro", path, dir).CombinedOutput()
	}
	if out, err := mount(theirs); err != nil {
		t.Skipf("no squashfs or no loop device here: %v: %s", err, out)
	}
	if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := mount(path); err != nil {
		t.Fatalf("mksquashfs's image is mounted, ours is not: %v: %s", err, out)
	}
	defer exec.Command("umount", dir).Run()
	compare(t, tr, contents(t, dir))
	for _, e := range tr.All() {
		var s unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, e.Path), &s); err != nil {
			t.Fatalf("%s: %v", e.Path, err)
		}
		if s.Mode&0o7777 != e.Mode || s.Uid != uint32(e.UID) || s.Gid != uint32(e.GID) || s.Mtim.Sec != options().Epoch {
			t.Errorf("%s: %+v", e.Path, s)
		}
		if dev := unix.Mkdev(e.Major, e.Minor); (e.Type == rootfs.CharDevice || e.Type == rootfs.BlockDevice) && s.Rdev != dev {
			t.Errorf("%s is device %x, not %x", e.Path, s.Rdev, dev)
		}
		for name, want := range e.Xattrs {
			value := make([]byte, 100)
			if n, err := unix.Lgetxattr(filepath.Join(dir, e.Path), name, value); err != nil || string(value[:n]) != want {
				t.Errorf("%s: %s is %q (%v), not %q", e.Path, name, value[:max(n, 0)], err, want)
			}
		}
		if e.Type == rootfs.Symlink {
			if to, err := os.Readlink(filepath.Join(dir, e.Path)); err != nil || to != e.Link {
				t.Errorf("%s leads to %q (%v)", e.Path, to, err)
			}
		}
	}
	var one, link unix.Stat_t
	if err := errors.Join(unix.Stat(filepath.Join(dir, "same/one"), &one), unix.Stat(filepath.Join(dir, "same/link"), &link)); err != nil {
		t.Fatal(err)
	}
	if one.Ino != link.Ino || one.Nlink != 2 {
		t.Errorf("hard links: inodes %d and %d, %d names", one.Ino, link.Ino, one.Nlink)
	}
}

// counting notes the runs of a packer's program.
func counting(t *testing.T, p *Packer) *[]string {
	var runs []string
	host := p.Program
	p.Program = func(ctx context.Context, args ...string) *exec.Cmd {
		runs = append(runs, strings.Join(args, " "))
		return host(ctx, args...)
	}
	return &runs
}

func TestOneChangedFileCompressesOnePiece(t *testing.T) {
	p, tr := packer(t), rich(t)
	runs := counting(t, &p)
	first := packTree(t, p, tr, options())
	if len(*runs) != 1 {
		t.Fatalf("%d runs of mksquashfs for all pieces", len(*runs))
	}
	if again := packTree(t, p, tr, options()); len(*runs) != 1 || !sameFiles(t, first, again) {
		t.Fatalf("the same tree again: %d runs", len(*runs))
	}
	before := pieces(t, p.Store)
	changed := rootfs.Entry{Path: "usr/lib/7/file", Type: rootfs.Regular, Mode: 0o644, Content: rootfs.Inline([]byte("another"))}
	if err := tr.Replace(changed); err != nil {
		t.Fatal(err)
	}
	second := packTree(t, p, tr, options())
	if n := len(pieces(t, p.Store)) - len(before); n < 1 || n > 2 {
		t.Errorf("%d new pieces for one changed file", n)
	}
	if fresh := packTree(t, packer(t), tr, options()); !sameFiles(t, second, fresh) {
		t.Error("an empty store and a filled one give different images")
	}
}

func TestDamagedPieceIsMadeAgain(t *testing.T) {
	p, tr := packer(t), rich(t)
	want := packTree(t, p, tr, options())
	for i, name := range pieces(t, p.Store) {
		path := filepath.Join(p.Store.Dir(), name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		switch i % 3 {
		case 0:
			data[len(data)/2] ^= 1
		case 1:
			data = data[:len(data)-1]
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if i == 5 {
			break
		}
	}
	if got := packTree(t, p, tr, options()); !sameFiles(t, want, got) {
		t.Error("a damaged store gives another image")
	}
}

func TestSweepLeavesWhatNewImagesHave(t *testing.T) {
	p, tr := packer(t), tree(t)
	packTree(t, p, tr, options())
	kept := pieces(t, p.Store)
	if err := errors.Join(os.WriteFile(filepath.Join(p.Store.Dir(), "nobody"), nil, 0o644), os.Mkdir(filepath.Join(p.Store.Dir(), ".new-1"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for level := 4; level < 8; level++ { // as many as a name's lists are kept
		o := options()
		o.Level = level
		packTree(t, p, tr, o)
	}
	if err := p.Store.Sweep(); err != nil {
		t.Fatal(err)
	}
	left := pieces(t, p.Store)
	if len(left) != 4*len(kept) || slices.ContainsFunc(kept, func(k string) bool { return slices.Contains(left, k) }) {
		t.Errorf("%d pieces are left of images that had %d each", len(left), len(kept))
	}
}

// TestInterruptedBakeKeepsWhatItHas: the second batch fails, and the first need not be made again.
func TestInterruptedBakeKeepsWhatItHas(t *testing.T) {
	p, tr := packer(t), rootfs.New()
	for _, name := range []string{"a", "b"} {
		content := rootfs.Inline(bytes.Repeat([]byte(name), batchSize))
		if err := tr.Add(rootfs.Entry{Path: name, Type: rootfs.Regular, Mode: 0o644, Content: content}); err != nil {
			t.Fatal(err)
		}
	}
	runs := counting(t, &p)
	works, ends := p, p
	ends.Program = func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := works.Program(ctx, args...)
		if len(*runs) > 1 {
			return exec.CommandContext(ctx, "false")
		}
		return cmd
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := ends.Write(context.Background(), path, tr, options()); errors.Is(err, ErrNoTool) {
		t.Skip(err)
	} else if err == nil {
		t.Fatal("a program that fails is not noticed")
	}
	if err := p.Store.Sweep(); err != nil {
		t.Fatal(err)
	}
	if n := len(pieces(t, p.Store)); n != 1 {
		t.Fatalf("%d pieces are left of two, of which one was made", n)
	}
	*runs = nil
	if err := works.Write(context.Background(), path, tr, options()); err != nil || len(*runs) != 1 {
		t.Errorf("the next bake ran mksquashfs %d times: %v", len(*runs), err)
	}
}

// pieces are the names in a store, without the lists.
func pieces(t *testing.T, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if !strings.Contains(e.Name(), listMark) {
			names = append(names, e.Name())
		}
	}
	return names
}

func sameFiles(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

func TestPackerFailures(t *testing.T) {
	p := packer(t)
	path := filepath.Join(t.TempDir(), "image")
	bad := rootfs.New()
	content := rootfs.Inline([]byte("what it was"))
	content.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("what it is!")), nil }
	if err := bad.Add(rootfs.Entry{Path: "file", Type: rootfs.Regular, Content: content}); err != nil {
		t.Fatal(err)
	}
	if err := p.Write(context.Background(), path, bad, options()); !errors.Is(err, rootfs.ErrDamaged) {
		t.Errorf("a damaged content: %v", err)
	}
	if n := pieces(t, p.Store); len(n) != 0 {
		t.Errorf("a failure left %v", n)
	}
	odd := rootfs.New()
	if err := odd.Add(rootfs.Entry{Path: "dir", Type: rootfs.Directory, Mode: 0o755, Xattrs: map[string]string{"system.posix_acl_access": "x"}}); err != nil {
		t.Fatal(err)
	}
	if err := p.Write(context.Background(), path, odd, options()); err == nil || !strings.Contains(err.Error(), "system.posix_acl_access") {
		t.Errorf("an attribute without a place: %v", err)
	}
	long := rootfs.New()
	if err := long.Add(rootfs.Entry{Path: "dir/" + strings.Repeat("x", 257), Type: rootfs.Directory, Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	if err := p.Write(context.Background(), path, long, options()); err == nil || !strings.Contains(err.Error(), "longer than 256") {
		t.Errorf("a long name: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Write(ctx, path, rich(t), options()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := p.Write(context.Background(), path, rich(t), Options{}); err == nil {
		t.Error("no options were taken")
	}
}

func FuzzDecodePacked(f *testing.F) {
	f.Add(packed{sizes: []uint32{3, 1<<24 | 2}, data: []byte("abcde")}.encode())
	f.Add(packed{}.encode())
	f.Add([]byte(packedMagic))
	f.Fuzz(func(t *testing.T, file []byte) {
		p, err := decodePacked(file)
		if err == nil && !bytes.Equal(p.encode(), file) {
			t.Errorf("%q is read and written as %q", file, p.encode())
		}
	})
}
