package netboot

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Bounds of HTTP's connections.
const (
	maxGuests      = 4096 // at the same time, in all
	maxGuestsOfOne = 128  // of one address
	// slowest is what a client must take within patience, in bytes. One that stalls holds a file and a socket.
	slowest  = 512 << 10
	patience = 30 * time.Second
)

// crowd is a listener whose connections can't take a server's room from others: not by being many, not by being slow. It closes those of
// an address that has too many, and, where all are taken, the one that has said nothing for the longest time. A connection must take
// some of an answer every so often, however long it is.
type crowd struct {
	net.Listener
	log      *slog.Logger
	most     int
	mostOf   int
	patience time.Duration

	mu     sync.Mutex
	guests map[*guest]struct{}
	of     map[netip.Addr]int
	told   time.Time // when the log was told of connections that were closed
}

func newCrowd(l net.Listener, log *slog.Logger) *crowd {
	return &crowd{
		Listener: l, log: log, most: maxGuests, mostOf: maxGuestsOfOne, patience: patience, guests: map[*guest]struct{}{}, of: map[netip.Addr]int{},
	}
}

// Accept is part of net.Listener.
func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			return conn, nil
		}
		if g := c.enter(tcp); g != nil {
			return g, nil
		}
		conn.Close()
	}
}

// enter counts a connection in; nil: there is no room for it.
func (c *crowd) enter(conn *net.TCPConn) *guest {
	from, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
	g := &guest{TCPConn: conn, crowd: c, from: from.Addr().Unmap(), since: time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of[g.from] >= c.mostOf {
		c.tell("this address has the most there may be", g.from)
		return nil
	}
	if len(c.guests) >= c.most {
		longest := c.longest()
		if longest == nil {
			c.tell("there are the most there may be, and all are being answered", g.from)
			return nil
		}
		c.tell("there are the most there may be, and it has said nothing for the longest time", longest.from)
		c.remove(longest)
		longest.TCPConn.Close()
	}
	c.guests[g] = struct{}{}
	c.of[g.from]++
	return g
}

// longest is the guest that has said nothing for the longest time.
func (c *crowd) longest() *guest {
	var found *guest
	for g := range c.guests {
		if !g.answered && (found == nil || g.since.Before(found.since)) {
			found = g
		}
	}
	return found
}

// tell tells the log of a connection that is closed, once a minute; the lock is held.
func (c *crowd) tell(why string, from netip.Addr) {
	if time.Since(c.told) > time.Minute {
		c.told = time.Now()
		c.log.Warn("http: a connection is closed, and there may be more of these", "from", from, "reason", why, "connections", len(c.guests))
	}
}

// remove counts a guest out; the lock is held.
func (c *crowd) remove(g *guest) {
	if _, there := c.guests[g]; !there {
		return
	}
	delete(c.guests, g)
	if c.of[g.from]--; c.of[g.from] == 0 {
		delete(c.of, g.from)
	}
}

// guest is one connection.
type guest struct {
	*net.TCPConn
	crowd *crowd
	from  netip.Addr
	// The crowd's lock guards these.
	answered bool // it is, since
	since    time.Time
}

func (g *guest) turn(answered bool) {
	g.crowd.mu.Lock()
	defer g.crowd.mu.Unlock()
	if g.answered != answered {
		g.answered, g.since = answered, time.Now()
	}
}

// noteIdle notes that a connection waits for its next request.
func noteIdle(conn net.Conn, state http.ConnState) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if g, ok := conn.(*guest); ok && state == http.StateIdle {
		g.turn(false)
	}
}

// Read is part of net.Conn.
func (g *guest) Read(p []byte) (int, error) {
	n, err := g.TCPConn.Read(p)
	g.turn(false)
	return n, err
}

// Write is part of net.Conn.
func (g *guest) Write(p []byte) (written int, err error) {
	g.turn(true)
	for len(p) > 0 && err == nil {
		n := min(len(p), slowest)
		if err = g.SetWriteDeadline(time.Now().Add(g.crowd.patience)); err == nil {
			n, err = g.TCPConn.Write(p[:n])
			written += n
			p = p[n:]
		}
	}
	return written, err
}

// ReadFrom sends a file with sendfile. What net.TCPConn takes for one is an *os.File, or that within one io.LimitedReader.
func (g *guest) ReadFrom(r io.Reader) (sent int64, err error) {
	g.turn(true)
	limit, limited := r.(*io.LimitedReader)
	for {
		piece := &io.LimitedReader{R: r, N: slowest}
		if limited {
			piece.R, piece.N = limit.R, min(slowest, limit.N)
		}
		want := piece.N
		if want == 0 {
			return sent, nil
		}
		if err := g.SetWriteDeadline(time.Now().Add(g.crowd.patience)); err != nil {
			return sent, err
		}
		n, err := g.TCPConn.ReadFrom(piece)
		sent += n
		if limited {
			limit.N -= n
		}
		if err != nil || n < want {
			return sent, err
		}
	}
}

// Close is part of net.Conn.
func (g *guest) Close() error {
	g.crowd.mu.Lock()
	g.crowd.remove(g)
	g.crowd.mu.Unlock()
	return g.TCPConn.Close()
}
