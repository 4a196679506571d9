package main

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/securetest"
	"github.com/slipway-os/slipway/images/checksums"
)

// TestPins: what bake writes onto the command line is what the agent compares with; anything but an authority's certificate is refused.
func TestPins(t *testing.T) {
	dir := t.TempDir()
	var files, digests []string
	for _, name := range []string{"a.crt", "b.crt"} {
		authority, _ := securetest.Certificate(t)
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, authority, 0o600); err != nil {
			t.Fatal(err)
		}
		_, digest, err := bootspec.Secure{Authority: string(authority)}.Trust(nil)
		if err != nil {
			t.Fatal(err)
		}
		files, digests = append(files, file), append(digests, digest)
	}
	value, err := readPins(files)
	if err != nil || value != strings.Join(digests, ",") {
		t.Errorf("%s, %v", value, err)
	}
	if pins, err := bootspec.ParsePins(value); err != nil || len(pins) != 2 {
		t.Errorf("%s, %v", pins, err)
	}
	wrong := filepath.Join(dir, "wrong")
	if err := os.WriteFile(wrong, []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{wrong, filepath.Join(dir, "nothing")} {
		if value, err := readPins([]string{files[0], file}); err == nil || !strings.Contains(err.Error(), "cannot pin a boot authority") || value != "" {
			t.Errorf("%s: %q, %v", file, value, err)
		}
	}
}

// TestReleaseKeys: what bake writes onto the command line is the key that keygen made, in either format, and a secret key never gets there.
func TestReleaseKeys(t *testing.T) {
	dir := t.TempDir()
	base, cosign := filepath.Join(dir, "release"), filepath.Join(dir, "cosign")
	first, err := release.Generate(base, "", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	second, err := release.GenerateSigstore(cosign, "", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	value, err := readReleaseKeys([]string{base + release.ExtPublic, cosign + release.ExtPublic, base + release.ExtPublic})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := checksums.ParseKeys(value)
	if err != nil || len(keys) != 2 || keys[0].ID != first.ID || keys[1].ID != second.ID {
		t.Errorf("%q: %v, %v; made were %s and %s", value, keys, err, first.ID, second.ID)
	}
	for _, file := range []string{base + release.ExtSecret, cosign + release.ExtSecret, filepath.Join(dir, "nothing")} {
		if value, err := readReleaseKeys([]string{file}); err == nil || !strings.Contains(err.Error(), "cannot pin") || !strings.Contains(err.Error(), file) || value != "" {
			t.Errorf("%s: %q, %v", file, value, err)
		}
	}
}
