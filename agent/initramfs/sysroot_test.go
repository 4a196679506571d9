package initramfs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// tree is a folder as lines of "path mode owner content".
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(dir, path)
		content := ""
		switch {
		case d.Type() == fs.ModeSymlink:
			content, _ = os.Readlink(path)
		case d.Type().IsRegular():
			data, _ := os.ReadFile(path)
			content = string(data)
		}
		fmt.Fprintf(&b, "%s %v %d:%d %s\n", rel, info.Mode(), st.Uid, st.Gid, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestCopyTree(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("owners need root")
	}
	from, to := t.TempDir(), t.TempDir()
	must(t,
		os.MkdirAll(from+"/lib/x", 0o755), os.Chmod(from+"/lib/x", 0o2750), os.Chown(from+"/lib/x", 7, 8),
		os.WriteFile(from+"/lib/x/file", []byte("hello"), 0o640), os.Chown(from+"/lib/x/file", 5, 6),
		os.Symlink("/run", from+"/run"), os.Symlink("../../outside", from+"/lib/up"), os.Lchown(from+"/run", 9, 9),
		os.Mkdir(from+"/tmp", 0o755), os.Chmod(from+"/tmp", 0o777|os.ModeSticky),
	)
	for range 2 { // again: nothing changes
		must(t, copyTree(from, to))
	}
	if got, want := tree(t, to), tree(t, from); got != want {
		t.Errorf("the copy is\n%sthe source is\n%s", got, want)
	}
}

func TestEmptyKeepsOtherFileSystems(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	m := mount{"tmpfs", dir, "tmpfs", 0, ""}
	must(t, m.do())
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	inner := mount{"tmpfs", dir + "/usr/inner", "tmpfs", 0, ""}
	must(t, os.MkdirAll(dir+"/usr/bin", 0o755), inner.do(), os.WriteFile(dir+"/usr/bin/x", nil, 0o755), os.Symlink("bin/x", dir+"/usr/link"),
		os.WriteFile(dir+"/usr/inner/keep", []byte("me"), 0o600))
	must(t, empty(dir))
	if got := tree(t, dir); !strings.HasSuffix(got, "usr/inner/keep -rw------- 0:0 me\n") || strings.Contains(got, "bin") || strings.Contains(got, "link") {
		t.Errorf("left is\n%s", got)
	}
}

func TestMountTellsWhere(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	err := mount{"nonesuch", dir + "/x", "nonesuch", 0, ""}.do()
	if err == nil || !strings.Contains(err.Error(), dir+"/x") {
		t.Errorf("error is %v", err)
	}
}

// verityImage is a root image made by cryptsetup's own tool.
func verityImage(t *testing.T) (path string, root bootspec.Root) {
	t.Helper()
	tool, err := exec.LookPath("veritysetup")
	if err != nil {
		t.Skip("no veritysetup (Debian package cryptsetup-bin)")
	}
	const size = 300 * bootspec.VerityBlockSize
	path = filepath.Join(t.TempDir(), "image.root")
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i >> 8)
	}
	must(t, os.WriteFile(path, data, 0o600))
	out, err := exec.Command(tool, "format", "--hash-offset="+strconv.Itoa(size), path, path).CombinedOutput()
	must(t, err)
	for line := range strings.Lines(string(out)) {
		if v, ok := strings.CutPrefix(line, "Root hash:"); ok {
			root.Hash = strings.TrimSpace(v)
		}
	}
	all, err := os.ReadFile(path)
	must(t, err)
	sum := sha256.Sum256(all)
	root.Data, root.Size, root.Digest = size, int64(len(all)), hex.EncodeToString(sum[:])
	return path, root
}

func TestVerityTable(t *testing.T) {
	path, root := verityImage(t)
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	v, err := verityTable(f, root.Data, root)
	must(t, err)
	salt := hex.EncodeToString(v.salt)
	want := "1 /dev/loop7 /dev/loop7 4096 4096 300 301 sha256 " + root.Hash + " " + salt + " 1 panic_on_corruption"
	if got := v.params("/dev/loop7", "/dev/loop7", root.Data/bootspec.VerityBlockSize); got != want || len(salt) != 64 {
		t.Errorf("table is %q, want %q", got, want)
	}
}

func TestVerityTableRefuses(t *testing.T) {
	path, root := verityImage(t)
	for name, c := range map[string]struct {
		at   int64
		want string
	}{
		"no superblock":       {root.Data, "no superblock"},
		"other algorithm":     {root.Data + 32, "only SHA-256"},
		"other size":          {root.Data + 72, "blocks, not 300"},
		"other salt":          {root.Data + 88, "expected is " + root.Hash},
		"flipped in tree top": {root.Data + 4096 + 17, "expected is " + root.Hash},
	} {
		data, err := os.ReadFile(path)
		must(t, err)
		data[c.at] ^= 1
		if _, err := verityTable(strings.NewReader(string(data)), root.Data, root); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	if _, err := verityTable(strings.NewReader("short"), root.Data, root); err == nil {
		t.Error("a truncated image is taken")
	}
}

func FuzzVerityTable(f *testing.F) {
	f.Add(append([]byte("verity\x00\x00\x01\x00\x00\x00\x01"), make([]byte, 8192)...))
	f.Fuzz(func(t *testing.T, head []byte) {
		_, _ = verityTable(strings.NewReader(string(head)), 0, bootspec.Root{Data: 0, Hash: "00"})
	})
}
