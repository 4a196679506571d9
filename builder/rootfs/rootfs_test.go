package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func file(path, content, origin string) Entry {
	return Entry{Path: path, Type: Regular, Mode: 0o644, Content: Inline([]byte(content)), Origin: origin}
}

func link(path, target string) Entry {
	return Entry{Path: path, Type: Symlink, Mode: 0o777, Link: target, Origin: "package base-files"}
}

func dir(path string, mode uint32) Entry {
	return Entry{Path: path, Type: Directory, Mode: mode, Origin: "package base-files"}
}

func tree(t *testing.T, entries ...Entry) *Tree {
	t.Helper()
	tr := New()
	for _, e := range entries {
		if err := tr.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func TestPathsGoThroughLinkedDirectories(t *testing.T) {
	tr := tree(t,
		dir("usr/lib", 0o755), link("lib", "usr/lib"), link("usr/lib64", "/lib"),
		dir("lib", 0o700), // a package that still ships ./lib must not turn the link into a directory
		file("lib/a", "A", "package a"),
		file("usr/lib64/systemd/b", "B", "package b"),
	)
	want := `lib: 0777 0:0 -> usr/lib
usr: 0755 0:0 directory
usr/lib: 0755 0:0 directory
usr/lib/a: 0644 0:0 559aead08264
usr/lib/systemd: 0755 0:0 directory
usr/lib/systemd/b: 0644 0:0 df7e70e50215
usr/lib64: 0777 0:0 -> /lib
`
	if got := tr.Dump(); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
	if b, err := tr.ReadFile("lib/systemd/b"); err != nil || string(b) != "B" {
		t.Errorf("ReadFile through links: %q, %v", b, err)
	}
}

func TestDirectoryAttributes(t *testing.T) {
	tr := tree(t, file("var/log/x", "x", "package x"), dir("var/log", 0o2775), dir("var/log", 0o700))
	if e, _ := tr.Lookup("var/log"); e.Mode != 0o2775 {
		t.Errorf("var/log has mode %o: the first one to name a directory decides, not who only needed it, nor who came last", e.Mode)
	}
}

func TestConflictNamesBothOrigins(t *testing.T) {
	tr := tree(t, file("etc/motd", "hello", "package one"), file("etc/motd", "hello", "package same"))
	err := tr.Add(file("etc/motd", "other", "package two"))
	var conflict *ConflictError
	if !errors.As(err, &conflict) {
		t.Fatalf("got %v, want a conflict", err)
	}
	for _, want := range []string{"etc/motd", "package one", "package two"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
	if err := tr.Add(file("etc/motd/x", "", "package three")); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a file below a file: %v", err)
	}
	if err := tr.Replace(file("etc/motd", "other", "role worker")); err != nil {
		t.Error(err)
	}
	if b, _ := tr.ReadFile("etc/motd"); string(b) != "other" {
		t.Errorf("after Replace it holds %q", b)
	}
}

func TestReplaceKeepsFullDirectories(t *testing.T) {
	tr := tree(t, file("etc/a/b", "", "package one"), dir("etc/empty", 0o755))
	if err := tr.Replace(link("etc/a", "/run/a")); err == nil {
		t.Error("a directory with a file in it was replaced by a link")
	}
	if err := tr.Replace(link("etc/empty", "/run/a")); err != nil {
		t.Error(err)
	}
}

func TestBadEntries(t *testing.T) {
	for _, e := range []Entry{
		file("../x", "", ""), file("/x", "", ""), file("a//b", "", ""), file("", "", ""), file("a/../../b", "", ""), file("a\x00b", "", ""),
		{Path: "x", Type: Regular, Mode: 0o644}, {Path: "x", Type: Symlink}, {Path: "x", Type: Directory, Mode: 0o100755}, {Path: "x"},
		{Path: "x", Type: HardLink, Link: "missing"},
	} {
		if err := New().Add(e); err == nil {
			t.Errorf("%q of type %s was taken", e.Path, e.Type)
		}
	}
	tr := tree(t, link("a", "b"), link("b", "a"))
	if err := tr.Add(file("a/x", "", "")); err == nil {
		t.Error("a loop of links was followed to an end")
	}
}

// sample has one of everything.
func sample() []Entry {
	long := strings.Repeat("long/", 60) + "file"
	ping := file("usr/bin/ping", "\x7fELF", "package iputils-ping")
	ping.Xattrs = map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00"}
	return []Entry{
		dir("usr/bin", 0o755), link("bin", "usr/bin"), file("usr/bin/z", "linked", "p"),
		{Path: "usr/bin/a", Type: HardLink, Link: "bin/z", Origin: "p"},
		ping, file(long, "deep", "p"), dir("tmp", 0o1777),
		{Path: "dev/console", Type: CharDevice, Mode: 0o600, Major: 5, Minor: 1, Origin: "p"},
		{Path: "etc/shadow", Type: Regular, Mode: 0o640, GID: 42, Content: Inline([]byte("root:*:::::::\n")), Origin: "p"},
		{Path: "var/cache/é", Type: Directory, Mode: 0o755, UID: 70000, GID: 70000, Origin: "p"},
	}
}

func TestTarHoldsEverything(t *testing.T) {
	var b bytes.Buffer
	if err := tree(t, sample()...).WriteTar(&b, 1700000000); err != nil {
		t.Fatal(err)
	}
	got := map[string]*tar.Header{}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = h
		if h.ModTime.Unix() != 1700000000 || h.Uname != "" {
			t.Errorf("%s: time %v, user name %q", h.Name, h.ModTime, h.Uname)
		}
	}
	a, z := got["usr/bin/a"], got["usr/bin/z"]
	if a.Typeflag != tar.TypeReg || a.Size != 6 || z.Typeflag != tar.TypeLink || z.Linkname != "usr/bin/a" {
		t.Errorf("hard links: a is %q with %d bytes, z is %q to %q; the first in order carries the content", a.Typeflag, a.Size, z.Typeflag, z.Linkname)
	}
	if v := got["usr/bin/ping"].PAXRecords["SCHILY.xattr.security.capability"]; len(v) != 8 {
		t.Errorf("capability: %q", v)
	}
	if c := got["dev/console"]; c.Typeflag != tar.TypeChar || c.Devmajor != 5 || c.Devminor != 1 {
		t.Errorf("console: %+v", c)
	}
	if len(got) != 1+tree(t, sample()...).Len() {
		t.Errorf("%d entries", len(got))
	}
}

func TestOrderOfAddingDoesNotMatter(t *testing.T) {
	first := tree(t, sample()...)
	var want bytes.Buffer
	if err := first.WriteTar(&want, 0); err != nil {
		t.Fatal(err)
	}
	for seed := range int64(10) {
		entries := sample()
		head, rest := entries[:4], entries[4:] // the link bin and the target of the hard link must come first
		rand.New(rand.NewSource(seed)).Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
		tr := tree(t, append(head[:4:4], rest...)...)
		var got bytes.Buffer
		if err := tr.WriteTar(&got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want.Bytes()) || tr.Digest() != first.Digest() {
			t.Fatalf("seed %d: other order, other bytes:\n%s\n%s", seed, first.Dump(), tr.Dump())
		}
	}
}

func TestDigestSeesEveryDifference(t *testing.T) {
	seen := map[[32]byte]string{tree(t, sample()...).Digest(): "the sample"}
	changes := map[string]func([]Entry){
		"mode":         func(e []Entry) { e[2].Mode = 0o755 },
		"owner":        func(e []Entry) { e[2].UID = 1 },
		"content":      func(e []Entry) { e[2].Content = Inline([]byte("Linked")) },
		"target":       func(e []Entry) { e[1].Link = "./usr/bin" },
		"xattr":        func(e []Entry) { e[4].Xattrs = nil },
		"no hard link": func(e []Entry) { e[3] = file("usr/bin/a", "linked", "p") },
		"device":       func(e []Entry) { e[7].Minor = 2 },
	}
	for name, change := range changes {
		entries := sample()
		change(entries)
		d := tree(t, entries...).Digest()
		if other, dup := seen[d]; dup {
			t.Errorf("%s has the digest of %s", name, other)
		}
		seen[d] = name
	}
}

func TestContentIsCheckedWhileItIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("damage"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := Inline([]byte("intact"))
	for _, size := range []int64{5, 6, 7} {
		c := Content{Size: size, SHA256: good.SHA256, Open: func() (io.ReadCloser, error) { return os.Open(path) }}
		tr := tree(t, Entry{Path: "x", Type: Regular, Content: c, Origin: "package p"})
		if err := tr.WriteTar(io.Discard, 0); err == nil || !strings.Contains(err.Error(), "x of package p") {
			t.Errorf("a changed file of 6 bytes that should have %d: %v", size, err)
		}
	}
}

func TestCPIOAsThePackagedToolReadsIt(t *testing.T) {
	tool, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is not installed")
	}
	entries := sample()
	entries[4].Xattrs = nil
	var b bytes.Buffer
	archives := tree(t, entries...).CPIO(1 << 20)
	if len(archives) != 1 {
		t.Fatalf("%d archives", len(archives))
	}
	if err := archives[0].Write(&b, 1); err != nil {
		t.Fatal(err)
	}
	list := exec.Command(tool, "-itvn", "--quiet")
	list.Stdin = bytes.NewReader(b.Bytes())
	list.Env = []string{"TZ=UTC", "LC_ALL=C"} // times and names as they are
	out, err := list.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); !strings.Contains(line, "long/") {
			lines = append(lines, strings.Join(append(f[:4:4], f[4:]...), " "))
		}
	}
	want := `lrwxrwxrwx 1 0 0 7 Jan 1 1970 bin -> usr/bin
drwxr-xr-x 2 0 0 0 Jan 1 1970 dev
crw------- 1 0 0 5, 1 Jan 1 1970 dev/console
drwxr-xr-x 2 0 0 0 Jan 1 1970 etc
-rw-r----- 1 0 42 14 Jan 1 1970 etc/shadow
drwxr-xr-x 2 0 0 0 Jan 1 1970 long
drwxrwxrwt 2 0 0 0 Jan 1 1970 tmp
drwxr-xr-x 2 0 0 0 Jan 1 1970 usr
drwxr-xr-x 2 0 0 0 Jan 1 1970 usr/bin
-rw-r--r-- 2 0 0 6 Jan 1 1970 usr/bin/a
-rw-r--r-- 1 0 0 4 Jan 1 1970 usr/bin/ping
-rw-r--r-- 2 0 0 0 Jan 1 1970 usr/bin/z
drwxr-xr-x 2 0 0 0 Jan 1 1970 var
drwxr-xr-x 2 0 0 0 Jan 1 1970 var/cache
drwxr-xr-x 2 70000 70000 0 Jan 1 1970 var/cache/é`
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestCPIOInParts: all archives unpack to the tree, the names of a file are in one, and what comes later changes none before.
func TestCPIOInParts(t *testing.T) {
	tool, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is not installed")
	}
	file := func(path string, size int) Entry {
		return Entry{Path: path, Type: Regular, Mode: 0o644, Content: Inline(bytes.Repeat([]byte(path[:1]), size))}
	}
	entries := []Entry{file("a/1", 60), file("a/2", 60), file("a/3", 10), file("b", 10), file("c/d/e", 100), file("f", 1),
		{Path: "c/link", Type: HardLink, Link: "a/3"}}
	tr := tree(t, entries...)
	archives := tr.CPIO(100)
	var numbers []int
	dir := t.TempDir()
	for _, a := range archives {
		numbers = append(numbers, len(a.parts))
		var b bytes.Buffer
		if err := a.Write(&b, 1); err != nil {
			t.Fatal(err)
		}
		unpack := exec.Command(tool, "-im", "--quiet", "-D", dir)
		unpack.Stdin = &b
		if out, err := unpack.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if want := []int{3, 6, 1}; !slices.Equal(numbers, want) { // a, a/1, a/2; a/3 to c/link; f
		t.Errorf("entries in the archives: %v, not %v", numbers, want)
	}
	for _, e := range tr.All() {
		if e.Type != Regular {
			continue
		}
		got, err := os.ReadFile(filepath.Join(dir, e.Path))
		if want, _ := e.Content.Bytes(); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", e.Path, len(got), err)
		}
	}
	more := tree(t, append(entries, file("d", 500))...).CPIO(100)
	if more[0].Digest() != archives[0].Digest() || more[1].Digest() != archives[1].Digest() || more[2].Digest() == archives[2].Digest() {
		t.Error("another file changed other archives than its own")
	}
}

func TestRemove(t *testing.T) {
	tr := tree(t, sample()...)
	tr.Remove("bin/z")
	tr.Remove("long")
	tr.Remove("nothing/here")
	var b bytes.Buffer
	if err := tr.WriteTar(&b, 0); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(tr.Dump(), "long/") || strings.Contains(tr.Dump(), "usr/bin/z") {
		t.Error(tr.Dump())
	}
	if got, err := tr.ReadFile("usr/bin/a"); err != nil || string(got) != "linked" {
		t.Errorf("the other name of a removed hard link reads %q, %v", got, err)
	}
}
