package netboot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/kv"
)

// stateKey + MAC address is the entry of a machine's state.
const stateKey = "node/"

// maxTexts bounds the texts of a machine's state in bytes, so that its entry stays far below kv.MaxValue whatever JSON makes of them.
const maxTexts = 160 << 10

// storedState is a machine's entry. Where several servers write it, each counts its version up.
type storedState struct {
	NodeStatus
	Version int64 `json:"version,omitempty"`
}

func encodeState(n *NodeStatus, version int64) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // it would make six bytes of one
	if err := encoder.Encode(storedState{*n, version}); err != nil {
		return nil, fmt.Errorf("cannot encode the state of %s: %w", n.MAC, err)
	}
	return text.Bytes(), nil
}

func decodeState(e kv.Entry) (NodeStatus, int64, error) {
	var s storedState
	if err := json.Unmarshal(e.Value, &s); err != nil {
		return NodeStatus{}, 0, fmt.Errorf("cannot read the stored entry %s: %w", e.Key, err)
	}
	s.MAC = strings.TrimPrefix(e.Key, stateKey)
	return s.NodeStatus, s.Version, nil
}

// bound drops what a machine's state has too much of: logs of older boots, then older boots, then details. A machine that reports
// what it likes can't fill the disk by it.
func (n *NodeStatus) bound() {
	for over := n.texts() - maxTexts; over > 0; over = n.texts() - maxTexts {
		if boots := n.Boots; len(boots) > 1 {
			if !boots[0].dropLogs() {
				n.Boots = slices.Delete(boots, 0, 1)
			}
			continue
		}
		n.Boots[0].cut(over)
	}
}

// texts is how many bytes the texts of a machine's boots have.
func (n *NodeStatus) texts() (total int) {
	for i := range n.Boots {
		for _, e := range n.Boots[i].Events {
			total += len(e.Event) + len(e.Detail) + len(e.Unit) + len(e.Log)
		}
	}
	return total
}

// dropLogs drops a boot's logs, and says whether it had any.
func (b *Boot) dropLogs() (had bool) {
	for i := range b.Events {
		had = had || b.Events[i].Log != ""
		b.Events[i].Log = ""
	}
	return had
}

// cut drops details, the oldest first, until so many bytes are gone.
func (b *Boot) cut(bytes int) {
	for i := 0; i < len(b.Events) && bytes > 0; i++ {
		bytes -= len(b.Events[i].Detail)
		b.Events[i].Detail = ""
	}
}

// maxTries bounds how often a state is written anew because another server was faster.
const maxTries = 5

// save writes the changes so far, if there are any, and says whether that went well. The log says when that begins and when it
// ceases to fail.
func (s *states) save() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changes := s.changes
	for range maxTries {
		sending := s.takeDirty()
		s.mu.Unlock()
		err = s.send(sending)
		s.mu.Lock()
		var again bool
		if again, err = s.sent(sending, err); !again {
			break
		}
	}
	switch {
	case err != nil && s.failed == nil:
		s.log.Error("cannot keep node states on disk: they are only in memory until this is mended", "error", err)
	case err == nil && s.failed != nil:
		s.log.Info("node states are kept on disk again")
	}
	s.tried, s.failed = changes, err
	close(s.written)
	s.written = make(chan struct{})
	return err
}

// sending is a machine's state on its way to the store.
type sending struct {
	mac    string
	node   *NodeStatus // nil: the machine isn't known any more
	value  []byte
	known  known // when it was taken
	ended  <-chan error
	failed error
	now    []byte // what another server has written meanwhile
}

// takeDirty is what has changed. The lock is held.
func (s *states) takeDirty() []*sending {
	if s.entries == nil {
		clear(s.dirty)
	}
	var out []*sending
	for mac := range s.dirty {
		c := &sending{mac: mac}
		if n := s.byMAC[mac]; n != nil {
			clone := n.clone()
			c.node = &clone
		}
		if s.shared != nil {
			k := s.knownOf(mac)
			k.sent = len(k.edits)
			c.known = *k
		}
		out = append(out, c)
	}
	clear(s.dirty)
	return out
}

// send writes states, all together, and waits for how that ends.
func (s *states) send(all []*sending) (failed error) {
	for _, c := range all {
		change := kv.Delete(stateKey + c.mac)
		if c.node != nil {
			version := int64(0)
			if s.shared != nil {
				version = c.known.version + 1
			}
			if c.value, c.failed = encodeState(c.node, version); c.failed != nil {
				failed = c.failed
				continue
			}
			change.Value = c.value
		}
		if s.shared != nil {
			change.Conditional, change.Before = true, c.known.value
			s.inFlight(c)
		}
		c.ended = s.entries.Begin(change)
	}
	for _, c := range all {
		if c.ended != nil {
			c.failed = <-c.ended
		}
		if errors.Is(c.failed, kv.ErrConflict) {
			var err error
			if c.now, err = readOne(s.entries, stateKey+c.mac); err != nil {
				c.failed = err
			}
		}
		if c.failed != nil && !errors.Is(c.failed, kv.ErrConflict) {
			failed = c.failed
		}
	}
	return failed
}

// sent notes how it ended; again: another server was faster with some, so that they are to be written on top of its. The lock is held.
func (s *states) sent(all []*sending, failed error) (again bool, err error) {
	for _, c := range all {
		switch {
		case c.failed == nil:
			if s.shared != nil {
				s.arrived(c)
				break
			}
			if c.node == nil {
				delete(s.onDisk, c.mac)
				break
			}
			s.onDisk[c.mac] = true
			if s.byMAC[c.mac] == nil {
				s.dirty[c.mac] = true // it was forgotten meanwhile
			}
		case errors.Is(c.failed, kv.ErrConflict):
			s.told(c.mac, kv.Entry{Key: stateKey + c.mac, Value: c.now})
			s.dirty[c.mac], again = true, true
		default:
			s.dirty[c.mac] = true
			if errors.Is(c.failed, kv.ErrAway) {
				s.knownOf(c.mac).lose()
			}
		}
	}
	if again && failed == nil {
		failed = kv.ErrConflict // unless the next try does it
	}
	return again, failed
}

// readOne is an entry's value; nil: there is none.
func readOne(entries kv.Store, key string) ([]byte, error) {
	list, err := entries.List(key)
	for _, e := range list {
		if e.Key == key {
			return e.Value, err
		}
	}
	return nil, err
}
