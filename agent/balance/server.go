package balance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Waits between checks when something is odd.
const (
	retryAfter   = 200 * time.Millisecond // after a first bad check
	suspectAfter = 100 * time.Millisecond // at least, after a connection has failed
	// reachTimeout is how long a server's machine may take to acknowledge. Its kernel does that however busy its processes
	// are, so this is short where the limit for an answer is long.
	reachTimeout = 2 * time.Second
	ownInterval  = time.Second
)

// server is one API server.
type server struct {
	address string
	client  *http.Client
	hint    chan struct{} // a connection to it has failed

	mu     sync.Mutex
	health health
	pairs  map[*pair]struct{}
}

func newServer(address string, roots *x509.CertPool) *server {
	dialer := net.Dialer{Timeout: reachTimeout, Control: giveUpEarly}
	return &server{
		address: address, hint: make(chan struct{}, 1), pairs: map[*pair]struct{}{},
		client: &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
			DialContext:     dialer.DialContext, MaxIdleConnsPerHost: 1,
		}},
	}
}

// giveUpEarly makes a connection fail when the other machine acknowledges nothing for reachTimeout (tcp(7), TCP_USER_TIMEOUT).
func giveUpEarly(_, _ string, conn syscall.RawConn) error {
	var err error
	if cerr := conn.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(reachTimeout/time.Millisecond))
	}); cerr != nil {
		return cerr
	}
	return err
}

// watch checks a server until ctx ends.
func (b *Balancer) watch(ctx context.Context, s *server) {
	defer s.client.CloseIdleConnections()
	var told bool
	for {
		was := s.load().ready
		err := s.check(ctx, b.config.Timeout)
		if ctx.Err() != nil {
			return
		}
		is := s.judge(err)
		switch {
		case is != was:
			b.change(s, is, err)
		case !is && !told:
			b.config.Log.Info("API server is not ready yet", "server", s.address, "cause", err)
		}
		told = true
		if !s.wait(ctx, b.interval(s.address), err != nil && is) {
			return
		}
	}
}

// interval is how long it is until a server's next check.
func (b *Balancer) interval(address string) time.Duration {
	if address == b.config.Own {
		return min(b.config.Interval, ownInterval)
	}
	return b.config.Interval - b.config.Interval/10 + rand.N(b.config.Interval/5)
}

// wait is the time until the next check.
func (s *server) wait(ctx context.Context, interval time.Duration, odd bool) bool {
	if odd {
		interval = min(interval, retryAfter)
	}
	next := time.After(interval)
	select {
	case <-ctx.Done():
		return false
	case <-next:
		return true
	case <-s.hint:
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(min(interval, suspectAfter)):
		return true
	}
}

// check asks for readiness once. After a failure the next check makes a connection of its own.
func (s *server) check(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.address+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.client.CloseIdleConnections()
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return unwellError{resp.Status}
	}
	return nil
}

// unwellError is an answer that isn't the right one.
type unwellError struct{ status string }

func (e unwellError) Error() string { return "it answers " + e.status }

// find says what the outcome of a check means.
func find(err error) finding {
	var answer unwellError
	var op *net.OpError
	switch {
	case err == nil:
		return good
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.As(err, &answer):
		return unwell
	case errors.Is(err, context.DeadlineExceeded) && !(errors.As(err, &op) && op.Op == "dial"):
		return unwell // connected, and no answer
	}
	return unreachable
}

// judge counts an answer and says whether the server is ready now.
func (s *server) judge(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health = s.health.next(find(err), time.Now())
	return s.health.ready
}

// change says that a server is ready or ejected, and moves connections away from those that aren't ready.
func (b *Balancer) change(s *server, ready bool, cause error) {
	b.changed.Lock()
	defer b.changed.Unlock()
	if ready {
		b.config.Log.Info("API server is ready", "server", s.address)
	} else {
		b.config.Log.Warn("API server is no longer ready", "server", s.address, "cause", cause)
	}
	var others bool
	for _, o := range b.servers {
		others = others || o.load().ready
	}
	for _, o := range b.servers {
		if others && !o.load().ready {
			o.closeAll()
		}
	}
	if b.config.Changed != nil {
		b.config.Changed(s.address, ready)
	}
}

// suspect has the server checked soon.
func (s *server) suspect() {
	select {
	case s.hint <- struct{}{}:
	default:
	}
}

func (s *server) load() load {
	s.mu.Lock()
	defer s.mu.Unlock()
	return load{ready: s.health.ready, connections: len(s.pairs)}
}

// add notes a connection, unless the server was ready when it was chosen and no longer is.
func (s *server) add(p *pair, ready bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ready && !s.health.ready {
		return false
	}
	s.pairs[p] = struct{}{}
	return true
}

func (s *server) remove(p *pair) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pairs, p)
}

func (s *server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.pairs {
		p.eject()
	}
}
