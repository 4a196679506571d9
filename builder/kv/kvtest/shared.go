package kvtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
)

// RunShared tests a kind of store that several programs use. open opens the same one each time, empty at first.
func RunShared(t *testing.T, open func() (kv.Shared, error)) {
	t.Run("one wins over two stores", func(t *testing.T) { shared(t, open, oneOfTwo) })
	t.Run("watch", func(t *testing.T) { shared(t, open, watch) })
}

func shared(t *testing.T, open func() (kv.Shared, error), test func(t *testing.T, a, b kv.Shared)) {
	a, err := open()
	must(t, err)
	defer a.Close()
	b, err := open()
	must(t, err)
	defer b.Close()
	empty(t, a)
	if err := errors.Join(a.Away(), b.Away()); err != nil {
		t.Error(err)
	}
	test(t, a, b)
	empty(t, b)
}

// oneOfTwo: of two programs that take the same entries at the same time one gets each, and both see who.
func oneOfTwo(t *testing.T, a, b kv.Shared) {
	const entries = 40
	won := map[string]string{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for name, s := range map[string]kv.Shared{"a": a, "b": b} {
		for i := range entries {
			group.Go(func() {
				key := fmt.Sprintf("k%02d", i)
				err := kv.Commit(s, kv.Replace(key, nil, []byte(name)))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil && won[key] != "":
					t.Errorf("%s was given to both", key)
				case err == nil:
					won[key] = name
				case !errors.Is(err, kv.ErrConflict):
					t.Error(err)
				}
			})
		}
	}
	group.Wait()
	var words []string
	for _, key := range slices.Sorted(maps.Keys(won)) {
		words = append(words, key+"="+won[key])
	}
	if len(words) != entries {
		t.Errorf("%d of %d entries were given", len(words), entries)
	}
	expect(t, a, "k", strings.Join(words, " "))
	expect(t, b, "k", strings.Join(words, " "))
}

// watch: what is there is told first, then each change, whoever made it; other prefixes aren't.
func watch(t *testing.T, a, b kv.Shared) {
	must(t, kv.Commit(a, kv.Put("w/old", []byte("1")), kv.Put("x/other", []byte("1"))))
	var mu sync.Mutex
	seen := map[string]string{}
	told, wholes := 0, 0
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.Watch(ctx, "w/", func(whole bool, entries []kv.Entry) {
			mu.Lock()
			defer mu.Unlock()
			if whole {
				clear(seen)
				wholes++
			}
			for _, e := range entries {
				told++
				if e.Value == nil {
					delete(seen, e.Key)
				} else {
					seen[e.Key] = string(e.Value)
				}
			}
		})
	}()
	until := func(want string) {
		t.Helper()
		got := ""
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			mu.Lock()
			var words []string
			for _, key := range slices.Sorted(maps.Keys(seen)) {
				words = append(words, key+"="+seen[key])
			}
			got = strings.Join(words, " ")
			mu.Unlock()
			if got == want {
				return
			}
		}
		t.Fatalf("seen is %q, want %q", got, want)
	}
	until("w/old=1")
	must(t, kv.Commit(b, kv.Put("w/new", []byte{}), kv.Put("x/other", []byte("2"))))
	must(t, kv.Commit(a, kv.Put("w/old", []byte("2"))))
	until("w/new= w/old=2")
	for i := range 100 {
		b.Begin(kv.Put("w/new", fmt.Append(nil, i)))
	}
	must(t, kv.Commit(b, kv.Delete("w/old")))
	until("w/new=99")
	stop()
	<-ended
	if wholes == 1 && told != 104 {
		t.Errorf("%d changes were told", told)
	}
}
