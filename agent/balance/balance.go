// Package balance is a TCP balancer to a cluster's API servers, for one machine: it listens, and passes each connection
// on to a server that is ready. TLS stays between client and server.
//
// Words: a server is ready when its /readyz answers 200; it is ejected when it no longer does, and its connections are
// closed so that clients connect anew at once; it returns with the first good answer. As long as one server is ready, no
// connection stays with one that isn't. When none is, connections are tried with all of them: a check that errs must not
// make things worse.
//
// It knows no cluster document and holds no address but the listener's (agent/vrrp has the virtual one).
package balance

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Config is what a balancer needs. Zero durations and limits stand for their defaults.
type Config struct {
	Servers []string       // host:port, one or more
	Roots   *x509.CertPool // whom servers' certificates must be signed by
	Log     *slog.Logger
	// Changed is told when a server becomes ready and when it is ejected. It must return soon.
	Changed func(server string, ready bool)

	// Interval is between checks of a server: 3 s, more or less, so that not all nodes of a rack ask at the same time. A
	// connection that fails has its server checked at once.
	Interval time.Duration
	Own      string        // the server on this machine is checked every second: others depend on what is known of it
	Timeout  time.Duration // of a check's answer; 10 s: a busy server is slow, and better than none
	Limit    int           // connections at a time; 2048. Others wait in the listener's queue.
}

// dialTimeout bounds how long one server may take to accept a connection before the next one is tried.
const dialTimeout = 3 * time.Second

// Balancer passes connections on. It is used once.
type Balancer struct {
	config  Config
	servers []*server
	changed sync.Mutex // one change at a time
}

// New makes a balancer.
func New(c Config) (*Balancer, error) {
	if len(c.Servers) == 0 {
		return nil, errors.New("cannot balance: there is no server")
	}
	if c.Interval == 0 {
		c.Interval = 3 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Limit == 0 {
		c.Limit = 2048
	}
	b := &Balancer{config: c}
	for _, address := range c.Servers {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, fmt.Errorf("cannot balance: server %q: %w", address, err)
		}
		b.servers = append(b.servers, newServer(address, c.Roots))
	}
	return b, nil
}

// Serve checks the servers and passes connections on until ctx ends; then it closes the listener and all connections.
// The error is nil when ctx ended.
func (b *Balancer) Serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer b.closeAll()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	for _, s := range b.servers {
		tasks.Go(func() { b.watch(ctx, s) })
	}
	room := make(chan struct{}, b.config.Limit)
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := listener.Accept()
		if err != nil {
			<-room
			if ctx.Err() != nil {
				return nil
			}
			if pause(ctx, err) {
				continue
			}
			return fmt.Errorf("cannot accept connections: %w", err)
		}
		tasks.Go(func() {
			defer func() { <-room }()
			b.pass(ctx, conn.(*net.TCPConn))
		})
	}
}

// pause waits a little after an error that another connection's end may mend (no more file descriptors), and says
// whether to go on.
func pause(ctx context.Context, err error) bool {
	var temporary interface{ Temporary() bool }
	if !errors.As(err, &temporary) || !temporary.Temporary() {
		return false
	}
	select {
	case <-ctx.Done():
	case <-time.After(50 * time.Millisecond):
	}
	return true
}

// pass connects a client with a server, and returns when that connection has ended.
func (b *Balancer) pass(ctx context.Context, client *net.TCPConn) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive()}
	var g greeting
	for _, choice := range order(b.loads(), rand.IntN(len(b.servers))) {
		s := b.servers[choice.server]
		conn, err := dialer.DialContext(ctx, "tcp", s.address)
		if err != nil {
			s.suspect()
			continue
		}
		p := &pair{client: client, server: conn.(*net.TCPConn)}
		if !s.add(p, choice.ready) { // ejected since: another one is better now
			conn.Close()
			continue
		}
		served := ctx.Err() != nil || p.run(&g)
		s.remove(p)
		if !served {
			s.suspect()
			continue
		}
		p.close()
		return
	}
	abort(client)
}

// loads is the servers' present state.
func (b *Balancer) loads() []load {
	list := make([]load, len(b.servers))
	for i, s := range b.servers {
		list[i] = s.load()
	}
	return list
}

func (b *Balancer) closeAll() {
	for _, s := range b.servers {
		s.closeAll()
	}
}
