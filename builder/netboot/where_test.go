package netboot

import (
	"fmt"
	"slices"
	"testing"

	"github.com/slipway-os/slipway/builder/kv"
)

// whereTrue compares where machines are said to be with where they are.
func whereTrue(t *testing.T, s *states) {
	t.Helper()
	count := 0
	for mac, n := range s.byMAC {
		if n.Address != "" && !slices.Contains(s.where[n.Address], mac) {
			t.Errorf("%s isn't found at %s", mac, n.Address)
		}
		if n.Address != "" {
			count++
		}
	}
	for address, there := range s.where {
		count -= len(there)
		for _, mac := range there {
			if n := s.byMAC[mac]; n == nil || n.Address != address {
				t.Errorf("%s is said to be at %s", mac, address)
			}
		}
	}
	if count != 0 {
		t.Errorf("%d machines more are somewhere than are found there", count)
	}
}

// TestWhere: machines are found by their address, also after they moved, were driven out, or the document changed; one address is one
// machine's.
func TestWhere(t *testing.T) {
	site := lab(t)
	site.ListUnknown = true
	s, err := openStates(nil, site, someTime, discard(), nil)
	must(t, err)
	whereTrue(t, s)
	for i := range 3 * maxUnknown {
		s.seen(fmt.Sprintf("52:54:00:01:%02x:%02x", i>>8, i&0xff), fmt.Sprintf("10.1.%d.%d", 1+i%3, i*7%200), "seen")
	}
	whereTrue(t, s)
	s.seen(stranger, "10.1.1.7", "seen")
	if there := s.where["10.1.1.7"]; !slices.Equal(there, []string{stranger}) {
		t.Errorf("at 10.1.1.7 there are %v", there)
	}
	s.seen(stranger, "10.1.1.8", "seen")
	whereTrue(t, s)
	other := *site
	other.Machines = slices.Clone(site.Machines)
	other.Machines[0].Address = other.Machines[0].Address.Next()
	s.serve(&other)
	whereTrue(t, s)
	other.ListUnknown = false
	s.serve(&other)
	if whereTrue(t, s); len(s.byMAC) != len(site.Machines) {
		t.Errorf("%d machines are known", len(s.byMAC))
	}
}

// countedStore counts the changes that a store gets.
type countedStore struct {
	kv.Store
	changes int
}

func (c *countedStore) Begin(changes ...kv.Change) <-chan error {
	c.changes += len(changes)
	return c.Store.Begin(changes...)
}

// TestComeAndGone: machines outside the document that come and are driven out between two writes cost the disk nothing; those that were
// written are removed from it.
func TestComeAndGone(t *testing.T) {
	entries := &countedStore{Store: newEntries(t, newStore(t, t.TempDir()))}
	site := lab(t)
	site.ListUnknown = true
	s, err := openStates(entries, site, someTime, discard(), nil)
	must(t, err)
	for round := range 2 {
		entries.changes = 0
		for i := range 3 * maxUnknown {
			s.seen(fmt.Sprintf("52:54:00:%02x:%02x:%02x", round, i>>8, i&0xff), "", "seen")
		}
		must(t, s.save())
		if most := (1+round)*maxUnknown + len(site.Machines); entries.changes > most {
			t.Errorf("%d changes for at most %d machines", entries.changes, most)
		}
		list, err := entries.List(stateKey)
		must(t, err)
		if len(list) != len(s.onDisk) || len(list) > maxUnknown+len(site.Machines) {
			t.Errorf("%d machines are on the disk, %d are said to be", len(list), len(s.onDisk))
		}
		for _, e := range list {
			if s.byMAC[e.Key[len(stateKey):]] == nil {
				t.Errorf("%s is on the disk and not known", e.Key)
			}
		}
	}
}
