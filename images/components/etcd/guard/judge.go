package guard

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/slipway-os/slipway/images/components/etcd/restore"
)

// sight is what was seen of another control plane.
type sight struct {
	peer  Peer
	runs  bool  // its etcd is one of a cluster that has a leader
	waits bool  // its etcd answers, but its cluster has no leader
	state State // as its guard says; empty: it does not answer
	// generation is the newest restore that its guard knows of.
	generation restore.Generation
	trouble    string // why nothing answers
}

// view is what was seen of all others at one time.
type view struct {
	sights  []sight
	running Peer // one whose etcd runs, of the newest restore
	// generation is the running one's, newest the newest that anybody knows of.
	generation, newest restore.Generation
}

// asker asks other nodes.
type asker interface {
	see(ctx context.Context, p Peer) sight
	join(ctx context.Context, running, own Peer) ([]Peer, error)
	// members are those of the running cluster, as the first of the others tells that answers.
	members(ctx context.Context, others []Peer) ([]Peer, error)
	// promote gives this node its vote when it has joined and has caught up; until then it does nothing.
	promote(ctx context.Context, others []Peer, own Peer)
	// generations are the restores that the others know of, of those that answer.
	generations(ctx context.Context, others []Peer) []restore.Generation
}

// look asks all others at the same time.
func look(ctx context.Context, ask asker, others []Peer) view {
	v := view{sights: make([]sight, len(others))}
	var group sync.WaitGroup
	for i, p := range others {
		group.Go(func() { v.sights[i] = ask.see(ctx, p) })
	}
	group.Wait()
	v.choose()
	return v
}

// choose finds whom to join.
func (v *view) choose() {
	for _, s := range v.sights {
		if s.generation.Newer(v.newest) {
			v.newest = s.generation
		}
		// What its guard doesn't say is not known: it may be of a cluster that was replaced.
		if s.runs && s.state != "" && (v.running.Name == "" || s.generation.Newer(v.generation)) {
			v.running, v.generation = s.peer, s.generation
		}
	}
}

// verdict is what a node without data does.
type verdict int

const (
	wait  verdict = iota
	begin         // a new cluster, together with all others
	join          // the cluster that runs
)

// judge decides for a node without data, and says why it waits.
// It is of the restore own; zero: none.
func judge(v view, own restore.Generation) (verdict, string) {
	newest := own
	if v.newest.Newer(newest) {
		newest = v.newest
	}
	if v.running.Name != "" && !newest.Newer(v.generation) {
		return join, ""
	}
	if !newest.IsZero() {
		return wait, "this node has no data and waits for the cluster, which was " + newest.String() + ": " + strings.Join(v.restored(newest), ", ") +
			". Power on " + newest.On + ", or one that has joined since; if they are lost, restore a snapshot again"
	}
	var reasons []string
	data := false
	for _, s := range v.sights {
		switch {
		case s.runs:
			reasons = append(reasons, s.peer.Name+"'s etcd runs, but its guard does not answer yet ("+s.trouble+")")
		case s.waits || s.state == Member:
			data = true
			reasons = append(reasons, s.peer.Name+" has the cluster's data")
		case s.state == "":
			reasons = append(reasons, s.peer.Name+" does not answer ("+s.trouble+")")
		case s.state != Fresh && s.state != Bootstrapping:
			reasons = append(reasons, fmt.Sprintf("%s says %q, which this node doesn't know", s.peer.Name, s.state))
		}
	}
	switch {
	case len(reasons) == 0:
		return begin, ""
	case data:
		return wait, "this node has no data and waits for the cluster: " + strings.Join(reasons, ", ") +
			". Without a majority of its members it cannot be joined: power on those that have data; if they are lost, restore a snapshot"
	}
	return wait, "this node has no data and waits, because others may have some: " + strings.Join(reasons, ", ") +
		". A cluster begins when all control planes are there"
}

// restored says of all others why none of them can be joined after a restore.
func (v view) restored(newest restore.Generation) []string {
	var reasons []string
	for _, s := range v.sights {
		switch {
		case s.state == "":
			reasons = append(reasons, s.peer.Name+" does not answer ("+s.trouble+")")
		case newest.Newer(s.generation):
			reasons = append(reasons, s.peer.Name+" does not know of that yet")
		case s.state == Joining:
			reasons = append(reasons, s.peer.Name+" waits as this node does")
		default:
			reasons = append(reasons, s.peer.Name+"'s etcd has no leader yet")
		}
	}
	return reasons
}
