package endpoint

import (
	"context"
	"fmt"
	"sync"
)

// readiness is which API servers are ready, and who wants to know.
type readiness struct {
	config Config

	mu      sync.Mutex
	ready   map[string]bool
	up      bool          // systemd knows
	changes chan struct{} // closed at the next change of the own server
}

// changed notes that a server is ready or no longer.
func (r *readiness) changed(server string, ready bool) {
	r.mu.Lock()
	r.ready[server] = ready
	if r.changes != nil {
		close(r.changes)
		r.changes = nil
	}
	r.mu.Unlock()
	r.tell()
}

// tell shows systemd how many servers are ready.
func (r *readiness) tell() {
	r.mu.Lock()
	defer r.mu.Unlock()
	count := 0
	for _, ready := range r.ready {
		if ready {
			count++
		}
	}
	text := fmt.Sprintf("STATUS=%d of %d API servers ready", count, len(r.config.API.Servers))
	if count > 0 && !r.up {
		r.up = true
		text = "READY=1\n" + text
	}
	r.config.Notify(text)
}

// own says whether the node's own server is ready, and when to ask again.
func (r *readiness) own() (bool, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changes == nil {
		r.changes = make(chan struct{})
	}
	return r.ready[r.config.API.VirtualAddress.Server], r.changes
}

// follow tells whether the node's own server is ready, now and at each change, until stopped.
func (r *readiness) follow(ctx context.Context) (<-chan bool, context.CancelFunc) {
	ctx, stop := context.WithCancel(ctx)
	values := make(chan bool)
	go func() {
		for last := false; ; {
			now, changes := r.own()
			if now != last {
				select {
				case values <- now:
					last = now
					continue
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-changes:
			case <-ctx.Done():
				return
			}
		}
	}()
	return values, stop
}
