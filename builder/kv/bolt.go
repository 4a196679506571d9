package kv

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Bounds of commits.
const (
	maxWaiting = 4096 // commits that are begun and not yet written
	maxGroup   = 1024 // commits that are written with one sync
	// After a group of manyInGroup the next one begins gatherTime after it at the earliest, to become larger meanwhile: syncs without a
	// pause take processor time from those who bring the commits. A commit that comes alone waits for nothing.
	manyInGroup = 8
	gatherTime  = 2 * time.Millisecond
)

// lockLimit bounds the wait for a file that another program has open.
const lockLimit = time.Second

var bucket = []byte("entries")

// Bolt is a Store in a file of its own. While one write is on its way to the disk the commits that come meanwhile gather,
// and the next write takes them all: a sync costs the same for one and for a thousand.
type Bolt struct {
	db    *bbolt.DB
	queue chan *commit
	ended chan struct{} // closed when the last commit is written

	mu     sync.RWMutex // held shared while a commit is put into the queue
	closed bool
}

type commit struct {
	changes []Change
	err     error
	done    chan error
}

// OpenBolt opens a file in a folder or makes it. One program at a time may have it open. A file that is damaged or was cut is an error
// that names it; what it holds isn't thrown away.
func OpenBolt(folder *os.Root, name string) (*Bolt, error) {
	fail := func(err error) (*Bolt, error) {
		if errors.Is(err, bbolt.ErrTimeout) {
			err = errors.New("another program has it open (stop that one)")
		}
		return nil, fmt.Errorf("cannot open %s: %w", filepath.Join(folder.Name(), name), err)
	}
	info, err := folder.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = create(folder, name)
	} else if err == nil {
		err = inspect(folder, name, info)
	}
	if err != nil {
		return fail(err)
	}
	db, err := open(name, false, folder.OpenFile)
	if err != nil {
		return fail(err)
	}
	b := &Bolt{db: db, queue: make(chan *commit, maxWaiting), ended: make(chan struct{})}
	go b.run()
	return b, nil
}

// create makes an empty file: beside, synced, renamed, so that a kill leaves none or a whole one.
func create(folder *os.Root, name string) error {
	beside := name + ".new"
	if err := folder.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := open(beside, false, folder.OpenFile)
	if err != nil {
		return errors.Join(err, folder.Remove(beside))
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(bucket)
		return err
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return errors.Join(err, folder.Remove(beside))
	}
	if err := folder.Rename(beside, name); err != nil {
		return err
	}
	dir, err := folder.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// inspect reads a whole file once. bbolt trusts its pages: what is missing or damaged shows as a panic or as a fault of the
// memory that the file is mapped into, and would end the program in the middle of its work.
func inspect(folder *os.Root, file string, info fs.FileInfo) (err error) {
	const smallest = 4 // pages of a file that bbolt has begun
	const hint = "to start without what it holds, remove it"
	if !info.Mode().IsRegular() {
		return errors.New("it is not a file")
	}
	if info.Size() < smallest*512 {
		return fmt.Errorf("it has %d bytes: it was cut (%s)", info.Size(), hint)
	}
	var opened *os.File
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is damaged or was cut: %v (%s)", p, hint)
			if opened != nil { // bbolt hasn't come to closing it, and its mapping would keep the lock
				err = errors.Join(err, unix.Flock(int(opened.Fd()), unix.LOCK_UN), opened.Close())
			}
		}
	}()
	db, err := open(file, true, func(name string, flag int, mode fs.FileMode) (f *os.File, err error) {
		opened, err = folder.OpenFile(name, flag, mode)
		return opened, err
	})
	if errors.Is(err, bbolt.ErrTimeout) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w (%s)", err, hint)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		if b == nil {
			return fmt.Errorf("it has no entries: it is another program's file (%s)", hint)
		}
		total := 0
		return b.ForEach(func(k, v []byte) error {
			total += len(bytes.Clone(k)) + len(bytes.Clone(v)) // so that every byte is read
			return nil
		})
	})
	return errors.Join(err, db.Close())
}

// open opens with bbolt. The map of free pages is what scales; it is written with each commit, so opening reads it
// instead of every page.
func open(file string, readOnly bool, opener func(string, int, fs.FileMode) (*os.File, error)) (*bbolt.DB, error) {
	return bbolt.Open(file, 0o600, &bbolt.Options{
		OpenFile: opener, Timeout: lockLimit, ReadOnly: readOnly, PreLoadFreelist: true, FreelistType: bbolt.FreelistMapType, NoStatistics: true,
	})
}

// List is part of Store.
func (b *Bolt) List(prefix string) ([]Entry, error) {
	var out []Entry
	err := b.db.View(func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(bucket).Cursor()
		for k, v := cursor.Seek([]byte(prefix)); bytes.HasPrefix(k, []byte(prefix)) && k != nil; k, v = cursor.Next() {
			out = append(out, Entry{Key: string(k), Value: bytes.Clone(v)})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", b.db.Path(), err)
	}
	return out, nil
}

// Begin is part of Store.
func (b *Bolt) Begin(changes ...Change) <-chan error {
	c := &commit{changes: changes, done: make(chan error, 1)}
	for _, change := range changes {
		if err := change.Check(); err != nil {
			c.done <- err
			return c.done
		}
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		c.done <- ErrClosed
		return c.done
	}
	b.queue <- c
	return c.done
}

// Close is part of Store.
func (b *Bolt) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	close(b.queue)
	b.mu.Unlock()
	<-b.ended
	return b.db.Close()
}

// run writes commits, all that wait together.
func (b *Bolt) run() {
	defer close(b.ended)
	var pause <-chan time.Time // nil: the next group needn't become larger
	for first := range b.queue {
		if pause != nil && len(b.queue) < maxGroup {
			<-pause
		}
		group := []*commit{first}
		for len(group) < maxGroup && len(b.queue) > 0 {
			group = append(group, <-b.queue)
		}
		if pause = nil; len(group) >= manyInGroup {
			pause = time.After(gatherTime)
		}
		b.write(group)
	}
}

// write makes a group durable and tells each commit how it ended. A commit whose condition fails leaves the others alone.
func (b *Bolt) write(group []*commit) {
	err := b.db.Update(func(tx *bbolt.Tx) error {
		entries := tx.Bucket(bucket)
		for _, c := range group {
			if c.err = c.apply(entries); c.err != nil && !errors.Is(c.err, ErrConflict) {
				return c.err
			}
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("cannot write %s: %w", b.db.Path(), err)
	}
	for _, c := range group {
		if err != nil {
			c.err = err
		}
		c.done <- c.err
	}
}

// apply makes a commit's changes, if all its conditions hold before the first of them.
func (c *commit) apply(entries *bbolt.Bucket) error {
	for _, change := range c.changes {
		if change.Conditional && !change.holds(entries.Get([]byte(change.Key))) {
			return ErrConflict
		}
	}
	for _, change := range c.changes {
		var err error
		if change.Value == nil {
			err = entries.Delete([]byte(change.Key))
		} else {
			err = entries.Put([]byte(change.Key), change.Value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
