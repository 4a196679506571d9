package faults

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// hierarchy is where a hierarchy of control groups is mounted here.
type hierarchy struct{ folder, kind, options string }

// hierarchies reads /proc/self/mountinfo (proc(5)).
func hierarchies(t *testing.T) []hierarchy {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var list []hierarchy
	for line := range strings.Lines(string(text)) {
		first, second, _ := strings.Cut(line, " - ")
		f, s := strings.Fields(first), strings.Fields(second)
		if len(f) > 4 && len(s) > 2 && strings.HasPrefix(s[0], "cgroup") {
			list = append(list, hierarchy{f[4], s[0], s[2]})
		}
	}
	return list
}

// controllersV1 are the hierarchies that a machine has where the kernel's controllers are not on cgroup2.
func controllersV1() []string {
	return []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"}
}

// group is a machine's control group in each hierarchy.
type group struct {
	version string // v1 or v2
	folders []string
}

// newGroup makes a machine's, without a process in it.
func newGroup(t *testing.T, machine string) *group {
	t.Helper()
	name := "slipway-test-" + namespaceID(t, os.Getpid()) + "-" + machine
	g := &group{version: "v2"}
	all := hierarchies(t)
	for _, h := range all {
		if h.kind == "cgroup" {
			g.version = "v1"
		}
	}
	for _, h := range all {
		last := filepath.Base(h.folder)
		if h.kind == "cgroup" && !slices.Contains(controllersV1(), last) {
			continue
		}
		folder := filepath.Join(h.folder, name)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		if last == "cpuset" {
			inherit(t, h.folder, folder)
		}
		g.folders = append(g.folders, folder)
	}
	return g
}

// namespaceID is the number of a process' namespace of processes: no other run on this host has it.
func namespaceID(t *testing.T, pid int) string {
	t.Helper()
	id, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Trim(strings.TrimPrefix(id, "pid:"), "[]")
}

// inherit gives a group of cpuset its parent's processors: it has none by itself.
func inherit(t *testing.T, parent, folder string) {
	t.Helper()
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, name), value, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// join moves a process into the group.
func (g *group) join(t *testing.T, pid string) {
	t.Helper()
	for _, folder := range g.folders {
		if err := os.WriteFile(filepath.Join(folder, "cgroup.procs"), []byte(pid), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// remove removes the group and all in it.
func (g *group) remove(t *testing.T) {
	for _, folder := range g.folders {
		removeGroup(t, folder)
	}
}

func removeGroup(t *testing.T, folder string) {
	var all []string
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return nil
	})
	for _, path := range slices.Backward(all) {
		err = errors.Join(err, os.Remove(path))
	}
	if err != nil {
		t.Logf("a machine's control group stays: %v", err)
	}
}

// removeGroups removes what machines have left that ended with their hall.
func removeGroups(t *testing.T, pattern string) {
	for _, h := range hierarchies(t) {
		left, err := filepath.Glob(filepath.Join(h.folder, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, folder := range left {
			removeGroup(t, folder)
		}
	}
}
