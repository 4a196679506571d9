package etcdkv

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/slipway-os/slipway/builder/kv"
)

// Begin is part of kv.Store. The order of commits is that of one store's own; those of other programs come between them.
func (s *Store) Begin(changes ...kv.Change) <-chan error {
	c := &commit{changes: changes, done: make(chan error, 1)}
	err := s.check(changes)
	if err == nil {
		s.mu.RLock()
		defer s.mu.RUnlock()
		if s.closed {
			err = kv.ErrClosed
		}
	}
	if err == nil && len(changes) > 0 {
		err = s.Away() // it would only wait
	}
	if err != nil || len(changes) == 0 {
		c.done <- err
		return c.done
	}
	s.queue <- c
	return c.done
}

// check says why a commit is none that etcd takes.
func (s *Store) check(changes []kv.Change) error {
	if len(changes) > maxOps {
		return fmt.Errorf("cannot commit %d changes to %s: it takes %d", len(changes), s.place, maxOps)
	}
	had := map[string]bool{}
	for _, c := range changes {
		if err := c.Check(); err != nil {
			return err
		}
		if had[c.Key] {
			return fmt.Errorf("cannot commit two changes of %s at once to %s", c.Key, s.place)
		}
		had[c.Key] = true
	}
	return nil
}

// run writes commits one group after the other, all that wait together as far as etcd takes them.
func (s *Store) run() {
	var next *commit
	for {
		first := next
		next = nil
		if first == nil {
			var open bool
			if first, open = <-s.queue; !open {
				return
			}
		}
		var group []*commit
		group, next = s.gather(first)
		s.write(group)
		if s.Away() != nil { // what was begun meanwhile would wait as long again
			next = s.fail(next)
		}
	}
}

// gather takes what fits into one group; next is the first that doesn't.
func (s *Store) gather(first *commit) (group []*commit, next *commit) {
	ops, bytes, had := 0, 0, map[string]bool{}
	for next = first; next != nil; {
		size, twice := 0, false
		for _, c := range next.changes {
			size += len(c.Key) + len(c.Value) + len(c.Before)
			twice = twice || had[c.Key] // etcd takes a key once in a transaction
		}
		if len(group) > 0 && (twice || ops+len(next.changes) > maxOps || bytes+size > maxBytes) {
			return group, next
		}
		for _, c := range next.changes {
			had[c.Key] = true
		}
		ops, bytes = ops+len(next.changes), bytes+size
		group = append(group, next)
		next = nil
		select {
		case next = <-s.queue: // nil: it is closed
		default:
		}
	}
	return group, nil
}

// fail ends what waits: none of it was sent.
func (s *Store) fail(next *commit) *commit {
	err := s.Away()
	if next != nil {
		next.done <- err
	}
	for range len(s.queue) {
		if c := <-s.queue; c != nil {
			c.done <- err
		}
	}
	return nil
}

// write writes a group at once. If some condition of it doesn't hold, nothing was changed, and each commit is tried by itself.
func (s *Store) write(group []*commit) {
	held, err := s.transact(group...)
	if err != nil || held || len(group) == 1 {
		for _, c := range group {
			c.done <- ending(held, err)
		}
		return
	}
	for i, c := range group {
		held, err := s.transact(c)
		c.done <- ending(held, err)
		if err != nil {
			for _, rest := range group[i+1:] {
				rest.done <- err
			}
			return
		}
	}
}

func ending(held bool, err error) error {
	if err == nil && !held {
		err = kv.ErrConflict
	}
	return err
}

// transact makes the changes of commits if all their conditions hold.
func (s *Store) transact(commits ...*commit) (held bool, err error) {
	var conditions []clientv3.Cmp
	var operations []clientv3.Op
	for _, c := range commits {
		for _, change := range c.changes {
			key := s.place.Prefix + change.Key
			switch {
			case change.Conditional && change.Before == nil:
				conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
			case change.Conditional: // an entry that isn't there has an empty value too
				conditions = append(conditions, clientv3.Compare(clientv3.Value(key), "=", string(change.Before)),
					clientv3.Compare(clientv3.CreateRevision(key), ">", 0))
			}
			if change.Value == nil {
				operations = append(operations, clientv3.OpDelete(key))
			} else {
				operations = append(operations, clientv3.OpPut(key, string(change.Value)))
			}
		}
	}
	// Not the store's context: what was begun before Close is to be written.
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	answer, err := s.client.Txn(ctx).If(conditions...).Then(operations...).Commit()
	if err = s.seen(err); err != nil {
		return false, err
	}
	return answer.Succeeded, nil
}
