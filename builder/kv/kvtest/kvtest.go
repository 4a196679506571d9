// Package kvtest has the tests that every kv.Store passes. It is imported by tests only.
package kvtest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/slipway-os/slipway/builder/kv"
)

// Run tests a kind of store. open opens the same one each time, empty at first; Run closes what it has opened.
func Run(t *testing.T, open func() (kv.Store, error)) {
	for _, c := range []struct {
		name string
		test func(*testing.T, kv.Store)
	}{
		{"entries", entries}, {"conditions", conditions}, {"all or nothing", allOrNothing}, {"order", order},
		{"only one wins", onlyOneWins}, {"bounds", bounds},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := opened(t, open)
			defer s.Close()
			c.test(t, s)
			empty(t, s)
		})
	}
	t.Run("outlives its end", func(t *testing.T) { outlives(t, open) })
}

func opened(t *testing.T, open func() (kv.Store, error)) kv.Store {
	t.Helper()
	s, err := open()
	must(t, err)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// text is the entries under a prefix in words.
func text(t *testing.T, s kv.Store, prefix string) string {
	t.Helper()
	list, err := s.List(prefix)
	must(t, err)
	var words []string
	for _, e := range list {
		words = append(words, e.Key+"="+string(e.Value))
	}
	return strings.Join(words, " ")
}

func empty(t *testing.T, s kv.Store) {
	t.Helper()
	list, err := s.List("")
	must(t, err)
	for _, e := range list {
		must(t, kv.Commit(s, kv.Delete(e.Key)))
	}
}

func expect(t *testing.T, s kv.Store, prefix, want string) {
	t.Helper()
	if got := text(t, s, prefix); got != want {
		t.Errorf("under %q are %q, want %q", prefix, got, want)
	}
}

func entries(t *testing.T, s kv.Store) {
	expect(t, s, "", "")
	must(t, kv.Commit(s))
	must(t, kv.Commit(s, kv.Put("b/2", []byte("two")), kv.Put("a/1", []byte("one")), kv.Put("b/1", nil), kv.Put("b/3", []byte{})))
	expect(t, s, "", "a/1=one b/2=two b/3=")
	expect(t, s, "b/", "b/2=two b/3=")
	expect(t, s, "c", "")
	must(t, kv.Commit(s, kv.Put("b/2", []byte("TWO")), kv.Delete("a/1"), kv.Delete("never")))
	expect(t, s, "", "b/2=TWO b/3=")
}

func conditions(t *testing.T, s kv.Store) {
	must(t, kv.Commit(s, kv.Replace("k", nil, []byte("1"))))
	conflict(t, s, kv.Replace("k", nil, []byte("2")))
	conflict(t, s, kv.Replace("k", []byte("0"), []byte("2")))
	conflict(t, s, kv.Replace("none", []byte("0"), []byte("2")))
	must(t, kv.Commit(s, kv.Replace("k", []byte("1"), []byte("2"))))
	must(t, kv.Commit(s, kv.Replace("k", []byte("2"), nil)))
	expect(t, s, "", "")
	must(t, kv.Commit(s, kv.Put("k", []byte{})))
	conflict(t, s, kv.Replace("k", nil, []byte("2"))) // an empty entry is one
	must(t, kv.Commit(s, kv.Replace("k", []byte{}, []byte("3"))))
}

func conflict(t *testing.T, s kv.Store, changes ...kv.Change) {
	t.Helper()
	if err := kv.Commit(s, changes...); !errors.Is(err, kv.ErrConflict) {
		t.Errorf("got %v, want a conflict", err)
	}
}

func allOrNothing(t *testing.T, s kv.Store) {
	must(t, kv.Commit(s, kv.Put("a", []byte("1"))))
	conflict(t, s, kv.Put("a", []byte("2")), kv.Put("b", []byte("2")), kv.Replace("c", []byte("x"), []byte("2")))
	expect(t, s, "", "a=1")
	if err := kv.Commit(s, kv.Put("a", []byte("2")), kv.Put("", nil)); err == nil || errors.Is(err, kv.ErrConflict) {
		t.Errorf("an entry without a key: %v", err)
	}
	expect(t, s, "", "a=1")
}

// order: commits that are begun one after the other, without waiting, take effect in that order.
func order(t *testing.T, s kv.Store) {
	var last <-chan error
	for i := range 500 {
		last = s.Begin(kv.Put("k", fmt.Append(nil, i)))
	}
	must(t, <-last)
	expect(t, s, "", "k=499")
}

// onlyOneWins: of many that take the same entry at the same time one gets it.
func onlyOneWins(t *testing.T, s kv.Store) {
	var wins sync.Map
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			err := kv.Commit(s, kv.Replace("k", nil, fmt.Append(nil, i)))
			if err == nil {
				wins.Store(i, true)
			} else if !errors.Is(err, kv.ErrConflict) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	var winners []string
	wins.Range(func(i, _ any) bool { winners = append(winners, fmt.Sprintf("k=%d", i)); return true })
	expect(t, s, "", strings.Join(winners, " "))
}

func bounds(t *testing.T, s kv.Store) {
	largest := kv.Put(strings.Repeat("k", kv.MaxKey), make([]byte, kv.MaxValue))
	must(t, kv.Commit(s, largest))
	for _, c := range []kv.Change{
		kv.Put("", []byte("x")), kv.Put(largest.Key+"k", []byte("x")), kv.Put("k", make([]byte, kv.MaxValue+1)),
	} {
		if err := kv.Commit(s, c); err == nil {
			t.Errorf("an entry of %d and %d bytes is kept", len(c.Key), len(c.Value))
		}
	}
}

// outlives: what is acknowledged is there when the store is opened again; a closed one takes nothing.
func outlives(t *testing.T, open func() (kv.Store, error)) {
	s := opened(t, open)
	for i := range 100 {
		s.Begin(kv.Put(fmt.Sprintf("k%02d", i), []byte("x")))
	}
	must(t, s.Close())
	must(t, s.Close())
	if err := kv.Commit(s, kv.Put("late", []byte("x"))); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("a closed store: %v", err)
	}
	s = opened(t, open)
	defer s.Close()
	if list, err := s.List("k"); err != nil || len(list) != 100 {
		t.Errorf("%d entries are left, %v", len(list), err)
	}
	expect(t, s, "late", "")
}
