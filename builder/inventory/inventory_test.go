package inventory

import (
	"bytes"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/rootfs"
)

func sample(t testing.TB) *Inventory {
	t.Helper()
	tree := rootfs.New()
	for _, e := range []rootfs.Entry{
		{Path: "usr/bin/ping", Type: rootfs.Regular, Mode: 0o4755, GID: 5, Content: rootfs.Inline([]byte("ELF")), Origin: "package iputils", Xattrs: map[string]string{"security.capability": "\x01"}},
		{Path: "bin", Type: rootfs.Symlink, Link: "usr/bin", Origin: "package base-files"},
	} {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return New(List(tree, map[string]int64{"usr/bin/ping": 2}), []Entry{})
}

func TestEncodeDecode(t *testing.T) {
	text := sample(t).Encode()
	i, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(i.Encode(), text) {
		t.Errorf("not the same after reading it:\n%s", i.Encode())
	}
	want := Entry{Path: "usr/bin/ping", Type: File, Mode: "4755", GID: 5, Size: 3, Packed: 2, Origin: "package iputils", SHA256: i.Root[3].SHA256}
	got := i.Root[3]
	if got.Xattrs["security.capability"] != "01" || len(got.SHA256) != 64 {
		t.Errorf("%+v", got)
	}
	if got.Xattrs = nil; got.Path != want.Path || got.Mode != want.Mode || got.GID != want.GID || got.Size != want.Size || got.Packed != want.Packed || got.Type != want.Type {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestDecodeIsStrict(t *testing.T) {
	good := string(sample(t).Encode())
	for name, bad := range map[string]string{
		"empty": "", "unknown field": strings.Replace(good, `"uid"`, `"user"`, 1), "two documents": good + good, "another kind": strings.Replace(good, Kind, "Manifest", 1),
		"path elsewhere": strings.Replace(good, `"bin"`, `"../bin"`, 1), "absolute path": strings.Replace(good, `"bin"`, `"/bin"`, 1),
		"order": strings.Replace(good, `"bin"`, `"zz"`, 1), "size": strings.Replace(good, `"size": 3`, `"size": -3`, 1),
	} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(sample(f).Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := Decode(data)
		if err != nil {
			return
		}
		again, err := Decode(i.Encode())
		if err != nil || !bytes.Equal(again.Encode(), i.Encode()) {
			t.Fatalf("what Encode wrote is not read back: %v", err)
		}
	})
}
