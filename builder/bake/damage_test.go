package bake

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryKindOfDamage: whatever happened to an object of the cache, the next bake drops it, says so, and gives the same bytes.
func TestEveryKindOfDamage(t *testing.T) {
	k := newKitchen(t)
	k.bake()
	want := k.artifacts()
	if len(k.warned) > 0 {
		t.Errorf("nothing was damaged: %q", k.warned)
	}
	rewrite := func(change func([]byte) []byte) func(string) error {
		return func(path string) error {
			data, err := os.ReadFile(path)
			if len(data) == 0 { // a package of folders alone
				return err
			}
			return errors.Join(err, os.WriteFile(path, change(data), 0o600))
		}
	}
	damages := map[string]func(path string) error{
		"flipped":    rewrite(func(b []byte) []byte { b[len(b)/2] ^= 4; return b }),
		"cut":        rewrite(func(b []byte) []byte { return b[:len(b)/2] }),
		"empty":      rewrite(func([]byte) []byte { return nil }),
		"unreadable": func(path string) error { return errors.Join(os.Remove(path), os.Symlink(path, path)) }, // root reads whatever its mode is
		"a folder": func(path string) error {
			return errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "x"), 0o755))
		},
	}
	words := []string{"stage root-worker-", "stage initrd-amd64-", "stage oci-pause-", "unpacked package "}
	for what, patterns := range map[string][]string{
		"content": {"stages/root-worker-*[0-9a-f]", "stages/initrd-*[0-9a-f]", "stages/oci-pause-*[0-9a-f]", "layers/*.data"},
		"records": {"stages/root-worker-*.json", "stages/initrd-*.json", "stages/oci-pause-*.json", "layers/*.json"},
	} {
		for name, damage := range damages {
			for _, p := range patterns {
				k.damage(p, damage)
			}
			k.bake()
			for _, w := range words {
				if text := strings.Join(k.warned, "\n"); !strings.Contains(text, w) || strings.Count(text, " in the cache is damaged (") != len(k.warned) {
					t.Errorf("%s %s: no %q among the warnings:\n%s", what, name, w, text)
				}
			}
			for file, content := range k.artifacts() {
				if !bytes.Equal(content, want[file]) {
					t.Errorf("%s %s: %s is another", what, name, file)
				}
			}
		}
	}
	if k.bake(); len(k.warned) > 0 {
		t.Errorf("it is still damaged: %q", k.warned)
	}
}

func (k *kitchen) cached(pattern string) []string {
	k.t.Helper()
	files, err := filepath.Glob(filepath.Join(k.cache, pattern))
	if err != nil || len(files) == 0 {
		k.t.Fatalf("no file %s in the cache (%v)", pattern, err)
	}
	return files
}

func (k *kitchen) damage(pattern string, how func(path string) error) {
	k.t.Helper()
	for _, f := range k.cached(pattern) {
		if err := how(f); err != nil {
			k.t.Fatal(err)
		}
	}
}
