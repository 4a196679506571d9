package guard

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/v3/snapshot"
	"go.uber.org/zap"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/slipway-os/slipway/images/components/etcd/restore"
)

// save takes a snapshot from a node.
func (s *site) save(n *node) string {
	s.t.Helper()
	file := filepath.Join(s.dir, "snapshot")
	_, err := snapshot.SaveWithVersion(context.Background(), zap.NewNop(), clientv3.Config{Endpoints: []string{"https://" + n.peer.at(2379)}, TLS: s.tls(n.peer.Name)}, file)
	if err != nil {
		s.t.Fatal(err)
	}
	return file
}

// change prepares and decides what an operator's restore does on a node: nothing of it is carried out.
func (s *site) change(i int, g restore.Generation, build func(string) error) {
	s.t.Helper()
	data := filepath.Join(s.dir, "data-"+s.peers[i].Name)
	if err := restore.Stage(data, g, build); err != nil {
		s.t.Fatal(err)
	}
	if err := restore.Decide(data, g); err != nil {
		s.t.Fatal(err)
	}
}

// TestARestoredClusterIsTheOnlyOne: a cluster is restored on cp-1 while cp-2 is told so and cp-3 is away. Whoever comes back,
// with old data or with none, and in whatever order, joins the restored cluster; nobody goes on with the old one.
func TestARestoredClusterIsTheOnlyOne(t *testing.T) {
	t.Parallel()
	s := newSite(t, 64)
	a, b, c := s.on(0), s.on(1), s.on(2)
	old := s.whole(a, b, c)
	s.put(a, "word", "kept")
	file := s.save(a)
	s.put(a, "word", "lost")
	for _, n := range []*node{a, b, c} {
		n.off()
	}
	g := restore.Generation{At: time.Now().UTC().Truncate(time.Second), On: "cp-1"}
	s.change(0, g, restore.FromSnapshot(file, restore.Member{Name: "cp-1", URL: s.peers[0].URL}, g))
	s.change(1, g, nil)

	// Set aside, cp-2 begins nothing: not with cp-3, which has the old data, nor with anybody who has none.
	b, c = s.on(1), s.on(2)
	s.eventually("cp-2 waits for cp-1, and says what to do", func() bool {
		return strings.Contains(b.words(), "Power on cp-1") && strings.Contains(b.words(), "restore a snapshot again")
	})
	s.eventually("cp-3 heard of the restore and waits too", func() bool {
		return strings.Contains(c.words(), "It is set aside") && strings.Contains(c.words(), "Power on cp-1")
	})
	if _, err := os.Stat(filepath.Join(c.data, "slipway", "set-aside-"+g.At.Format("20060102T150405Z"), "member", "wal")); err != nil {
		t.Errorf("cp-3's data is not kept: %v", err)
	}

	a = s.on(0)
	id := s.whole(a, b, c)
	if id == old {
		t.Error("the restored cluster has the old one's id")
	}
	for _, n := range []*node{a, b, c} {
		s.eventually(n.peer.Name+" has what the snapshot has", func() bool { return s.has(n, "word", "kept") })
	}
	s.put(b, "word", "after")

	// Once they have joined they go on without cp-1, and a re-imaged cp-1 comes back.
	a.off()
	a.wipe()
	s.put(c, "word", "without cp-1")
	a = s.on(0)
	if got := s.whole(a, b, c); got != id {
		t.Errorf("cp-1 is in cluster %x, not %x", got, id)
	}
	s.eventually("cp-1 knows of the restore", func() bool { got, err := restore.Read(a.data); return err == nil && got == g })
}

// TestAnOldMajorityYields: two nodes that nobody could ask go on with the old cluster. When they hear of the restored one they
// end, keep what they have, and join.
func TestAnOldMajorityYields(t *testing.T) {
	t.Parallel()
	s := newSite(t, 65)
	a, b, c := s.on(0), s.on(1), s.on(2)
	old := s.whole(a, b, c)
	s.put(a, "word", "kept")
	file := s.save(a)
	a.off()
	s.put(b, "word", "of the old cluster")
	g := restore.Generation{At: time.Now().UTC().Truncate(time.Second), On: "cp-1"}
	s.change(0, g, restore.FromSnapshot(file, restore.Member{Name: "cp-1", URL: s.peers[0].URL}, g))
	a = s.on(0)
	if id := s.whole(a, b, c); id == old {
		t.Error("it is the old cluster")
	}
	for _, n := range []*node{a, b, c} {
		s.eventually(n.peer.Name+" has what the snapshot has", func() bool { return s.has(n, "word", "kept") })
	}
	for _, n := range []*node{b, c} {
		if list, err := restore.Aside(n.data); err != nil || len(list) != 1 {
			t.Errorf("%s keeps %q, %v", n.peer.Name, list, err)
		}
		if !strings.Contains(n.words(), "the cluster was restored from a snapshot on cp-1") {
			t.Errorf("%s says %s", n.peer.Name, n.words())
		}
	}
}
