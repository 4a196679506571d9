package initramfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStateBelongsToOneNode(t *testing.T) {
	dir := t.TempDir()
	must(t, claimState(dir, "lab/worker-1"), claimState(dir, "lab/worker-1"))
	if err := claimState(dir, "lab/worker-2"); err == nil || !strings.Contains(err.Error(), `it is "lab/worker-1"'s, and this is lab/worker-2`) {
		t.Errorf("got %v", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, owner), nil, 0o644)) // a power cut
	must(t, claimState(dir, "lab/worker-1"))
	if err := claimState(dir, "lab/worker-2"); err == nil {
		t.Error("after a power cut it is anybody's")
	}
}

func TestVolumesAreMountedWhereFilesAreKept(t *testing.T) {
	for path, good := range map[string]bool{
		"/var/lib/data": true, "/srv/x": true, "/opt/a": true, "/home/b": true,
		"/var": false, "/var/": false, "/etc/x": false, "/var/../etc": false, "/var//x": false, "var/x": false, "": false, "/usr/x": false, "/srv/./x": false,
	} {
		if err := checkMount(path); (err == nil) != good {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestCopyTreeKeepsWhatIsThere(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(from, "lib"), 0o755), os.WriteFile(filepath.Join(from, "lib/a"), []byte("image"), 0o644),
		os.WriteFile(filepath.Join(from, "b"), []byte("image"), 0o644), os.Symlink("b", filepath.Join(from, "c")))
	must(t, os.MkdirAll(filepath.Join(to, "lib"), 0o700), os.WriteFile(filepath.Join(to, "lib/a"), []byte("mine"), 0o600),
		os.WriteFile(filepath.Join(to, "b.slipway-new"), []byte("cut off"), 0o600))
	before := tree(t, to)
	must(t, copyTree(from, to))
	got := tree(t, to)
	for _, line := range strings.Split(strings.TrimSpace(before), "\n") {
		if !strings.HasPrefix(line, "b.slipway-new") && !strings.Contains(got, line) {
			t.Errorf("was %s, now\n%s", line, got)
		}
	}
	if data, err := os.ReadFile(filepath.Join(to, "b")); string(data) != "image" || strings.Contains(got, "slipway-new") {
		t.Errorf("%q, %v\n%s", data, err, got)
	}
}
