// Package backup keeps encrypted snapshots of the node's etcd in a folder: one every so often, the newest so many. Each is pushed
// to further places (Place) where the plan has some: a directory, the boot server's depot, a bucket.
//
// A snapshot is encrypted (age-encryption.org/v1) before it reaches the disk, to recipients whose keys no node has. A file gets
// its name when it is whole: etcd's SHA-256 at the end of the stream is checked on the way. Old ones go only after a new
// one is there. It doesn't know how a snapshot is taken (agent/manage), and restores none.
package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// temporary begins the name of a file that isn't whole yet.
const temporary = ".new-"

// lookEvery is how often is looked whether a snapshot is due, and how soon one that failed is tried again.
const lookEvery = time.Minute

// takeLimit bounds the time of one snapshot.
const takeLimit = 10 * time.Minute

// Keeper keeps a node's snapshots.
type Keeper struct {
	Plan bootspec.EtcdBackup
	Node string
	Take func(ctx context.Context, w io.Writer) error // writes a snapshot as etcd does, SHA-256 at the end
	// MinFree is how much of the file system snapshots leave to others, in percent: etcd's own data may be on it, and on a
	// node without a disk it is memory.
	MinFree int
	Log     *slog.Logger
	// Place makes a place of a target of the plan.
	Place func(bootspec.BackupTarget) Place

	mu      sync.Mutex
	newest  time.Time
	fault   string
	pushers []*pusher
}

// Status is how the snapshots are.
func (k *Keeper) Status() bootspec.BackupStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := bootspec.BackupStatus{Every: k.Plan.EverySeconds, Newest: k.newest, Fault: k.fault}
	for _, p := range k.pushers {
		s.Pushed = append(s.Pushed, p.status())
	}
	return s
}

// Run takes snapshots when they are due and pushes them, until ctx ends. All that it began has ended when it returns.
func (k *Keeper) Run(ctx context.Context) {
	var pushing sync.WaitGroup
	defer pushing.Wait()
	for _, to := range k.Plan.To {
		p := &pusher{keeper: k, to: to, place: k.Place(to), wake: make(chan struct{}, 1), state: bootspec.Pushed{To: to.String()}}
		k.mu.Lock()
		k.pushers = append(k.pushers, p)
		k.mu.Unlock()
		pushing.Go(func() { p.run(ctx) })
	}
	for {
		k.look(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookEvery):
		}
	}
}

// look takes a snapshot if one is due at the time, and remembers how that went.
func (k *Keeper) look(ctx context.Context, now time.Time) {
	list, err := k.names(now)
	if err == nil && !due(list, time.Duration(k.Plan.EverySeconds)*time.Second, now) {
		k.remember(list, nil)
		return
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, takeLimit)
		defer cancel()
		err = k.take(ctx, now)
	}
	if ctx.Err() != nil && err != nil {
		return // the service ends
	}
	list, err2 := k.names(now)
	k.remember(list, errors.Join(err, err2))
	if err == nil {
		k.wake()
	}
}

// wake has all pushers look for what is new.
func (k *Keeper) wake() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.pushers {
		select {
		case p.wake <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// due tells whether it is time. Snapshots of the future are from when the clock was wrong, and don't count.
func due(list []string, every time.Duration, now time.Time) bool {
	for _, name := range list {
		_, at, _ := bootspec.ParseSnapshotName(name)
		if age := now.Sub(at); age >= -every && age < every {
			return false
		}
	}
	return true
}

func (k *Keeper) remember(list []string, err error) {
	fault := ""
	if err != nil {
		fault = err.Error()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if fault != "" && fault != k.fault {
		k.Log.Warn(fault)
	}
	k.fault, k.newest = fault, taken(list)
}

// names are this node's snapshots, the newest first. A folder that isn't there has none.
func (k *Keeper) names(now time.Time) ([]string, error) {
	all, err := Directory{Path: k.Plan.Directory}.List(context.Background())
	if err != nil {
		return nil, fmt.Errorf("cannot look for snapshots of etcd: %w", err)
	}
	return bootspec.SnapshotsOf(k.Node, all, now), nil
}

// take makes a snapshot, and lets old ones go.
func (k *Keeper) take(ctx context.Context, now time.Time) error {
	fail := func(err error) error { return fmt.Errorf("cannot keep a snapshot of etcd: %w", err) }
	if err := os.MkdirAll(k.Plan.Directory, 0o700); err != nil {
		return fail(err)
	}
	dir, err := os.OpenRoot(k.Plan.Directory)
	if err != nil {
		return fail(err)
	}
	defer dir.Close()
	if err := roomy(k.Plan.Directory, k.MinFree); err != nil {
		return fail(err)
	}
	name := bootspec.SnapshotName(k.Node, now)
	beside := temporary + k.Node // one name, so that what a power cut left is written over
	if err := k.write(ctx, dir, beside); err != nil {
		_ = dir.Remove(beside)
		return fail(err)
	}
	if err := dir.Rename(beside, name); err != nil {
		return fail(err)
	}
	if err := syncFolder(k.Plan.Directory); err != nil {
		return fail(err)
	}
	list, err := k.names(now)
	if err != nil {
		return err
	}
	for _, old := range list[min(k.Plan.Keep, len(list)):] {
		if old == name {
			continue // the clock went back: the one just taken stays
		}
		if err := dir.Remove(old); err != nil {
			return fail(err)
		}
	}
	return nil
}

// roomy refuses a file system that is nearly full.
func roomy(dir string, minFree int) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if free := st.Bavail * 100 / max(st.Blocks, 1); free < uint64(minFree) {
		return fmt.Errorf("only %d %% of the file system of %s are free, and snapshots leave %d %%: give it more room, or keep fewer", free, dir, minFree)
	}
	return nil
}

// write writes an encrypted snapshot to a file, synced.
func (k *Keeper) write(ctx context.Context, dir *os.Root, name string) error {
	recipients, err := parse(k.Plan.Recipients)
	if err != nil {
		return err
	}
	f, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	sealed, err := age.Encrypt(f, recipients...)
	if err != nil {
		return err
	}
	checked := &tail{to: sealed, sum: sha256.New()}
	if err := k.Take(ctx, checked); err != nil {
		return err
	}
	if err := checked.check(); err != nil {
		return err
	}
	return errors.Join(sealed.Close(), f.Sync())
}

func parse(recipients []string) ([]age.Recipient, error) {
	var list []age.Recipient
	for _, s := range recipients {
		r, err := age.ParseX25519Recipient(s)
		if err != nil {
			return nil, fmt.Errorf("cannot encrypt to %q: %w", s, err)
		}
		list = append(list, r)
	}
	return list, nil
}

func syncFolder(dir string) error {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// tail passes a snapshot on and knows the SHA-256 of all but its last 32 bytes, which are that SHA-256.
type tail struct {
	to   io.Writer
	sum  hash.Hash
	last []byte // up to 32 bytes
}

func (t *tail) Write(p []byte) (int, error) {
	t.last = append(t.last, p...)
	if n := len(t.last) - sha256.Size; n > 0 {
		t.sum.Write(t.last[:n])
		t.last = append(t.last[:0], t.last[n:]...)
	}
	return t.to.Write(p)
}

func (t *tail) check() error {
	if len(t.last) != sha256.Size || string(t.sum.Sum(nil)) != string(t.last) {
		return errors.New("what etcd sent is not whole: its SHA-256 is not the one at its end")
	}
	return nil
}
