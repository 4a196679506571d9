package restore

import (
	"fmt"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
)

// RevisionBump is added to the snapshot's revision. Whoever watches the API remembers a revision; with a lower one in the
// restored cluster it would wait for what has been, and miss what is. With a higher one, below which everything is
// compacted, it lists anew (etcd.io/docs, "Disaster recovery"). At a thousand writes a second that is eleven days' worth.
const RevisionBump = 1_000_000_000

// Member is the one member that a restored cluster begins with.
type Member struct {
	Name string
	URL  string // of its peers: https://10.1.0.11:2380
}

// FromSnapshot builds data of a snapshot file as etcd writes it, whose SHA-256 at the end is checked. The generation makes
// the cluster's id another than all before: their members don't understand each other.
func FromSnapshot(file string, m Member, g Generation) func(dir string) error {
	return func(dir string) error {
		return snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
			SnapshotPath: file, Name: m.Name, OutputDataDir: dir, PeerURLs: []string{m.URL},
			InitialCluster: m.Name + "=" + m.URL, InitialClusterToken: fmt.Sprintf("restored-%s-%s", g.At.UTC().Format(stamp), g.On),
			RevisionBump: RevisionBump, MarkCompacted: true,
		})
	}
}
