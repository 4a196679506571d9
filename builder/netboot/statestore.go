package netboot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/kv"
)

// stateKey + MAC address is the entry of a machine's state.
const stateKey = "node/"

// maxTexts bounds the texts of a machine's state in bytes, so that its entry stays far below kv.MaxValue whatever JSON makes of them.
const maxTexts = 160 << 10

// readStates reads all entries.
func readStates(entries kv.Store) ([]NodeStatus, error) {
	list, err := entries.List(stateKey)
	if err != nil {
		return nil, err
	}
	out := make([]NodeStatus, len(list))
	for i, e := range list {
		if err := json.Unmarshal(e.Value, &out[i]); err != nil {
			return nil, fmt.Errorf("cannot read the stored entry %s: %w", e.Key, err)
		}
		out[i].MAC = strings.TrimPrefix(e.Key, stateKey)
	}
	return out, nil
}

// encodeState is a machine's entry.
func encodeState(n *NodeStatus) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // it would make six bytes of one
	err := encoder.Encode(n)
	return text.Bytes(), err
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

// save writes the changes so far, if there are any, and says whether that went well. The log says when that begins and when it
// ceases to fail.
func (s *states) save() error {
	s.mu.Lock()
	changes, changed := s.changes, s.takeDirty()
	s.mu.Unlock()
	undone, err := s.write(changed)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, mac := range undone {
		s.dirty[mac] = true
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

// takeDirty is what has changed; nil: the machine isn't known any more. The lock is held.
func (s *states) takeDirty() map[string]*NodeStatus {
	changed := make(map[string]*NodeStatus, len(s.dirty))
	for mac := range s.dirty {
		changed[mac] = nil
		if n := s.byMAC[mac]; n != nil {
			c := n.clone()
			changed[mac] = &c
		}
	}
	clear(s.dirty)
	return changed
}

// write writes entries, all with one sync, and says which couldn't be written.
func (s *states) write(changed map[string]*NodeStatus) (undone []string, failed error) {
	if s.entries == nil {
		return nil, nil
	}
	begun := make(map[string]<-chan error, len(changed))
	for mac, n := range changed {
		change := kv.Delete(stateKey + mac)
		if n != nil {
			value, err := encodeState(n)
			if err != nil {
				failed, undone = fmt.Errorf("cannot encode the state of %s: %w", mac, err), append(undone, mac)
				continue
			}
			change.Value = value
		}
		begun[mac] = s.entries.Begin(change)
	}
	for mac, ended := range begun {
		if err := <-ended; err != nil {
			failed, undone = err, append(undone, mac)
		}
	}
	return undone, failed
}
