package balance

import (
	"slices"
	"time"
)

// load is how a server is and how much it has to do.
type load struct {
	ready       bool
	connections int
}

// choice is a server to try, and whether it was ready when it was chosen.
type choice struct {
	server int
	ready  bool
}

// order is the order in which servers are tried: those that are ready first, each group by its number of connections,
// equals beginning with the one numbered start.
func order(servers []load, start int) []choice {
	list := make([]choice, 0, len(servers))
	for i := range servers {
		n := (start + i) % len(servers)
		list = append(list, choice{server: n, ready: servers[n].ready})
	}
	slices.SortStableFunc(list, func(a, b choice) int {
		if a.ready != b.ready {
			if a.ready {
				return -1
			}
			return 1
		}
		return servers[a.server].connections - servers[b.server].connections
	})
	return list
}

// finding is what one check says.
type finding int

const (
	good        finding = iota // ready
	unwell                     // it answers otherwise, or late
	unreachable                // there is no connection
	refused                    // there is a machine, and nobody listens
)

// unwellFor is how long a server may be unwell before it is ejected: etcd's members choose a new leader meanwhile.
const unwellFor = 3 * time.Second

// health is what the checks of a server have said so far.
type health struct {
	ready    bool
	failures int       // since the last good answer
	since    time.Time // of the first of them
}

// next is the health after one more check. One bad check may be chance, two are not; that nobody listens is certain at once.
func (h health) next(f finding, now time.Time) health {
	if f == good {
		return health{ready: true}
	}
	if h.failures == 0 {
		h.since = now
	}
	h.failures++
	switch f {
	case refused:
		h.ready = false
	case unreachable:
		h.ready = h.ready && h.failures < 2
	case unwell:
		h.ready = h.ready && (h.failures < 2 || now.Sub(h.since) < unwellFor)
	}
	return h
}
