package netboot

import (
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTooFewNeighbours(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gc_thresh3")
	if got := tooFewNeighbours(5000, file); got != "" {
		t.Errorf("nothing is known: %s", got)
	}
	write(t, file, "1024\n")
	if got := tooFewNeighbours(800, file); got != "" {
		t.Errorf("800 machines: %s", got)
	}
	if got := tooFewNeighbours(1000, file); !strings.Contains(got, "gc_thresh3=4000") {
		t.Errorf("1000 machines: %q", got)
	}
}

// TestInTurn: as many configurations are made at once as there are turns, each for its node, and one that fails gives its turn back.
func TestInTurn(t *testing.T) {
	var mu sync.Mutex
	now, most := 0, 0
	count := func(by int) {
		mu.Lock()
		defer mu.Unlock()
		now += by
		most = max(most, now)
	}
	render := inTurn(2, func(node string) ([]byte, error) {
		count(1)
		defer count(-1)
		time.Sleep(time.Millisecond)
		if strings.HasSuffix(node, "0") {
			return nil, errors.New("no " + node)
		}
		return []byte(node), nil
	})
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			node := string(rune('a'+i/10)) + string(rune('0'+i%10))
			got, err := render(node)
			if (i%10 == 0) != (err != nil) || err == nil && string(got) != node {
				t.Errorf("%s: got %q, %v", node, got, err)
			}
		})
	}
	wg.Wait()
	if most != 2 {
		t.Errorf("%d were made at the same time, want 2", most)
	}
}
