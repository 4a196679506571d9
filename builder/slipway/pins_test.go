package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/securetest"
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
