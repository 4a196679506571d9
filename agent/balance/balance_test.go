package balance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// deadline bounds every wait of these tests. It says nothing of how long things take.
const deadline = 20 * time.Second

// api is an API server that can be made unready, hang and die.
type api struct {
	*httptest.Server
	address string
	unready atomic.Bool
	hang    chan struct{} // closed: answers go on
	hanging atomic.Bool
}

// start serves on an address, 127.0.0.1:0 for a new one.
func start(t *testing.T, address string) *api {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	a := &api{hang: make(chan struct{}), address: listener.Addr().String()}
	a.Server = httptest.NewUnstartedServer(http.HandlerFunc(a.answer))
	a.Server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	a.Listener.Close()
	a.Listener = listener
	a.StartTLS()
	t.Cleanup(func() { close(a.hang); a.die() })
	return a
}

func (a *api) answer(w http.ResponseWriter, r *http.Request) {
	switch {
	case a.hanging.Load():
		<-a.hang
	case r.URL.Path == "/readyz" && a.unready.Load():
		http.Error(w, "etcd failed", http.StatusInternalServerError)
	case r.URL.Path == "/watch":
		fmt.Fprintln(w, a.address)
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-a.hang:
		}
	default:
		fmt.Fprint(w, a.address)
	}
}

// die is what kill -9 does: the port is closed and so are all connections.
func (a *api) die() {
	a.Listener.Close()
	a.CloseClientConnections()
	a.Config.Close()
}

// changes collects what a balancer says of its servers.
type changes struct {
	mu    sync.Mutex
	ready map[string]bool
}

func (c *changes) changed(server string, ready bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready[server] = ready
}

func (c *changes) await(t *testing.T, a *api, ready bool) {
	t.Helper()
	until(t, fmt.Sprintf("%s ready: %v", a.address, ready), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.ready[a.address] == ready
	})
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never came: ", what)
		}
	}
}

// balancer runs a balancer to servers and returns its address.
func balancer(t *testing.T, c Config, servers ...*api) (string, *changes) {
	t.Helper()
	seen := &changes{ready: map[string]bool{}}
	c.Roots, c.Log, c.Changed = x509.NewCertPool(), slog.New(slog.DiscardHandler), seen.changed
	c.Interval = 50 * time.Millisecond
	for _, s := range servers {
		c.Servers = append(c.Servers, s.address)
		c.Roots.AddCert(s.Certificate())
	}
	b, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String(), seen
}

// client makes one connection after the other, like a component of Kubernetes.
func client(t *testing.T) *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // who answers is told by the body
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: deadline}
}

func get(c *http.Client, address string) (string, error) {
	resp, err := c.Get("https://" + address + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// retried is a request of a client that tries a broken connection once more.
func retried(c *http.Client, address string) (string, error) {
	body, err := get(c, address)
	if err != nil {
		body, err = get(c, address)
	}
	return body, err
}

func TestEveryServerGetsConnections(t *testing.T) {
	servers := []*api{start(t, "127.0.0.1:0"), start(t, "127.0.0.1:0"), start(t, "127.0.0.1:0")}
	address, seen := balancer(t, Config{}, servers...)
	for _, s := range servers {
		seen.await(t, s, true)
	}
	got := map[string]int{}
	for range 9 { // clients that stay
		body, err := get(client(t), address)
		if err != nil {
			t.Fatal(err)
		}
		got[body]++
	}
	for _, s := range servers {
		if got[s.address] != 3 {
			t.Errorf("connections are not spread evenly: %v", got)
		}
	}
}

// TestLossOfAnyServer: a client that tries again once sees no error when a server is killed, and the server gets
// connections again when it is back.
func TestLossOfAnyServer(t *testing.T) {
	servers := []*api{start(t, "127.0.0.1:0"), start(t, "127.0.0.1:0"), start(t, "127.0.0.1:0")}
	address, seen := balancer(t, Config{}, servers...)
	for _, s := range servers {
		seen.await(t, s, true)
	}
	for i, victim := range servers {
		clients := []*http.Client{client(t), client(t), client(t), client(t)}
		ask := func() {
			for _, c := range clients {
				if _, err := retried(c, address); err != nil {
					t.Errorf("server %d: a client saw %v", i, err)
				}
			}
		}
		ask()
		victim.die()
		for range 5 {
			ask()
		}
		seen.await(t, victim, false)
		ask()
		back := start(t, victim.address)
		seen.await(t, back, true)
		ask()
	}
}

// TestHangingServer: a server that accepts and answers nothing is ejected, and a watch that hangs on it ends.
func TestHangingServer(t *testing.T) {
	servers := []*api{start(t, "127.0.0.1:0"), start(t, "127.0.0.1:0")}
	address, seen := balancer(t, Config{Timeout: 200 * time.Millisecond}, servers...)
	for _, s := range servers {
		seen.await(t, s, true)
	}
	resp, err := client(t).Get("https://" + address + "/watch")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	line := make([]byte, 100)
	n, err := resp.Body.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		if s.address+"\n" == string(line[:n]) {
			s.hanging.Store(true)
			seen.await(t, s, false)
		}
	}
	if _, err := resp.Body.Read(line); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the watch of the hanging server was not closed: %v", err)
	}
	if body, err := get(client(t), address); err != nil || body+"\n" == string(line[:n]) {
		t.Errorf("a new connection went to %s: %v", body, err)
	}
}

// TestOneServer: a server that is not ready is still tried when there is no other one, and keeps its connections.
func TestOneServer(t *testing.T) {
	s := start(t, "127.0.0.1:0")
	address, seen := balancer(t, Config{}, s)
	seen.await(t, s, true)
	c := client(t)
	if _, err := get(c, address); err != nil {
		t.Fatal(err)
	}
	s.unready.Store(true)
	seen.await(t, s, false)
	for _, c := range []*http.Client{c, client(t)} {
		if _, err := get(c, address); err != nil {
			t.Errorf("the only server can't be reached though it answers: %v", err)
		}
	}
	s.die()
	if _, err := get(client(t), address); err == nil {
		t.Error("nobody listens, and somebody answered")
	}
}

// TestStrangeServer: a server that the cluster's authority doesn't vouch for is not ready.
func TestStrangeServer(t *testing.T) {
	s := start(t, "127.0.0.1:0")
	server := newServer(s.address, x509.NewCertPool())
	err := server.check(t.Context(), deadline)
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) || server.judge(err) {
		t.Errorf("got %v", err)
	}
}

// TestLimit: a connection over the limit waits until another one ends.
func TestLimit(t *testing.T) {
	s := start(t, "127.0.0.1:0")
	address, seen := balancer(t, Config{Limit: 1}, s)
	seen.await(t, s, true)
	first := client(t)
	if _, err := get(first, address); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := get(client(t), address)
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Fatalf("a second connection was passed on: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	first.CloseIdleConnections()
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// TestLastBytesArrive: the end of one direction doesn't cut the other one off.
func TestLastBytesArrive(t *testing.T) {
	const size = 8 << 20
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { // all of the request, then the answer, then the end
				defer conn.Close()
				n, _ := io.Copy(io.Discard, conn)
				_, _ = conn.Write(make([]byte, n))
			}()
		}
	}()
	address, _ := balancer(t, Config{Servers: []string{listener.Addr().String()}})
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, conn); n != size || err != nil {
		t.Errorf("%d of %d bytes came back: %v", n, size, err)
	}
}

func TestWrongServers(t *testing.T) {
	for _, servers := range [][]string{nil, {"10.1.0.11"}} {
		if _, err := New(Config{Servers: servers}); err == nil {
			t.Errorf("%q was taken", servers)
		}
	}
}
