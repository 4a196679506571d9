package initramfs

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

func TestEachNodeHasItsOwnState(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		for _, name := range []string{"worker-1", "worker-2"} {
			folder, err := nodeFolder(dir, bootspec.Node{Cluster: "lab", Name: name})
			if err != nil || folder != filepath.Join(dir, "lab", name) {
				t.Errorf("%s, %v", folder, err)
			}
			must(t, os.WriteFile(filepath.Join(folder, name), nil, 0o600))
		}
	}
	if got := tree(t, dir); strings.Count(got, "worker-") != 6 { // two folders, a file in each: its path has the name twice
		t.Errorf("%s", got)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for _, n := range []bootspec.Node{{}, {Cluster: "lab"}, {Cluster: "..", Name: "x"}, {Cluster: "lab", Name: "a/b"}, {Cluster: "lost+found", Name: "x"}} {
		if folder, err := nodeFolder(dir, n); err == nil {
			t.Errorf("%+v has folder %s", n, folder)
		}
	}
}

func TestAResetForgetsOneNodesState(t *testing.T) {
	dir := t.TempDir()
	b := &boot{log: slog.New(slog.DiscardHandler)}
	for _, name := range []string{"worker-1", "worker-2"} {
		folder, err := nodeFolder(dir, bootspec.Node{Cluster: "lab", Name: name})
		must(t, err, os.MkdirAll(filepath.Join(folder, "lib/etcd"), 0o700), os.WriteFile(filepath.Join(folder, "lib/etcd/data"), nil, 0o600))
	}
	one := filepath.Join(dir, "lab/worker-1")
	before := tree(t, dir)
	must(t, b.forget(dir, one))
	if got := tree(t, dir); got != before {
		t.Errorf("nobody asked, and now there is\n%s", got)
	}
	must(t, os.WriteFile(filepath.Join(one, bootspec.ResetMarker), nil, 0o600), b.forget(dir, one))
	if got := tree(t, one); got != "" {
		t.Errorf("left of the node's state:\n%s", got)
	}
	if got := tree(t, dir); !strings.Contains(got, "worker-2/lib/etcd/data") || strings.Contains(got, forgotten) {
		t.Errorf("there is\n%s", got)
	}
	// A power cut while the folder is deleted: the next boot ends that.
	must(t, os.MkdirAll(filepath.Join(dir, forgotten, "lib"), 0o700), b.forget(dir, one))
	if got := tree(t, dir); strings.Contains(got, forgotten) {
		t.Errorf("there is\n%s", got)
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
