package guard

import (
	"context"
	"fmt"
	"strings"
	"sync"
)

// sight is what was seen of another control plane.
type sight struct {
	peer    Peer
	runs    bool   // its etcd is one of a cluster that has a leader
	waits   bool   // its etcd answers, but its cluster has no leader
	state   State  // as its guard says; empty: it does not answer
	trouble string // why nothing answers
}

// view is what was seen of all others at one time.
type view struct {
	sights  []sight
	running Peer // one whose etcd runs
}

// asker asks other nodes.
type asker interface {
	see(ctx context.Context, p Peer) sight
	join(ctx context.Context, running, own Peer) ([]Peer, error)
}

// look asks all others at the same time.
func look(ctx context.Context, ask asker, others []Peer) view {
	v := view{sights: make([]sight, len(others))}
	var group sync.WaitGroup
	for i, p := range others {
		group.Go(func() { v.sights[i] = ask.see(ctx, p) })
	}
	group.Wait()
	for _, s := range v.sights {
		if s.runs {
			v.running = s.peer
		}
	}
	return v
}

// verdict is what a node without data does.
type verdict int

const (
	wait  verdict = iota
	begin         // a new cluster, together with all others
	join          // the cluster that runs
)

// judge decides for a node without data, and says why it waits.
func judge(v view) (verdict, string) {
	if v.running.Name != "" {
		return join, ""
	}
	var reasons []string
	data := false
	for _, s := range v.sights {
		switch {
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
