package squashfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/rootfs"
)

func options() Options {
	return Options{Algorithm: "zstd", Level: 3, BlockSize: 128 << 10, Epoch: 1700000000}
}

func tree(t *testing.T) *rootfs.Tree {
	t.Helper()
	tr := rootfs.New()
	for i := range 200 {
		content := rootfs.Inline(bytes.Repeat([]byte(fmt.Sprintf("line %d\n", i)), i*50))
		if err := tr.Add(rootfs.Entry{Path: fmt.Sprintf("usr/lib/%d/file", i), Type: rootfs.Regular, Mode: 0o644, Content: content}); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range []rootfs.Entry{
		{Path: "usr/bin/ping", Type: rootfs.Regular, Mode: 0o4755, Content: rootfs.Inline([]byte("ELF")), Xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}},
		{Path: "bin", Type: rootfs.Symlink, Link: "usr/bin"},
		{Path: "etc/shadow", Type: rootfs.Regular, Mode: 0o640, GID: 42, Content: rootfs.Inline(nil)},
		{Path: "usr/bin/a", Type: rootfs.HardLink, Link: "usr/bin/ping"},
		{Path: "dev/null", Type: rootfs.CharDevice, Mode: 0o666, Major: 1, Minor: 3},
	} {
		if err := tr.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func packer(t *testing.T) Packer {
	t.Helper()
	store, err := NewStore(filepath.Join(t.TempDir(), "pieces"))
	if err != nil {
		t.Fatal(err)
	}
	return Packer{Program: Host, Tool: "host", Store: store, Name: "test"}
}

func pack(t *testing.T, o Options) string {
	t.Helper()
	return packTree(t, packer(t), tree(t), o)
}

func packTree(t *testing.T, p Packer, tr *rootfs.Tree, o Options) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	err := p.Write(context.Background(), path, tr, o)
	if errors.Is(err, ErrNoTool) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSameBytesTwice(t *testing.T) {
	first, err := os.ReadFile(pack(t, options()))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TZ", "Asia/Kathmandu")
	t.Setenv("SOURCE_DATE_EPOCH", "1")
	second, err := os.ReadFile(pack(t, options()))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Errorf("two runs differ (%d and %d bytes)", len(first), len(second))
	}
}

func TestContentArrives(t *testing.T) {
	path := pack(t, options())
	list := exec.Command("unsquashfs", "-lln", path)
	list.Env = []string{"TZ=UTC", "PATH=" + os.Getenv("PATH")}
	out, err := list.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{
		"drwxr-xr-x 0/0 ", "-rwsr-xr-x 0/0 3 2023-11-14 22:13 squashfs-root/usr/bin/ping", "lrwxrwxrwx 0/0 7 2023-11-14 22:13 squashfs-root/bin -> usr/bin",
		"-rw-r----- 0/42 0 2023-11-14 22:13 squashfs-root/etc/shadow", "crw-rw-rw- 0/0 1, 3 2023-11-14 22:13 squashfs-root/dev/null",
		"2023-11-14 22:13 squashfs-root\n",
	} {
		if !strings.Contains(strings.Join(strings.Split(squeeze(string(out)), " \n"), "\n"), want) {
			t.Errorf("no %q in\n%s", want, squeeze(string(out)))
		}
	}
}

func squeeze(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if !strings.Contains(line, "/file") {
			b.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
		}
	}
	return b.String()
}

func TestFailures(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	mine := errors.New("cannot read usr/bin/x")
	err := Program(Host).Write(context.Background(), path, options(), func(w io.Writer) error {
		tree(t).WriteTar(w, 0)
		return mine
	})
	if !errors.Is(err, mine) {
		t.Errorf("the feeding side failed, but the error is %v", err)
	}
	err = Program(Host).Write(context.Background(), "/proc/none/image", options(), func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(make([]byte, 1<<20)))
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "/proc/none/image") {
		t.Errorf("a file that cannot be made: %v", err)
	}
	for _, o := range []Options{{}, {"lz4", 1, 4096, 0}, {"zstd", 23, 4096, 0}, {"zstd", 3, 5000, 0}, {"zstd", 3, 4096, -1}} {
		if err := Program(Host).Write(context.Background(), path, o, nil); err == nil {
			t.Errorf("options %+v were taken", o)
		}
	}
}

func TestSizes(t *testing.T) {
	path := pack(t, options())
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := Sizes(f)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	files, total := 0, int64(0)
	for _, e := range tree(t).All() {
		if e.Type != rootfs.Regular {
			continue
		}
		n, ok := got[e.Path]
		if files++; !ok || n > e.Content.Size {
			t.Errorf("%s: %d of %d bytes, there: %v", e.Path, n, e.Content.Size, ok)
		}
		total += n
	}
	if len(got) != files {
		t.Errorf("%d files, not %d", len(got), files)
	}
	var head [96]byte // Linux, Documentation/filesystems/squashfs.rst: superblock, options of the compression, data, inodes
	if _, err := f.ReadAt(head[:], 0); err != nil {
		t.Fatal(err)
	}
	options := int64(0)
	if flags := binary.LittleEndian.Uint16(head[24:]); flags&0x400 != 0 {
		options = 2 + 4 // a metadata block with zstd's level
	}
	if data := int64(binary.LittleEndian.Uint64(head[64:])) - 96 - options; total != data || total > info.Size() {
		t.Errorf("%d bytes of files, the image has %d bytes of data", total, data)
	}
	if got["usr/bin/a"] != 0 && got["usr/bin/ping"] != 0 {
		t.Error("a file with two names counts twice")
	}
	if _, err := Sizes(strings.NewReader("no squashfs")); err == nil {
		t.Error("anything is taken for a squashfs file")
	}
}
