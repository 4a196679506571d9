package bake

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const inside = "SLIPWAY_TEST_MOUNT_NAMESPACE"

// TestDiskFull bakes onto file systems that are too small, in a mount namespace of its own (no rights needed).
func TestDiskFull(t *testing.T) {
	if os.Getenv(inside) == "" {
		self := exec.Command(os.Args[0], "-test.run=^TestDiskFull$", "-test.v")
		self.Env = append(os.Environ(), inside+"=1")
		self.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		out, err := self.CombinedOutput()
		if _, ran := err.(*exec.ExitError); err != nil && !ran {
			t.Skipf("no user namespaces here: %v", err)
		}
		if err != nil || !strings.Contains(string(out), "--- PASS: TestDiskFull") {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	for _, small := range []string{"out", "cache"} {
		for _, size := range []string{"4k", "128k", "512k"} {
			k := newKitchen(t)
			dir := filepath.Join(k.dir, small)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
				t.Fatal(err)
			}
			defer syscall.Unmount(dir, syscall.MNT_DETACH)
			_, err := Bake(context.Background(), k.options())
			if err == nil || !strings.Contains(strings.ToLower(err.Error()), "no space left on device") || !strings.Contains(err.Error(), dir) {
				t.Errorf("%s has %s: the error does not say where there is no space left: %v", small, size, err)
			}
			left, err := os.ReadDir(k.out)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range left {
				if strings.HasPrefix(e.Name(), ".") || strings.HasSuffix(e.Name(), ".json") {
					t.Errorf("%s has %s: %s was left behind", small, size, e.Name())
				}
			}
			if news, _ := filepath.Glob(filepath.Join(k.cache, "*", ".new*")); len(news) > 0 {
				t.Errorf("%s has %s: left behind in the cache: %v", small, size, news)
			}
		}
	}
}
