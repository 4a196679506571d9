package reach

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

func message(t testing.TB, kind icmp.Type, data string) []byte {
	t.Helper()
	b, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: 1, Seq: 2, Data: []byte(data)}}).Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRead: only answers to this run's requests count.
func TestRead(t *testing.T) {
	w := &watch{nonce: [8]byte([]byte("nonce123"))}
	good := message(t, ipv4.ICMPTypeEchoReply, "nonce123\x00\x00\x00\x00\x00\x00\x01\x02")
	if n, ok := w.read(good); !ok || n != 258 {
		t.Errorf("round %d, %v", n, ok)
	}
	for what, b := range map[string][]byte{
		"nothing":                 nil,
		"half a message":          good[:6],
		"a request":               message(t, ipv4.ICMPTypeEcho, "nonce123\x00\x00\x00\x00\x00\x00\x01\x02"),
		"an answer to another":    message(t, ipv4.ICMPTypeEchoReply, "nonce124\x00\x00\x00\x00\x00\x00\x01\x02"),
		"an answer without round": message(t, ipv4.ICMPTypeEchoReply, "nonce123"),
		"a longer answer":         message(t, ipv4.ICMPTypeEchoReply, "nonce123\x00\x00\x00\x00\x00\x00\x01\x02x"),
	} {
		if n, ok := w.read(b); ok {
			t.Errorf("%s counts for round %d", what, n)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(message(f, ipv4.ICMPTypeEchoReply, "nonce123\x00\x00\x00\x00\x00\x00\x01\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		w := &watch{nonce: [8]byte([]byte("nonce123"))}
		if _, ok := w.read(b); ok && !strings.Contains(string(b), "nonce123") {
			t.Error("an answer to somebody else counts")
		}
	})
}

// TestLoopback: addresses of this machine answer, and one that is nobody's is no majority's loss.
func TestLoopback(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("raw sockets need root")
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	own := netip.MustParseAddr("127.0.0.1")
	w, err := open(Config{Source: own, Peers: []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("192.0.2.1")}, Interval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer w.conn.Close()
	context.AfterFunc(ctx, func() { w.conn.Close() })
	go func() { _ = w.receive() }() // until the socket is closed
	for {
		w.round()
		w.mu.Lock()
		reached := w.tally.reached
		w.mu.Unlock()
		if reached {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func TestFaults(t *testing.T) {
	err := Run(t.Context(), Config{Source: netip.MustParseAddr("::1"), Peers: []netip.Addr{netip.MustParseAddr("127.0.0.2")}, Interval: time.Second})
	if err == nil || !strings.HasSuffix(err.Error(), "::1 is not IPv4") {
		t.Error(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := Run(ctx, Config{}); err != nil {
		t.Errorf("a machine without peers: %v", err)
	}
}
