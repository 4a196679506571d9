package etcdkv_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
	"github.com/slipway-os/slipway/builder/kv/etcdkv"
	"github.com/slipway-os/slipway/builder/kv/etcdkv/etcdtest"
	"github.com/slipway-os/slipway/builder/kv/kvtest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestEtcd(t *testing.T) {
	server := etcdtest.Start(t)
	open := func() (kv.Shared, error) { return etcdkv.Open(context.Background(), server.Place()) }
	kvtest.Run(t, func() (kv.Store, error) { return open() })
	kvtest.RunShared(t, open)
	t.Run("away", func(t *testing.T) { away(t, server) })
}

// away: with etcd gone, or there and silent, everything ends within a bounded time and says so; with etcd back all goes on.
func away(t *testing.T, server *etcdtest.Server) {
	s, err := etcdkv.Open(context.Background(), server.Place())
	must(t, err)
	defer s.Close()
	must(t, kv.Commit(s, kv.Put("k", []byte("1"))))
	var mu sync.Mutex
	seen := ""
	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.Watch(ctx, "k", func(whole bool, entries []kv.Entry) {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range entries {
				seen = string(e.Value)
			}
		})
	}()
	defer func() { stop(); <-watched }()
	for i, fault := range []struct{ fails, heals func() }{{server.Kill, server.Run}, {server.Freeze, server.Thaw}} {
		fault.fails()
		began := time.Now()
		var group sync.WaitGroup
		for side := range 300 {
			group.Go(func() {
				if err := kv.Commit(s, kv.Put(fmt.Sprint("lost ", side), nil)); !errors.Is(err, kv.ErrAway) || !strings.Contains(err.Error(), "etcd at 127.0.0.1") {
					t.Errorf("a commit: %v", err)
				}
			})
		}
		group.Wait()
		if _, err := s.List("k"); !errors.Is(err, kv.ErrAway) {
			t.Errorf("a list: %v", err)
		}
		if took := time.Since(began); took > 30*time.Second { // 4 s; this machine may be busy
			t.Errorf("it took %v to say so", took)
		}
		if s.Away() == nil {
			t.Error("it is away, and isn't said to be")
		}
		fault.heals()
		value := fmt.Sprint("healed ", i)
		wait(t, func() bool { return s.Away() == nil })
		must(t, kv.Commit(s, kv.Put("k", []byte(value))))
		wait(t, func() bool { mu.Lock(); defer mu.Unlock(); return seen == value })
	}
}

func wait(t *testing.T, what func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !what(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never comes")
		}
	}
}

func TestParsePlace(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"etcd://10.0.0.1:2379/slipway", "etcd at 10.0.0.1:2379 under /slipway/"},
		{"etcd://10.0.0.1:2379,[fd00::1]:2379/a/b/", "etcd at 10.0.0.1:2379,[fd00::1]:2379 under /a/b/"},
		{"http://10.0.0.1:2379/slipway", "begin with etcd://"},
		{"etcd://10.0.0.1:2379", "prefix"},
		{"etcd://10.0.0.1:2379//", "prefix"},
		{"etcd://10.0.0.1/slipway", `"10.0.0.1" is no host and port`},
		{"etcd:///slipway", `"" is no host and port`},
		{"etcd://a:b/slipway", `"a:b" is no host and port`},
		{"etcd://10.0.0.1:2379,/slipway", `"" is no host and port`},
	} {
		place, err := etcdkv.ParsePlace(c.text)
		got := place.String()
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", c.text, got, c.want)
		}
	}
}

// TestNobodyThere: an etcd that isn't there is said within a bounded time, with where.
func TestNobodyThere(t *testing.T) {
	place, err := etcdkv.ParsePlace("etcd://127.0.0.1:1/slipway")
	must(t, err)
	if _, err := etcdkv.Open(t.Context(), place); !errors.Is(err, kv.ErrAway) || !strings.Contains(err.Error(), "etcd at 127.0.0.1:1") {
		t.Errorf("got %v", err)
	}
	place.Endpoints = []string{"10.0.0.1:2379"}
	if _, err := etcdkv.Open(t.Context(), place); err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("got %v", err)
	}
	if _, err := etcdkv.LoadTLS("nowhere", "nowhere", "nowhere"); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("got %v", err)
	}
}
