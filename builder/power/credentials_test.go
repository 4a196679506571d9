package power

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bmc.yaml")
	put := func(text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
	}
	put("default: {user: root, password: one}\nnodes:\n  cp-1: {user: admin, password: two}\n", 0o600)
	c, err := ReadCredentials(file)
	if err != nil {
		t.Fatal(err)
	}
	for node, want := range map[string]Login{"cp-1": {"admin", "two"}, "worker-1": {"root", "one"}} {
		if l, err := c.Login(node); err != nil || l != want {
			t.Errorf("%s: got %+v, %v", node, l, err)
		}
	}
	put("nodes: {cp-1: {user: admin}}", 0o600)
	if c, err = ReadCredentials(file); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Login("cp-1"); err == nil || !strings.Contains(err.Error(), "no user and password for cp-1") {
		t.Errorf("got %v", err)
	}
	put("default: {user: root, password: one}", 0o640)
	if _, err := ReadCredentials(file); !errors.Is(err, ErrExposed) || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v", err)
	}
	put("default: {user: root, pasword: hunter2}", 0o600)
	if _, err := ReadCredentials(file); err == nil || !strings.Contains(err.Error(), "bmc.yaml:1:23") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
	if _, err := ReadCredentials(file + ".no"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
