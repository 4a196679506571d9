package endpoint

import (
	"context"
	"fmt"
	"sync"

	"github.com/slipway-os/slipway/agent/vrrp"
)

// readiness is which API servers are ready, whether the other control planes are reached, and who wants to know.
type readiness struct {
	config Config

	mu      sync.Mutex
	ready   map[string]bool
	up      bool          // systemd knows
	lost    int           // rounds in which no majority of the control planes has answered
	changes chan struct{} // closed at the next change
}

// changed notes that a server is ready or no longer.
func (r *readiness) changed(server string, ready bool) {
	r.mu.Lock()
	r.ready[server] = ready
	r.wake()
	r.mu.Unlock()
	r.tell()
}

// unheard notes for how many rounds no majority of the control planes has answered.
func (r *readiness) unheard(rounds int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if was := r.lost; was < aloneAfter && rounds >= aloneAfter {
		r.config.Log.Warn("this machine reaches no majority of the control planes: another one may have the virtual address")
	} else if was >= aloneAfter && rounds < aloneAfter {
		r.config.Log.Info("this machine reaches a majority of the control planes again, or has given up asking for it")
	}
	r.lost = rounds
	r.wake()
}

// wake tells who waits for a change. The lock is held.
func (r *readiness) wake() {
	if r.changes != nil {
		close(r.changes)
		r.changes = nil
	}
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

// fitness is how fit this machine is for the virtual address, and when to ask again.
func (r *readiness) fitness() (vrrp.Fitness, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changes == nil {
		r.changes = make(chan struct{})
	}
	return judge(r.ready[r.config.API.VirtualAddress.Server], r.lost), r.changes
}

// judge is the fitness of a machine: its own server must be ready, and it must not be alone. One lost round may be chance, and from
// the second on it takes nothing: backups hear nobody for four rounds before they do.
func judge(ready bool, lost int) vrrp.Fitness {
	switch {
	case !ready || lost >= aloneAfter:
		return vrrp.Unfit
	case lost > 1:
		return vrrp.Doubtful
	}
	return vrrp.Fit
}

// follow tells this machine's fitness, now and at each change, until stopped. It begins as unfit.
func (r *readiness) follow(ctx context.Context) (<-chan vrrp.Fitness, context.CancelFunc) {
	ctx, stop := context.WithCancel(ctx)
	values := make(chan vrrp.Fitness)
	go func() {
		for last := vrrp.Unfit; ; {
			now, changes := r.fitness()
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
