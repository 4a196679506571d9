package netboot

import (
	"bytes"
	"context"
	"strings"

	"github.com/slipway-os/slipway/builder/kv"
)

// Where several boot servers share a store, each has all states in memory and is told what the others write. What it has to say itself are
// edits: when another server was faster with the same machine, they are done again on top of what that one wrote.

// maxEdits bounds the edits of a machine that wait for a store that is away. The oldest go.
const maxEdits = 256

// known is what this server knows of a shared entry.
type known struct {
	value   []byte // nil: there is none
	version int64
	edits   []func(*NodeStatus) // done in memory, and not yet in the store as far as is known
	sent    int                 // of these, those that the write under way has
	flight  []byte              // the value under way
	lost    []byte              // the last value of which it isn't known whether it arrived
	losing  int                 // of the edits, those that it has
}

func (k *known) is(value []byte, version int64) { k.value, k.version = value, version }

// lose notes that it isn't known whether what is under way arrived.
func (k *known) lose() {
	if k.flight != nil {
		k.lost, k.losing, k.flight = k.flight, k.sent, nil
	}
}

// own says whether a value in the store is what this server wrote and had no answer to; then the edits in it are done.
func (k *known) own(value []byte) bool {
	done := 0
	switch {
	case value == nil:
		return false
	case bytes.Equal(value, k.flight):
		done, k.sent = k.sent, 0
	case bytes.Equal(value, k.lost):
		done, k.sent = k.losing, max(0, k.sent-k.losing)
	default:
		return false
	}
	k.is(value, k.version+1)
	k.edits, k.flight, k.lost, k.losing = k.edits[min(done, len(k.edits)):], nil, nil, 0
	return true
}

func (s *states) knownOf(mac string) *known {
	k := s.stored[mac]
	if k == nil {
		k = &known{}
		s.stored[mac] = k
	}
	return k
}

// edit changes a machine's status; the lock is held. What it does must depend on nothing but the status.
func (s *states) edit(n *NodeStatus, do func(*NodeStatus)) {
	do(n)
	if s.shared == nil {
		return
	}
	k := s.knownOf(n.MAC)
	k.edits = append(k.edits, do)
	if over := len(k.edits) - maxEdits; over > 0 {
		k.edits, k.sent = k.edits[over:], max(0, k.sent-over)
	}
}

// inFlight notes what is being written.
func (s *states) inFlight(c *sending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.knownOf(c.mac).flight = c.value
}

// arrived notes that a write has ended well; the lock is held.
func (s *states) arrived(c *sending) {
	k := s.knownOf(c.mac)
	if c.node == nil {
		delete(s.stored, c.mac)
		return
	}
	k.own(c.value) // unless the store has told it already
}

// rebase takes what the store has for a machine (no value: nothing) and does this server's own edits on top of it; the lock is held.
func (s *states) rebase(e kv.Entry) {
	mac := strings.TrimPrefix(e.Key, stateKey)
	k := s.knownOf(mac)
	if k.own(e.Value) {
		return
	}
	n, version := NodeStatus{MAC: mac, State: unseen}, int64(0)
	if e.Value != nil {
		var err error
		if n, version, err = decodeState(e); err != nil {
			s.log.Error("another boot server has kept a state that this one can't read: they must be of one version", "error", err)
			return
		}
	}
	mine := s.adopt(&n)
	k.is(e.Value, version)
	if e.Value == nil && len(k.edits) == 0 && n.Name == "" || !mine {
		if old := s.byMAC[mac]; old != nil {
			s.forget(old)
		}
		delete(s.stored, mac)
		return
	}
	before := s.node(mac).Address // makes room
	for _, do := range k.edits {
		do(&n)
	}
	n.bound()
	*s.byMAC[mac] = n
	s.place(s.byMAC[mac], before)
	if s.changed != nil {
		s.changed(n.clone())
	}
}

// follow takes what other servers write until ctx ends.
func (s *states) follow(ctx context.Context) {
	s.shared.Watch(ctx, stateKey, func(whole bool, entries []kv.Entry) {
		s.mu.Lock()
		defer s.mu.Unlock()
		there := make(map[string]bool, len(entries))
		for _, e := range entries {
			mac := strings.TrimPrefix(e.Key, stateKey)
			there[mac] = true
			s.told(mac, e)
		}
		for mac, k := range s.stored {
			if whole && !there[mac] && k.value != nil {
				s.told(mac, kv.Entry{Key: stateKey + mac})
			}
		}
	})
}

// told takes a change that the store tells of, unless it is older than what is known; the lock is held.
func (s *states) told(mac string, e kv.Entry) {
	k := s.stored[mac]
	if k != nil && e.Value != nil && k.value != nil {
		if bytes.Equal(e.Value, k.value) {
			return
		}
		if _, version, err := decodeState(e); err == nil && version <= k.version {
			return
		}
	}
	s.rebase(e)
}
