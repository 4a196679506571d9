package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestKill: no child of a server lives on, as PostgreSQL's would.
func TestKill(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo begun; wait")
	read, write, err := os.Pipe()
	must(t, err)
	defer read.Close()
	cmd.Stdout = write
	r, err := begin(cmd)
	must(t, err)
	must(t, write.Close())
	begun := make([]byte, 6)
	if _, err = io.ReadFull(read, begun); err != nil {
		t.Fatal(err)
	}
	if pids := r.pids(); len(pids) != 2 {
		t.Errorf("it has the processes %v", pids)
	}
	if _, err := r.processor(); err != nil {
		t.Error(err)
	}
	r.kill()
	if more, err := io.ReadAll(read); err != nil || len(more) > 0 { // it ends when nobody has the other end
		t.Errorf("%q, %v", more, err)
	}
	if pids := r.pids(); len(pids) != 0 {
		t.Errorf("after that it has the processes %v", pids)
	}
	must(t, r.end())
}

func TestNewestInitdb(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a/usr/sbin") + ":" + filepath.Join(dir, "b/usr/bin")
	if found := newestInitdb(path); found != "" {
		t.Errorf("nowhere it finds %q", found)
	}
	for _, folder := range []string{"a/usr/lib/postgresql/9", "a/usr/lib/postgresql/17", "b/usr/lib/postgresql/15"} {
		must(t, os.MkdirAll(filepath.Join(dir, folder, "bin"), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, folder, "bin/initdb"), nil, 0o700))
	}
	if found, want := newestInitdb(path), filepath.Join(dir, "a/usr/lib/postgresql/17/bin/initdb"); found != want {
		t.Errorf("it finds %q, want %q", found, want)
	}
}

// TestLeases: what a power cut has left of files is counted; no file is no lease.
func TestLeases(t *testing.T) {
	dir := t.TempDir()
	for name, count := range map[string]func(*namespaces, string) (int, error){"dnsmasq": dnsmasqLeases, "Kea": keaLeases} {
		if n, err := count(nil, dir); n != 0 || err != nil {
			t.Errorf("%s: %d without a file, %v", name, n, err)
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, "leases"), []byte("1 02:00:00:00:00:01 10.1.16.0 * *\n1 02:00:00:00:00:02 10.1.16.1 * *\n1 02:0"), 0o600))
	if n, err := dnsmasqLeases(nil, dir); n != 2 || err != nil {
		t.Errorf("dnsmasq: %d, %v", n, err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "leases.csv"), []byte("address,hwaddr\n10.1.16.0,02:00:00:00:00:01\n"), 0o600))
	if n, err := keaLeases(nil, dir); n != 1 || err != nil {
		t.Errorf("Kea: %d, %v", n, err)
	}
	if n, err := slipwayLeases(nil, dir); err == nil {
		t.Errorf("ours: %d without a store", n)
	}
}
