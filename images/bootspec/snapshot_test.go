package bootspec

import (
	"strings"
	"testing"
	"time"
)

func TestSnapshotName(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, node := range []string{"cp-1", "a", "node.example.com", "cp-20260301t120000z"} {
		of, when, ok := ParseSnapshotName(SnapshotName(node, at))
		if of != node || !when.Equal(at) || !ok {
			t.Errorf("%s: %q, %s, %v", node, of, when, ok)
		}
	}
	for _, name := range []string{
		"", "-20260301T120000Z.etcd.age", "cp-1-20260301T120000Z.etcd", "../cp-1-20260301T120000Z.etcd.age", "a/b-20260301T120000Z.etcd.age",
		"cp-1-20260332T120000Z.etcd.age", "cp-1-20260301T120000.5Z.etcd.age", ".new-cp-1-20260301T120000Z.etcd.age", "cp-1.etcd.age",
		"CP-1-20260301T120000Z.etcd.age", "cp\x00-20260301T120000Z.etcd.age", strings.Repeat("a", 300) + "-20260301T120000Z.etcd.age",
	} {
		if node, _, ok := ParseSnapshotName(name); ok {
			t.Errorf("%q is taken for a snapshot of %q", name, node)
		}
	}
}

func TestSnapshotsOf(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	list := []string{
		"cp-1-20260301T100000Z.etcd.age", "cp-2-20260301T100000Z.etcd.age", "cp-1-20360301T100000Z.etcd.age", "notes", "cp-1-20260301T110000Z.etcd.age",
		"cp-1-x-20260301T110000Z.etcd.age",
	}
	want := "cp-1-20260301T110000Z.etcd.age cp-1-20260301T100000Z.etcd.age cp-1-20360301T100000Z.etcd.age"
	if got := strings.Join(SnapshotsOf("cp-1", list, now), " "); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func FuzzParseSnapshotName(f *testing.F) {
	f.Add("cp-1-20260301T120000Z.etcd.age")
	f.Fuzz(func(t *testing.T, name string) {
		if node, at, ok := ParseSnapshotName(name); ok && (SnapshotName(node, at) != name || strings.ContainsAny(name, "/\x00") || node == "") {
			t.Errorf("%q is of %q at %s", name, node, at)
		}
	})
}
