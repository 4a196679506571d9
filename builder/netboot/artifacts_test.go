package netboot

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/checksums"
	"github.com/slipway-os/slipway/images/manifest"
)

// bake writes an image's small stand-ins and their manifest into a folder, and returns the manifest's file.
func bake(t testing.TB, dir, role, version, arch string, edit ...func(*manifest.Manifest)) string {
	t.Helper()
	base := bootspec.ArtifactBase(role, version, arch)
	m := &manifest.Manifest{
		APIVersion: manifest.Version, Kind: manifest.Kind, Role: role, Version: version, Arch: arch,
		Plan: strings.Repeat("a", 64), Root: manifest.Root{Hash: strings.Repeat("b", 64), Data: 4096},
	}
	for _, a := range []struct{ kind, extension string }{{manifest.KindUKI, bootspec.ExtUKI}, {manifest.KindRoot, bootspec.ExtRoot}} {
		content := strings.Repeat(a.kind+" of "+base+"\n", 2000)
		write(t, filepath.Join(dir, base+a.extension), content)
		m.Artifacts = append(m.Artifacts, manifest.Artifact{
			Name: base + a.extension, Kind: a.kind, Size: int64(len(content)), SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(content))),
		})
	}
	for _, e := range edit {
		e(m)
	}
	file := filepath.Join(dir, base+bootspec.ExtManifest)
	write(t, file, string(m.Encode()))
	return file
}

// write replaces a file, as bake does it: with a new one.
func write(t testing.TB, file, content string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

var bothRoles = []string{"control-plane", "worker"}

func TestPickArtifacts(t *testing.T) {
	dir := t.TempDir()
	for _, version := range []string{"0.9.0", "0.10.0-rc.1", "0.10.0"} {
		bake(t, dir, "worker", version, "amd64")
	}
	bake(t, dir, "worker", "0.9.0", "arm64")
	bake(t, dir, "control-plane", "0.9.0", "amd64")
	for _, c := range []struct{ wanted, workerAMD64, workerARM64 string }{
		{"", "slipway-worker-0.10.0-amd64.efi", "slipway-worker-0.9.0-arm64.efi"},
		{"0.9.0", "slipway-worker-0.9.0-amd64.efi", "slipway-worker-0.9.0-arm64.efi"},
	} {
		a, err := openArtifacts(t.Context(), dir, c.wanted, bothRoles, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.uki[imageKey{"worker", "amd64"}]; got != c.workerAMD64 {
			t.Errorf("wanted %q: amd64 is %s", c.wanted, got)
		}
		if got := a.uki[imageKey{"worker", "arm64"}]; got != c.workerARM64 {
			t.Errorf("wanted %q: arm64 is %s", c.wanted, got)
		}
		a.close()
	}
}

// TestDiskImagesStayOut: a manifest's disk images are not served, and needn't be there.
func TestDiskImagesStayOut(t *testing.T) {
	dir := t.TempDir()
	const disk = "slipway-worker-0.1.0-amd64.disk.raw"
	bake(t, dir, "worker", "0.1.0", "amd64", func(m *manifest.Manifest) {
		m.Artifacts = append(m.Artifacts, manifest.Artifact{
			Name: disk, Kind: manifest.KindDisk, Size: 1 << 40, SHA256: strings.Repeat("c", 64),
		})
	})
	a, err := openArtifacts(t.Context(), dir, "", []string{"worker"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	if file, _, err := a.open(disk); err == nil {
		file.Close()
		t.Error("the disk image is served")
	}
}

// TestTrustedArtifacts: with a trusted key, only what it has signed is served.
func TestTrustedArtifacts(t *testing.T) {
	dir, base := t.TempDir(), filepath.Join(t.TempDir(), "k")
	bake(t, dir, "worker", "0.1.0", "amd64")
	if _, err := release.Generate(base, "", rand.Reader); err != nil {
		t.Fatal(err)
	}
	key, err := release.ReadSigningKey(base+release.ExtSecret, nil)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := release.ReadTrust([]string{base + release.ExtPublic}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openArtifacts(t.Context(), dir, "", []string{"worker"}, trust); !errors.Is(err, release.ErrSignature) {
		t.Errorf("unsigned: %v", err)
	}
	if _, err := release.Sign(dir, "", release.Signers{Minisign: &key}); err != nil {
		t.Fatal(err)
	}
	bake(t, dir, "control-plane", "0.1.0", "amd64")
	if _, err := release.Sign(dir, "", release.Signers{Minisign: &key}); err != nil {
		t.Fatal(err)
	}
	for _, trust := range []*release.Trust{trust, nil} {
		a, err := openArtifacts(t.Context(), dir, "", bothRoles, trust)
		if err != nil {
			t.Fatal(err)
		}
		// Nodes whose image pins the key ask for the signature, whether or not the server did.
		for _, ext := range []string{release.ExtSums, release.ExtSignature} {
			if f, _, err := a.open(release.FileName("0.1.0", ext)); err != nil {
				t.Error(err)
			} else {
				f.Close()
			}
		}
		a.close()
	}
	// Artifacts are compared with what was signed, too.
	write(t, filepath.Join(dir, "slipway-worker-0.1.0-amd64.root"), "other")
	if _, err := openArtifacts(t.Context(), dir, "", []string{"worker"}, trust); !errors.Is(err, manifest.ErrWrong) {
		t.Errorf("changed: %v", err)
	}
}

// TestPinnedArtifacts: an image that pins a key and that nobody, or another key, has signed is served, and it is said what will become of that.
func TestPinnedArtifacts(t *testing.T) {
	dir := t.TempDir()
	keys := map[string]release.SigningKey{}
	for _, name := range []string{"ours", "theirs"} {
		base := filepath.Join(dir, name)
		if _, err := release.Generate(base, "", rand.Reader); err != nil {
			t.Fatal(err)
		}
		key, err := release.ReadSigningKey(base+release.ExtSecret, nil)
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = key
	}
	public, err := os.ReadFile(filepath.Join(dir, "ours"+release.ExtPublic))
	if err != nil {
		t.Fatal(err)
	}
	pin, err := checksums.Keys{}.Add(public)
	if err != nil {
		t.Fatal(err)
	}
	bake(t, dir, "worker", "0.1.0", "amd64", func(m *manifest.Manifest) { m.Cmdline = "quiet " + bootspec.ArgReleaseKey + "=" + pin.String() })
	for _, c := range []struct{ signer, want string }{
		{"", "slipway-worker-0.1.0-amd64: the signature does not vouch for it: nobody has signed version 0.1.0"},
		{"theirs", "is signed with key " + keys["theirs"].ID()},
		{"ours", ""},
	} {
		if key, ok := keys[c.signer]; ok {
			if _, err := release.Sign(dir, "", release.Signers{Minisign: &key}); err != nil {
				t.Fatal(err)
			}
		}
		a, err := openArtifacts(t.Context(), dir, "", []string{"worker"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		a.close()
		if got := fmt.Sprint(a.refused); c.want == "" && len(a.refused) > 0 || !strings.Contains(got, c.want) {
			t.Errorf("signed by %q: %s", c.signer, got)
		}
	}
}

// TestArtifactFaults: what can't be served is said at the start, with the file and what to do.
func TestArtifactFaults(t *testing.T) {
	const uki, root = "slipway-worker-0.1.0-amd64.efi", "slipway-worker-0.1.0-amd64.root"
	remove := func(t *testing.T, file string) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		spoil  func(t *testing.T, dir string)
		wanted string
		want   []string
	}{
		{"folder missing", func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}, "", []string{"artifacts folder", "no such file", "slipway bake --role"}},
		{"image of a role missing", func(t *testing.T, dir string) {
			remove(t, filepath.Join(dir, "slipway-worker-0.1.0-amd64.json"))
		}, "", []string{"cannot serve role worker", "slipway bake --role worker"}},
		{"version missing", func(*testing.T, string) {}, "0.2.0", []string{"cannot serve role control-plane", "no image of version 0.2.0"}},
		{"artifact missing", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, root)) }, "", []string{root, "no such file", "bake the image again"}},
		{"one byte differs", func(t *testing.T, dir string) {
			text, err := os.ReadFile(filepath.Join(dir, root))
			if err != nil {
				t.Fatal(err)
			}
			text[100] ^= 1
			write(t, filepath.Join(dir, root), string(text))
		}, "", []string{root, "not what its manifest says", "bake the image again"}},
		{"two are cut", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, root), "cut")
			write(t, filepath.Join(dir, uki), "")
		}, "", []string{root, uki, "3 bytes", "0 bytes"}},
		{"manifest names another folder", func(t *testing.T, dir string) {
			bake(t, dir, "worker", "0.1.0", "amd64", func(m *manifest.Manifest) { m.Artifacts[1].Name = "../secret" })
		}, "", []string{"slipway-worker-0.1.0-amd64.json", `"../secret" is not a plain file name`}},
		{"manifest links out of the folder", func(t *testing.T, dir string) {
			remove(t, filepath.Join(dir, root))
			if err := os.Symlink("/etc/passwd", filepath.Join(dir, root)); err != nil {
				t.Fatal(err)
			}
		}, "", []string{root, "escapes"}},
		{"manifest cut", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "slipway-worker-0.1.0-amd64.json"), `{"apiVersion":`)
		}, "", []string{"slipway-worker-0.1.0-amd64.json", "unexpected EOF"}},
		{"no UKI", func(t *testing.T, dir string) {
			bake(t, dir, "worker", "0.1.0", "amd64", func(m *manifest.Manifest) { m.Artifacts = m.Artifacts[1:] })
		}, "", []string{"worker", "names no UKI"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "images")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			bake(t, dir, "worker", "0.1.0", "amd64")
			bake(t, dir, "control-plane", "0.1.0", "amd64")
			c.spoil(t, dir)
			_, err := openArtifacts(t.Context(), dir, c.wanted, bothRoles, nil)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want: %s", err, want)
				}
			}
		})
	}
}

// TestVerifiedIsServed: baking into the folder of a running server doesn't change what it serves; a file that's written
// over in its place is refused, not served unverified.
func TestVerifiedIsServed(t *testing.T) {
	const uki = "slipway-worker-0.1.0-amd64.efi"
	dir := t.TempDir()
	bake(t, dir, "worker", "0.1.0", "amd64")
	a, err := openArtifacts(t.Context(), dir, "", []string{"worker"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	read := func() (string, error) {
		file, _, err := a.open(uki)
		if err != nil {
			return "", err
		}
		defer file.Close()
		text, err := io.ReadAll(file)
		return string(text), err
	}
	before, err := read()
	if err != nil || !strings.HasPrefix(before, "uki of slipway-worker-0.1.0-amd64\n") {
		t.Fatalf("%q, %v", before, err)
	}
	write(t, filepath.Join(dir, uki), "another image")
	if again, err := read(); err != nil || again != before {
		t.Errorf("after baking again: %.40q, %v", again, err)
	}
	if err := a.files[uki].file.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := read(); err == nil {
		t.Error("a closed file is served")
	}

	bake(t, dir, "worker", "0.2.0", "amd64")
	b, err := openArtifacts(t.Context(), dir, "0.2.0", []string{"worker"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	file := filepath.Join(dir, "slipway-worker-0.2.0-amd64.efi")
	info, err := os.Stat(file)
	if err == nil {
		err = os.WriteFile(file, make([]byte, info.Size()), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.open(filepath.Base(file)); err == nil || !strings.Contains(err.Error(), "was written over") {
		t.Errorf("written over in its place: %v", err)
	}
}
