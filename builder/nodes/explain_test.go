package nodes

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// controlPlane is an answer of one that is well, changed by how.
func controlPlane(name string, how func(*bootspec.LiveStatus)) Answer {
	l := &bootspec.LiveStatus{Name: name, Clock: now, Etcd: &bootspec.EtcdStatus{Answers: true, Healthy: true, HasLeader: true}}
	if how != nil {
		how(l)
	}
	return Answer{Name: name, Role: "control-plane", Status: l}
}

// TestExplain: what people read.
func TestExplain(t *testing.T) {
	gone := func(name string) Answer {
		return Answer{Name: name, Role: "control-plane", Error: "cannot ask node " + name + ": no route to host"}
	}
	leaderless := func(l *bootspec.LiveStatus) {
		l.Etcd.HasLeader, l.Etcd.Healthy, l.Etcd.Reason = false, false, "RAFT NO LEADER"
	}
	busy := func(l *bootspec.LiveStatus) {
		l.Etcd, l.Units = &bootspec.EtcdStatus{Reason: "timeout"}, []bootspec.UnitStatus{{Name: "etcd.service", Active: "active"}}
	}
	stopped := func(l *bootspec.LiveStatus) { l.Etcd = &bootspec.EtcdStatus{Reason: "refused"} }
	for _, tt := range []struct {
		name    string
		answers []Answer
		want    string // parts of lines, in order; empty: no line at all
	}{
		{"all well", []Answer{controlPlane("cp-1", nil), controlPlane("cp-2", nil), controlPlane("cp-3", nil)}, ""},
		{"worker only", []Answer{{Name: "w", Role: "worker", Status: &bootspec.LiveStatus{Clock: now}}}, ""},
		{
			"one of three is gone", []Answer{controlPlane("cp-1", nil), controlPlane("cp-2", nil), gone("cp-3")},
			"etcd: 2 of 3 members run, 2 are needed: if one more is lost, nothing can be changed any more. Missing: cp-3 (doesn't answer).|slipway etcd snapshot --cluster c.yaml|cp-3: cannot ask",
		},
		{
			"quorum is lost", []Answer{controlPlane("cp-1", leaderless), controlPlane("cp-2", stopped), gone("cp-3")},
			"etcd has lost its quorum: 1 of 3 members run, 2 are needed. Missing: cp-2 (its etcd doesn't run), cp-3 (doesn't answer).|Nothing can be changed|Next: power the missing machines on|cp-1: etcd isn't healthy: RAFT NO LEADER",
		},
		{
			"all are busy or away", []Answer{controlPlane("cp-1", busy), gone("cp-2"), gone("cp-3")},
			"None of etcd's 3 members answers: cp-1 (its etcd runs and doesn't answer), cp-2 (doesn't answer), cp-3 (doesn't answer).|if they are only busy, ask again",
		},
		{
			"one answers, and has a leader", []Answer{controlPlane("cp-1", nil), controlPlane("cp-2", busy), gone("cp-3")},
			"etcd has a leader and goes on, but only 1 of 3 members answer here. Missing: cp-2 (its etcd runs and doesn't answer), cp-3",
		},
		{
			"nobody leads", []Answer{controlPlane("cp-1", leaderless), controlPlane("cp-2", leaderless), controlPlane("cp-3", leaderless)},
			"have no leader|Next, if this stays: `slipway logs cp-1 --cluster c.yaml --unit etcd.service --since 5m`",
		},
		{
			"a unit fails", []Answer{controlPlane("cp-1", func(l *bootspec.LiveStatus) {
				l.Units = []bootspec.UnitStatus{{Name: "kubelet.service", Active: "activating", Sub: "auto-restart", Restarts: 9, Failing: true}}
			})},
			"cp-1: kubelet.service is activating (auto-restart, 9 restarts): `slipway logs cp-1 --cluster c.yaml --unit kubelet.service`",
		},
		{
			"a certificate ends", []Answer{controlPlane("cp-1", func(l *bootspec.LiveStatus) {
				l.Certificates = []bootspec.CertificateDate{{File: "/etc/kubernetes/pki/apiserver.crt", Until: now.Add(10 * 24 * time.Hour)}}
			})},
			"cp-1: the certificate in /etc/kubernetes/pki/apiserver.crt ends on 2026-03-11",
		},
		{
			"snapshots that don't get there", []Answer{controlPlane("cp-1", func(l *bootspec.LiveStatus) {
				l.Backup = &bootspec.BackupStatus{Every: 3600, Newest: now.Add(-40 * time.Minute), Pushed: []bootspec.Pushed{
					{To: "directory /srv/a", Newest: now.Add(-40 * time.Minute)},
					{To: "the boot server at 10.1.0.1:7445", Newest: now.Add(-5 * time.Hour), Fault: "cannot push snapshots of etcd to the boot server at 10.1.0.1:7445: no route"},
					{To: "directory /srv/b", Newest: now.Add(-5 * time.Hour)},
					{To: "directory /srv/c", Fault: "cannot push snapshots of etcd to directory /srv/c: full"},
				}}
			})},
			"cp-1: cannot push snapshots of etcd to the boot server at 10.1.0.1:7445: no route (the newest there is from 2026-03-01T07:00:00Z)|cp-1: snapshots of etcd are late at directory /srv/b: the newest there is from 2026-03-01T07:00:00Z|cp-1: cannot push snapshots of etcd to directory /srv/c: full",
		},
		{
			"a snapshot that is on its way", []Answer{controlPlane("cp-1", func(l *bootspec.LiveStatus) {
				l.Backup = &bootspec.BackupStatus{Every: 3600, Newest: now.Add(-time.Minute), Pushed: []bootspec.Pushed{{To: "directory /srv/a", Newest: now.Add(-2 * time.Hour)}}}
			})},
			"",
		},
		{
			"a kubelet's certificate is short-lived", []Answer{controlPlane("cp-1", func(l *bootspec.LiveStatus) {
				l.Certificates = []bootspec.CertificateDate{{File: "/etc/kubernetes/kubelet.conf", Until: now.Add(24 * time.Hour)}, {File: "/etc/kubernetes/pki/a.crt", Until: now.Add(48 * time.Hour)}}
			})},
			"cp-1: the certificate in /etc/kubernetes/pki/a.crt ends on 2026-03-03",
		},
		{
			"clock, disk, memory", []Answer{controlPlane("cp-1", func(l *bootspec.LiveStatus) {
				l.Clock, l.Memory = now.Add(-time.Hour), bootspec.Capacity{Total: 100, Free: 2}
				l.Disks = []bootspec.Capacity{{Name: "/", Total: 100}, {Name: "/var", Total: 100, Free: 9}}
			})},
			"cp-1: its clock is 1h0m0s off|cp-1: only 9 % of /var are free|cp-1: only 2 % of its memory are free",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lines := Explain(tt.answers, "c.yaml", now)
			text := strings.Join(lines, "\n")
			if tt.want == "" && text != "" {
				t.Errorf("got %s", text)
			}
			rest := text
			for part := range strings.SplitSeq(tt.want, "|") {
				_, after, ok := strings.Cut(rest, part)
				if !ok {
					t.Errorf("no %q in\n%s", part, text)
				}
				rest = after
			}
		})
	}
}

// snapshot is a small one that is whole.
func snapshot() []byte {
	database := make([]byte, 4096)
	binary.LittleEndian.PutUint32(database[16:], boltMagic)
	sum := sha256.Sum256(database)
	return append(database, sum[:]...)
}

// TestCheckSnapshot: every cut and every changed byte shows.
func TestCheckSnapshot(t *testing.T) {
	whole := snapshot()
	if _, err := checkSnapshot(bytes.NewReader(whole), int64(len(whole))); err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if _, err := checkSnapshot(bytes.NewReader(whole[:n]), int64(n)); err == nil {
			t.Fatalf("the first %d bytes are taken for a snapshot", n)
		}
	}
	for n := range whole {
		whole[n] ^= 1
		if _, err := checkSnapshot(bytes.NewReader(whole), int64(len(whole))); err == nil {
			t.Fatalf("a changed byte %d isn't seen", n)
		}
		whole[n] ^= 1
	}
}

func FuzzCheckSnapshot(f *testing.F) {
	f.Add(snapshot())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = checkSnapshot(bytes.NewReader(data), int64(len(data)))
	})
}
