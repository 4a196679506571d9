package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Place is where snapshots are pushed to. Its methods may be called again after any failure.
type Place interface {
	// List are the names of the files there; others' may be among them.
	List(ctx context.Context) ([]string, error)
	// Put has the file there under its name, whole or not at all. One that is there already is written over.
	Put(ctx context.Context, name string, f *os.File) error
	// Remove removes one of this node's. A place that lets old ones go by itself does nothing.
	Remove(ctx context.Context, name string) error
}

// Bounds of pushing.
const (
	pushLimit = 30 * time.Minute // one file
	listLimit = time.Minute
	minPause  = 5 * time.Second // between two attempts, at first
	maxPause  = 15 * time.Minute
)

// pusher brings a node's snapshots to one place.
type pusher struct {
	keeper *Keeper
	to     bootspec.BackupTarget
	place  Place
	wake   chan struct{} // there is a new one

	mu    sync.Mutex
	state bootspec.Pushed
}

func (p *pusher) status() bootspec.Pushed {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// run pushes until ctx ends: at once, when there is a new one, and after a failure again, later and later.
func (p *pusher) run(ctx context.Context) {
	pause := minPause
	for {
		again := maxPause
		if err := p.push(ctx, time.Now()); err != nil {
			again, pause = pause, min(2*pause, maxPause)
		} else {
			pause = minPause
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-time.After(again):
		}
	}
}

// push brings what is missing, the oldest first, lets old ones go, and remembers how that went.
func (p *pusher) push(ctx context.Context, now time.Time) error {
	newest, err := p.bring(ctx, now)
	if err != nil && ctx.Err() != nil {
		return err // the service ends
	}
	fault := ""
	if err != nil {
		fault = fmt.Sprintf("cannot push snapshots of etcd to %s: %v", p.to, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if fault != "" && fault != p.state.Fault {
		p.keeper.Log.Warn(fault)
	}
	p.state.Fault = fault
	if !newest.IsZero() {
		p.state.Newest = newest
	}
	return err
}

// bring tells the time of the newest snapshot there; zero: none, or nobody knows.
func (p *pusher) bring(ctx context.Context, now time.Time) (newest time.Time, err error) {
	own, err := p.keeper.names(now)
	if err != nil {
		return newest, err
	}
	there, err := p.list(ctx, now)
	if err != nil {
		return newest, err
	}
	for _, name := range missing(own, there, p.keeper.Plan.Keep) {
		if err := p.put(ctx, name); err != nil {
			return taken(there), err
		}
		there = bootspec.SnapshotsOf(p.keeper.Node, append(there, name), now)
	}
	for _, old := range there[min(p.keeper.Plan.Keep, len(there)):] {
		limit, cancel := context.WithTimeout(ctx, listLimit)
		err := p.place.Remove(limit, old)
		cancel()
		if err != nil {
			return taken(there), fmt.Errorf("cannot remove %s: %w", old, err)
		}
	}
	return taken(there), nil
}

func (p *pusher) list(ctx context.Context, now time.Time) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	there, err := p.place.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list what is there: %w", err)
	}
	return bootspec.SnapshotsOf(p.keeper.Node, there, now), nil
}

func (p *pusher) put(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, pushLimit)
	defer cancel()
	f, err := os.Open(filepath.Join(p.keeper.Plan.Directory, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil // it went while others were pushed
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return p.place.Put(ctx, name, f)
}

// missing are those of a node's own snapshots that are newer than what is there, at most keep, the oldest first. Both lists have the
// newest first. Older ones are not brought: the place has let them go.
func missing(own, there []string, keep int) []string {
	list := own[:min(keep, len(own))]
	for i, name := range list {
		if slices.Contains(there, name) {
			list = list[:i]
			break
		}
	}
	list = slices.Clone(list)
	slices.Reverse(list)
	return list
}

// taken is the time of the first snapshot in a list.
func taken(list []string) time.Time {
	if len(list) == 0 {
		return time.Time{}
	}
	_, at, _ := bootspec.ParseSnapshotName(list[0])
	return at
}
