package balance

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"
)

// talker is a server that speaks no TLS: its checks fail, and so it is tried like all when none is ready.
func talker(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	return l.Addr().String()
}

// reset ends a connection as a killed process does.
func reset(conn net.Conn) { abort(conn.(*net.TCPConn)) }

// between connects a client with servers, of which the first is tried first.
func between(t *testing.T, servers ...string) net.Conn {
	t.Helper()
	b, err := New(Config{Servers: servers, Roots: x509.NewCertPool(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range b.servers { // its connections make a server come later
		for range i {
			s.pairs[&pair{}] = struct{}{}
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.pass(context.Background(), other.(*net.TCPConn))
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestServerThatDiesBeforeItAnswers: a server takes a connection and is gone, before or after it has heard the client. The client is another
// one's, which hears all that was said, and notices nothing.
func TestServerThatDiesBeforeItAnswers(t *testing.T) {
	hello := bytes.Repeat([]byte("hello "), 500)
	echo := func(conn net.Conn) {
		all := make([]byte, len(hello))
		if _, err := io.ReadFull(conn, all); err == nil {
			_, _ = conn.Write(all)
			_, _ = io.Copy(conn, conn)
		}
	}
	for name, dying := range map[string]func(net.Conn){
		"at once": reset,
		"when it has heard": func(conn net.Conn) {
			_, _ = io.ReadFull(conn, make([]byte, 10))
			reset(conn)
		},
		"without a reset": func(conn net.Conn) { _, _ = io.ReadFull(conn, make([]byte, len(hello))) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := between(t, talker(t, dying), talker(t, dying), talker(t, echo))
			for _, part := range [][]byte{hello[:1000], hello[1000:]} { // what is said comes in parts
				if _, err := conn.Write(part); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond)
			}
			got := make([]byte, len(hello))
			if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, hello) {
				t.Fatalf("got %.20q, %v", got, err)
			}
			more := bytes.Repeat([]byte("more "), 100_000)
			go func() { _, _ = conn.Write(more) }()
			got = make([]byte, len(more))
			if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, more) {
				t.Fatalf("afterwards: %v", err)
			}
		})
	}
}

// TestServerThatDiesAfterItAnswered: what was asked may have been done, so the client must know, and no other server is asked.
func TestServerThatDiesAfterItAnswered(t *testing.T) {
	conn := between(t,
		talker(t, func(conn net.Conn) {
			_, _ = io.ReadFull(conn, make([]byte, 5))
			_, _ = conn.Write([]byte("first"))
			_, _ = io.ReadFull(conn, make([]byte, 5))
			reset(conn)
		}),
		talker(t, func(net.Conn) { t.Error("another server is asked") }))
	got := make([]byte, 5)
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "first" {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := conn.Write([]byte("again")); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(got); err == nil {
		t.Errorf("the client hears %q", got[:n])
	}
}

// TestLongGreeting: what is more than the balancer remembers is said to one server alone.
func TestLongGreeting(t *testing.T) {
	conn := between(t,
		talker(t, func(conn net.Conn) {
			_, _ = io.ReadFull(conn, make([]byte, maxGreeting+1000))
			reset(conn)
		}),
		talker(t, func(net.Conn) { t.Error("another server is asked") }))
	if _, err := conn.Write(make([]byte, maxGreeting+1000)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 10)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the client hears %d bytes, %v", n, err)
	}
}

// TestClientThatOnlyEnds: a client that has said all it will gets the answer to it.
func TestClientThatOnlyEnds(t *testing.T) {
	conn := between(t, talker(t, func(conn net.Conn) {
		all, _ := io.ReadAll(conn)
		_, _ = conn.Write(append(all, '!'))
	}))
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello!" {
		t.Errorf("got %q, %v", got, err)
	}
}
