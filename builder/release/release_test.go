package release

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/scrypt"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// putImage writes an image of two small files and its manifest.
func putImage(t *testing.T, dir, role, version, content string) {
	t.Helper()
	base := bootspec.ArtifactBase(role, version, "amd64")
	m := &manifest.Manifest{
		APIVersion: manifest.Version, Kind: manifest.Kind, Role: role, Version: version, Arch: "amd64", Plan: strings.Repeat("a", 64),
		Root: manifest.Root{Hash: strings.Repeat("b", 64), Data: 4096}, Cmdline: "console=ttyS0",
	}
	for _, f := range []struct{ ext, kind string }{{bootspec.ExtUKI, manifest.KindUKI}, {bootspec.ExtRoot, manifest.KindRoot}} {
		data := []byte(content + f.ext)
		m.Artifacts = append(m.Artifacts, manifest.Artifact{Name: base + f.ext, Kind: f.kind, Size: int64(len(data)), SHA256: digest(data)})
		put(t, filepath.Join(dir, base+f.ext), data)
	}
	put(t, filepath.Join(dir, base+bootspec.ExtManifest), m.Encode())
}

func put(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// newKey makes a key pair and reads both halves.
func newKey(t *testing.T) (SigningKey, *Trust) {
	t.Helper()
	base := filepath.Join(t.TempDir(), "k")
	key, err := Generate(base, "", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := ReadSigningKey(base+ExtSecret, nil)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := ReadTrust([]string{key.File}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return secret, trust
}

// check checks the worker's manifest in a folder as everybody does who reads an artifact.
func check(t *testing.T, trust *Trust, dir string) error {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	data := get(t, filepath.Join(dir, "slipway-worker-1.0.0-amd64.json"))
	m, err := manifest.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	_, err = trust.Check(context.Background(), Folder(root), m, data)
	return err
}

func signed(t *testing.T) (dir string, key SigningKey, trust *Trust) {
	t.Helper()
	dir = t.TempDir()
	putImage(t, dir, "control-plane", "1.0.0", "cp")
	putImage(t, dir, "worker", "1.0.0", "w")
	key, trust = newKey(t)
	if _, err := Sign(dir, "", Signers{Minisign: &key}); err != nil {
		t.Fatal(err)
	}
	return dir, key, trust
}

func TestSignedReleaseIsTrusted(t *testing.T) {
	dir, key, trust := signed(t)
	if err := check(t, trust, dir); err != nil {
		t.Error(err)
	}
	first := get(t, filepath.Join(dir, "slipway-1.0.0.sha256sums.minisig"))
	if _, err := Sign(dir, "1.0.0", Signers{Minisign: &key}); err != nil {
		t.Fatal(err)
	}
	if again := get(t, filepath.Join(dir, "slipway-1.0.0.sha256sums.minisig")); !bytes.Equal(first, again) {
		t.Errorf("signed twice, two signatures:\n%s\n%s", first, again)
	}
}

// TestCommonToolsVerify asks minisign and sha256sum, which know nothing of Slipway.
func TestCommonToolsVerify(t *testing.T) {
	for _, tool := range []string{"minisign", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	dir, _, trust := signed(t)
	run := func(words ...string) (string, error) {
		c := exec.Command(words[0], words[1:]...)
		c.Dir = dir
		out, err := c.CombinedOutput()
		return string(out), err
	}
	verify := []string{"minisign", "-V", "-p", trust.Keys[0].File, "-m", "slipway-1.0.0.sha256sums"}
	if out, err := run(verify...); err != nil || !strings.Contains(out, "slipway 1.0.0: control-plane/amd64 worker/amd64") {
		t.Errorf("minisign: %v\n%s", err, out)
	}
	if out, err := run("sha256sum", "-c", "--strict", "slipway-1.0.0.sha256sums"); err != nil || strings.Count(out, ": OK\n") != 6 {
		t.Errorf("sha256sum: %v\n%s", err, out)
	}
	put(t, filepath.Join(dir, "slipway-worker-1.0.0-amd64.root"), []byte("another"))
	if out, err := run("sha256sum", "-c", "slipway-1.0.0.sha256sums"); err == nil {
		t.Errorf("sha256sum saw no change:\n%s", out)
	}
	put(t, filepath.Join(dir, "slipway-1.0.0.sha256sums"), []byte("another"))
	if out, err := run(verify...); err == nil {
		t.Errorf("minisign saw no change:\n%s", out)
	}
}

// TestKeysOfMinisign signs with a key pair that minisign itself made.
func TestKeysOfMinisign(t *testing.T) {
	if _, err := exec.LookPath("minisign"); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	base := filepath.Join(dir, "theirs")
	if out, err := exec.Command("minisign", "-G", "-W", "-s", base+".key", "-p", base+".pub").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	key, err := ReadSigningKey(base+".key", nil)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := ReadTrust(nil, []string{dir, filepath.Join(dir, "none")})
	if err != nil {
		t.Fatal(err)
	}
	putImage(t, dir, "worker", "1.0.0", "w")
	if _, err := Sign(dir, "", Signers{Minisign: &key}); err != nil {
		t.Fatal(err)
	}
	if err := check(t, trust, dir); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotTrusted(t *testing.T) {
	const sums, sig = "slipway-1.0.0.sha256sums", "slipway-1.0.0.sha256sums.minisig"
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		words string
	}{
		"unsigned":        {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, sums)) }, "nobody has signed version 1.0.0"},
		"no signature":    {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, sig)) }, "there is no " + sig},
		"changed list":    {func(t *testing.T, dir string) { put(t, filepath.Join(dir, sums), []byte(" ")) }, sums + " is not what key"},
		"damaged":         {func(t *testing.T, dir string) { put(t, filepath.Join(dir, sig), []byte("x")) }, sig + " is no minisign signature"},
		"too long":        {func(t *testing.T, dir string) { put(t, filepath.Join(dir, sig), make([]byte, 5000)) }, "over the limit"},
		"baked again":     {func(t *testing.T, dir string) { putImage(t, dir, "worker", "1.0.0", "other") }, "slipway-worker-1.0.0-amd64.json is not the one"},
		"other's release": {func(t *testing.T, dir string) { resign(t, dir, "") }, "is signed with key"},
		"not part of it":  {func(t *testing.T, dir string) { resign(t, dir, "worker") }, "is signed with key"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _, trust := signed(t)
			c.spoil(t, dir)
			if err := check(t, trust, dir); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v\nwant: %s", err, c.words)
			}
			if err := check(t, nil, dir); err != nil {
				t.Errorf("nobody is trusted, and yet: %v", err)
			}
		})
	}
}

// resign signs with a key that nobody trusts.
func resign(t *testing.T, dir, without string) {
	t.Helper()
	if without != "" {
		os.Remove(filepath.Join(dir, bootspec.ArtifactBase(without, "1.0.0", "amd64")+bootspec.ExtManifest))
		defer putImage(t, dir, without, "1.0.0", "later")
	}
	key, _ := newKey(t)
	if _, err := Sign(dir, "1.0.0", Signers{Minisign: &key}); err != nil {
		t.Fatal(err)
	}
}

func TestAnImageBakedLaterIsNotPartOfTheRelease(t *testing.T) {
	dir := t.TempDir()
	putImage(t, dir, "control-plane", "1.0.0", "cp")
	key, trust := newKey(t)
	if _, err := Sign(dir, "", Signers{Minisign: &key}); err != nil {
		t.Fatal(err)
	}
	putImage(t, dir, "worker", "1.0.0", "w")
	if err := check(t, trust, dir); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), "doesn't name slipway-worker-1.0.0-amd64.json") {
		t.Error(err)
	}
}

func TestSignRefuses(t *testing.T) {
	key, _ := newKey(t)
	for name, c := range map[string]struct {
		version string
		fill    func(t *testing.T, dir string)
		words   string
	}{
		"nothing":      {"", func(*testing.T, string) {}, "no image"},
		"two versions": {"", func(t *testing.T, dir string) { putImage(t, dir, "worker", "2.0.0", "w") }, "--version"},
		"no such":      {"3.0.0", func(*testing.T, string) {}, "no image"},
		"damaged": {"1.0.0", func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "slipway-worker-1.0.0-amd64.root"), []byte("w.rooT"))
		}, "not what its manifest says"},
		"other name": {"", func(t *testing.T, dir string) {
			os.Rename(filepath.Join(dir, "slipway-worker-1.0.0-amd64.json"), filepath.Join(dir, "slipway-mine-1.0.0-amd64.json"))
		}, "its name would be slipway-worker-1.0.0-amd64.json"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if name != "nothing" {
				putImage(t, dir, "worker", "1.0.0", "w")
			}
			c.fill(t, dir)
			if _, err := Sign(dir, c.version, Signers{Minisign: &key}); err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v\nwant: %s", err, c.words)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*sha256sums*")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestKeyFiles(t *testing.T) {
	base := filepath.Join(t.TempDir(), "sub", "k")
	if _, err := Generate(base, "secret word", rand.Reader); err != nil { // takes a second, by design (scrypt)
		t.Fatal(err)
	}
	if info, err := os.Stat(base + ExtSecret); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := Generate(base, "", rand.Reader); err == nil || !strings.Contains(err.Error(), "never replaced") {
		t.Error(err)
	}
	if _, err := ReadSigningKey(base+ExtSecret, func() (string, error) { return "", ErrPassword }); !errors.Is(err, ErrPassword) {
		t.Error(err)
	}
	if _, err := ReadSigningKey(base+ExtPublic, nil); err == nil || !strings.Contains(err.Error(), "no minisign secret key") {
		t.Error(err)
	}
	if _, err := ReadTrust([]string{base + ExtSecret}, nil); err == nil || !strings.Contains(err.Error(), base+ExtSecret) {
		t.Error(err)
	}
	if _, err := ReadTrust([]string{base + ".none"}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestPassword reads a key that is encrypted as minisign does it, with the least work that its format allows.
func TestPassword(t *testing.T) {
	const ops, memory = 1 << 15, 16 << 20 // N 1024, r 8, p 1
	plain := make([]byte, 72)             // id, Ed25519 key
	plain[0] = 0x2a
	tag := blake2b.Sum256(append([]byte("Ed"), plain...))
	salt := bytes.Repeat([]byte{7}, 32)
	stream, err := scrypt.Key([]byte("secret word"), salt, 1024, 8, 1, 104)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range append(plain, tag[:]...) {
		stream[i] ^= b
	}
	key := slices.Concat([]byte("EdScB2"), salt, binary.LittleEndian.AppendUint64(nil, ops), binary.LittleEndian.AppendUint64(nil, memory), stream)
	file := filepath.Join(t.TempDir(), "k.key")
	put(t, file, []byte("untrusted comment: x\n"+base64.StdEncoding.EncodeToString(key)+"\n"))
	if k, err := ReadSigningKey(file, func() (string, error) { return "secret word", nil }); err != nil || k.ID() != "000000000000002A" {
		t.Errorf("%v, %v", k.ID(), err)
	}
	if _, err := ReadSigningKey(file, func() (string, error) { return "wrong", nil }); !errors.Is(err, ErrPassword) {
		t.Error(err)
	}
}

// FuzzSignature: nothing but what was signed is vouched for, whatever the signature's file says.
func FuzzSignature(f *testing.F) {
	key, trust := fuzzKey(f)
	text := Sums{"a": strings.Repeat("0", 64)}.Encode()
	f.Add(text, key.sign(text, "comment"))
	f.Add(text, []byte("untrusted comment: \nAAAA\ntrusted comment: \nAAAA\n"))
	f.Fuzz(func(t *testing.T, data, signature []byte) {
		sums, _, err := trust.Vouch("1.0.0", Own{Sums: data, Signature: signature})
		if err == nil && (!bytes.Equal(data, text) || fmt.Sprint(sums) == "map[]") {
			t.Fatalf("vouched for %q", data)
		}
	})
}

func fuzzKey(f *testing.F) (SigningKey, *Trust) {
	f.Helper()
	base := filepath.Join(f.TempDir(), "k")
	if _, err := Generate(base, "", rand.Reader); err != nil {
		f.Fatal(err)
	}
	key, err := ReadSigningKey(base+ExtSecret, nil)
	if err != nil {
		f.Fatal(err)
	}
	trust, err := ReadTrust([]string{base + ExtPublic}, nil)
	if err != nil {
		f.Fatal(err)
	}
	return key, trust
}
