package manifest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func sample() *Manifest {
	artifact := func(name, kind, content string) Artifact {
		return Artifact{Name: name, Kind: kind, Size: int64(len(content)), SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(content)))}
	}
	return &Manifest{
		APIVersion: Version, Kind: Kind, Role: "worker", Version: "0.1.0", Arch: "amd64", Plan: strings.Repeat("a", 64),
		Root: Root{Hash: strings.Repeat("b", 64), Data: 4096}, Cmdline: "console=ttyS0",
		Artifacts: []Artifact{artifact("w.efi", KindUKI, "uki"), artifact("w.root", KindRoot, "root image")},
		Packages:  []Package{{"udev", "257.13-1", "amd64", strings.Repeat("c", 64)}},
		Images:    []Image{{"slipway.local/pause:0.1.0", "sha256:" + strings.Repeat("d", 64)}},
	}
}

func TestEncodeDecode(t *testing.T) {
	text := sample().Encode()
	m, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if again := m.Encode(); !bytes.Equal(again, text) {
		t.Errorf("not the same after reading it:\n%s\n%s", text, again)
	}
	if a, ok := m.Artifact(KindRoot); !ok || a.Name != "w.root" {
		t.Errorf("root artifact: %+v", a)
	}
}

func TestDecodeIsStrict(t *testing.T) {
	good := string(sample().Encode())
	for name, bad := range map[string]string{
		"empty": "", "unknown field": strings.Replace(good, `"role"`, `"roles"`, 1), "other version": strings.Replace(good, "v1alpha1", "v2", 1),
		"two documents": good + good, "path in a name": strings.Replace(good, "w.efi", "../w.efi", 1), "hidden name": strings.Replace(good, "w.efi", ".w.efi", 1),
		"name twice": strings.Replace(good, "w.efi", "w.root", 1), "no digest": strings.Replace(good, strings.Repeat("b", 64), "bb", 1),
		"too long": good + strings.Repeat(" ", MaxSize),
	} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestVerifyFolder(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("w.efi", "uki")
	write("w.root", "root image")
	if err := sample().VerifyFolder(dir); err != nil {
		t.Error(err)
	}
	for _, wrong := range []string{"root imagE", "root imag", "root image!"} {
		write("w.root", wrong)
		if err := sample().VerifyFolder(dir); !errors.Is(err, ErrWrong) || !strings.Contains(err.Error(), "w.root") || strings.Contains(err.Error(), "w.efi") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "w.root")); err != nil {
		t.Fatal(err)
	}
	if err := sample().VerifyFolder(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(sample().Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Decode(data)
		if err != nil {
			return
		}
		again, err := Decode(m.Encode())
		if err != nil || !bytes.Equal(again.Encode(), m.Encode()) {
			t.Fatalf("what Encode wrote is not read back: %v", err)
		}
	})
}
