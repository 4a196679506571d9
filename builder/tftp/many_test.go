package tftp

import (
	"bytes"
	"math/rand"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// TestSinglePort: every packet leaves from the port that requests come to, and each client has its own transfer.
func TestSinglePort(t *testing.T) {
	data := map[string][]byte{"a": random(50_000), "b": random(60_001)}
	server, ended := start(t, data, func(c *Config) { c.SinglePort, c.Timeout = true, 50*time.Millisecond })
	clients := map[string]*client{"a": dial(t, server), "b": dial(t, server)}
	for name, c := range clients {
		c.ask(name, "octet", "blksize", "1000", "windowsize", "8")
	}
	for name, c := range clients {
		if got := c.next(5 * time.Second); got == nil || got[1] != opOACK || c.peer != server {
			t.Fatalf("%s: got %q from %s, want an option acknowledgement from %s", name, got, c.peer, server)
		}
		c.ack(0)
		dice := rand.New(rand.NewSource(7))
		if got := c.receive(1000, 8, func() bool { return dice.Intn(30) == 0 }); !bytes.Equal(got, data[name]) {
			t.Errorf("%s: received %d bytes with another content, want %d", name, len(got), len(data[name]))
		}
		if c.peer != server {
			t.Errorf("%s: blocks come from %s, want %s", name, c.peer, server)
		}
		if tr := await(t, ended); tr.Err != nil {
			t.Errorf("%s: the transfer ended with %v", name, tr.Err)
		}
	}
}

// TestSinglePortBeginsAnew: a machine that starts again in mid-transfer, with the same port, gets its file from the beginning.
func TestSinglePortBeginsAnew(t *testing.T) {
	data := random(3000)
	server, ended := start(t, map[string][]byte{"f": data}, func(c *Config) { c.SinglePort, c.Timeout = true, time.Minute })
	c := dial(t, server)
	c.ask("f", "octet")
	c.next(5 * time.Second)
	c.ack(1)
	c.next(5 * time.Second)
	c.ask("f", "octet")
	if got := c.receive(512, 1, nil); !bytes.Equal(got, data) {
		t.Errorf("received %d bytes with another content, want %d", len(got), len(data))
	}
	if tr := await(t, ended); tr.Err != nil {
		t.Errorf("the transfer ended with %v", tr.Err)
	}
}

// TestHalfOpen: a thousand clients that ask and never take their answer cost little, and keep nobody out: not when they are as many as
// transfers there may be, nor when more come.
func TestHalfOpen(t *testing.T) {
	const many = 1000
	data := random(100_000)
	for _, single := range []bool{false, true} {
		var opened, closed atomic.Int64
		server, _ := start(t, nil, func(c *Config) {
			c.SinglePort, c.MaxTransfers, c.Timeout, c.Done = single, many, time.Minute, nil
			c.Open = func(string, netip.Addr) (File, error) {
				opened.Add(1)
				return counted{content{bytes.NewReader(data)}, &closed}, nil
			}
		})
		before, threads := heapInUse(), runtime.NumGoroutine()
		served := func() {
			t.Helper()
			c := dial(t, server)
			c.ask("f", "octet", "blksize", "1000", "windowsize", "8")
			c.next(5 * time.Second)
			c.ack(0)
			if got := c.receive(1000, 8, nil); !bytes.Equal(got, data) {
				t.Errorf("received %d bytes with another content, want %d", len(got), len(data))
			}
		}
		for i := range 3 * many / 2 {
			c := dialFrom(t, server, net.IPv4(127, 1, byte(i>>8), byte(i)))
			c.ask("f", "octet", "blksize", "1468", "windowsize", "32")
			if c.next(5*time.Second) == nil {
				t.Fatalf("client %d gets no answer", i)
			}
			c.conn.Close()
			if i%(many/4) == 0 {
				served()
			}
		}
		served()
		if now := opened.Load() - closed.Load(); now > many {
			t.Errorf("%d files are open, want at most %d", now, many)
		}
		if grown := int64(heapInUse()) - int64(before); grown > 4<<20 {
			t.Errorf("they cost %d bytes of memory, want at most 4 MiB", grown)
		}
		if more := runtime.NumGoroutine() - threads; more > 10 {
			t.Errorf("%d goroutines more than without them", more)
		}
	}
}

// heapInUse is how many bytes are in use.
func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// counted is a file that counts when it is closed.
type counted struct {
	content
	closed *atomic.Int64
}

func (c counted) Close() error {
	c.closed.Add(1)
	return nil
}
