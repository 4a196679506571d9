package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-os/slipway/profiles/cluster"
)

const configMaps = "/api/v1/namespaces/default/configmaps"

// Of a load.
const (
	pace     = 50 * time.Millisecond // a write begins this often, whatever became of those before
	patience = 3 * time.Second       // a write's
)

// load writes ConfigMaps through the virtual address, each on a connection of its own, and remembers which were acknowledged.
// A write that isn't may have been done or not: it is not asked for.
type load struct {
	rack *rack
	name string
	text string // in each ConfigMap
	stop chan struct{}
	all  sync.WaitGroup

	mu   sync.Mutex
	acks []ack // in the order of their times
	last error // of a write that was not acknowledged
}

type ack struct {
	name string
	at   time.Time
}

// newLoad begins; the names of its ConfigMaps begin with name.
func (r *rack) newLoad(name string) *load {
	l := &load{rack: r, name: name, text: strings.Repeat("x", r.bytes), stop: make(chan struct{})}
	l.all.Go(func() {
		client := r.client()
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-l.stop:
				return
			case <-tick.C:
				l.all.Go(func() { l.write(client, fmt.Sprintf("%s-%d", name, i)) })
			}
		}
	})
	return l
}

func (l *load) write(client *http.Client, name string) {
	err := l.rack.create(client, name, l.text)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.last = err
		return
	}
	l.acks = append(l.acks, ack{name, time.Now()})
}

// create makes a ConfigMap through the virtual address.
func (r *rack) create(client *http.Client, name, text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	body, err := json.Marshal(map[string]any{"metadata": map[string]string{"name": name}, "data": map[string]string{"text": text}})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+r.cluster.Endpoint()+configMaps, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusCreated {
		return fmt.Errorf("a write is answered %s", answer.Status)
	}
	return nil
}

// steady waits for so many more acknowledged writes.
func (l *load) steady(t *testing.T, count int) {
	t.Helper()
	have := l.count()
	await(t, "acknowledged writes", func(context.Context) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if n := len(l.acks) - have; n < count {
			return fmt.Errorf("%d of %d; the last failure: %w", n, count, l.last)
		}
		return nil
	})
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acks)
}

// outage is the longest time without an acknowledged write since then.
func (l *load) outage(since time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, longest := since, time.Duration(0)
	for _, a := range l.acks {
		if a.at.After(since) {
			longest = max(longest, a.at.Sub(last))
			last = a.at
		}
	}
	return max(longest, time.Since(last))
}

// end ends the load, and wants every acknowledged write to be in what each of the API servers has.
func (l *load) end(t *testing.T) (writes int) {
	t.Helper()
	close(l.stop)
	l.all.Wait()
	for _, m := range l.rack.machines {
		if m.node.Role != cluster.RoleControlPlane {
			continue
		}
		there := l.rack.list(t, m)
		for _, a := range l.acks {
			if _, found := slices.BinarySearch(there, a.name); !found {
				t.Fatalf("the acknowledged write %s is lost, %s says", a.name, m.node.Name)
			}
		}
	}
	return len(l.acks)
}

// list is the names of ConfigMaps that a machine's API server has, sorted.
func (r *rack) list(t *testing.T, m *machine) []string {
	t.Helper()
	var names []string
	await(t, "the list of "+m.node.Name, func(ctx context.Context) error {
		var list struct {
			Items []struct{ Metadata struct{ Name string } }
		}
		if err := r.get(ctx, r.address(m), configMaps, &list); err != nil {
			return err
		}
		names = names[:0]
		for _, i := range list.Items {
			names = append(names, i.Metadata.Name)
		}
		return nil
	})
	slices.Sort(names)
	return names
}

// get reads an object of an API server.
func (r *rack) get(ctx context.Context, address, path string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+path, nil)
	if err != nil {
		return err
	}
	answer, err := r.client().Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s is answered %s", path, answer.Status)
	}
	return json.NewDecoder(answer.Body).Decode(out)
}
