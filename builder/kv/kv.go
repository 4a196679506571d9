// Package kv keeps what a boot server must not forget: small values under keys, durable once a commit is acknowledged.
//
// Store is the contract; kvtest holds the tests that each implementation passes. OpenBolt is the embedded one, a file of one
// server's own. It is not for what can be had again (artifacts, logs), nor for values over MaxValue.
//
// Words: a commit is a set of changes that take effect together; a condition is what a change asks of the value before it.
package kv

import (
	"bytes"
	"errors"
	"fmt"
)

// Bounds of an entry, in bytes.
const (
	MaxKey   = 512
	MaxValue = 1 << 20
)

// Errors that callers branch on.
var (
	// ErrConflict: a condition of the commit doesn't hold; nothing of it was changed.
	ErrConflict = errors.New("the entry was changed by someone else")
	// ErrClosed: the store was closed before the commit began.
	ErrClosed = errors.New("the store is closed")
)

// Store keeps entries. Its methods may be called at the same time.
type Store interface {
	// List is every entry whose key begins with prefix, in the order of keys.
	List(prefix string) ([]Entry, error)
	// Begin begins a commit. Commits take effect in the order in which they are begun, each whole or not at all. The
	// channel tells how it ended, once: nil means that it outlives a kill and a loss of power. ErrConflict and ErrClosed
	// say that nothing was changed; after any other error (a full disk) nothing was changed either, and the next commit
	// may succeed. Begin may wait while very many commits are under way. The caller must not change values afterwards.
	Begin(changes ...Change) <-chan error
	// Close waits for the commits under way.
	Close() error
}

// Entry is a value under its key.
type Entry struct {
	Key   string
	Value []byte
}

// Change sets or deletes an entry.
type Change struct {
	Key   string
	Value []byte // nil: the entry is deleted
	// Conditional: the change is made only if the entry's value is Before; nil means that there is no entry.
	Conditional bool
	Before      []byte
}

// Put sets an entry whatever it was.
func Put(key string, value []byte) Change { return Change{Key: key, Value: value} }

// Delete deletes an entry, if there is one.
func Delete(key string) Change { return Change{Key: key} }

// Replace sets an entry that was before; nil: that wasn't there.
func Replace(key string, before, value []byte) Change {
	return Change{Key: key, Value: value, Conditional: true, Before: before}
}

// Commit begins a commit and waits for its end.
func Commit(s Store, changes ...Change) error { return <-s.Begin(changes...) }

// Check says what is wrong with a change.
func (c Change) Check() error {
	switch {
	case c.Key == "" || len(c.Key) > MaxKey:
		return fmt.Errorf("cannot keep an entry: its key has %d bytes (1 to %d)", len(c.Key), MaxKey)
	case len(c.Value) > MaxValue:
		return fmt.Errorf("cannot keep %s: it has %d bytes (at most %d)", c.Key, len(c.Value), MaxValue)
	}
	return nil
}

// holds says whether a change's condition holds for the value that is there; nil: there is none.
func (c Change) holds(value []byte) bool {
	return !c.Conditional || (value == nil) == (c.Before == nil) && bytes.Equal(value, c.Before)
}
