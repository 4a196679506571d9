package balance

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// keepAlive finds out within 30 s that the other side's machine is gone, where checks don't.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
}

// greeting is what a client says before a server answers: the beginning of a TLS handshake, which can be said again to another server,
// as nothing was asked with it yet.
type greeting struct {
	said  []byte
	lost  bool // it was over maxGreeting, and can't be said again
	ended bool // the client has ended its side
}

// maxGreeting is more than clients say before a server has answered, in bytes.
const maxGreeting = 16 << 10

// pair is a client's connection and the one to a server that it is passed on to.
type pair struct {
	client, server *net.TCPConn
	answered       atomic.Bool // the server has said something: from now on what is lost is the client's matter
}

// run copies both ways until both sides have ended or one fails. The kernel moves the bytes (splice) once the server has answered. It
// returns false when the server ended before that, as one does whose process was killed between taking the connection and reading from
// it: the client has noticed nothing, and the greeting can be said to another server.
func (p *pair) run(g *greeting) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.forward(g)
	}()
	first := make([]byte, 4<<10)
	n, err := p.server.Read(first)
	if n == 0 && err != nil && p.takeBack(g, done) {
		return false
	}
	p.answered.Store(true)
	if n > 0 {
		if _, err := p.client.Write(first[:n]); err != nil {
			p.abort()
		}
	}
	p.copy(p.client, p.server)
	<-done
	return true
}

// takeBack ends the connection to a server that has said nothing, and says whether another one may be greeted.
func (p *pair) takeBack(g *greeting, done <-chan struct{}) bool {
	abort(p.server)
	_ = p.client.SetReadDeadline(time.Unix(1, 0)) // forward may wait for the client
	<-done
	return !g.lost && !g.ended && p.client.SetReadDeadline(time.Time{}) == nil
}

// forward passes on what the client says, and remembers it until the server has answered.
func (p *pair) forward(g *greeting) {
	if len(g.said) > 0 {
		if _, err := p.server.Write(g.said); err != nil {
			return // run sees that the server has ended
		}
	}
	buffer := make([]byte, 4<<10)
	for !p.answered.Load() {
		n, err := p.client.Read(buffer)
		if g.lost = g.lost || len(g.said)+n > maxGreeting; !g.lost {
			g.said = append(g.said, buffer[:n]...)
		}
		if n > 0 {
			if _, err := p.server.Write(buffer[:n]); err != nil {
				if p.answered.Load() {
					p.abort()
				}
				return
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return
		case err == io.EOF:
			g.ended = true
			_ = p.server.CloseWrite() // one that has ended is seen by run
			return
		default:
			g.ended = true
			p.abort()
			return
		}
	}
	p.copy(p.server, p.client)
}

// copy passes one direction on, and its end.
func (p *pair) copy(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		p.abort()
		return
	}
	if err := to.CloseWrite(); err != nil {
		p.abort()
	}
}

// close ends both connections; what was sent before still arrives.
func (p *pair) close() {
	p.client.Close()
	p.server.Close()
}

// abort ends both connections at once.
func (p *pair) abort() {
	abort(p.client)
	abort(p.server)
}

// eject ends the connection to a server that is no longer ready, and the client's if the server had answered it: then it must know.
func (p *pair) eject() {
	if p.answered.Load() {
		abort(p.client)
	}
	abort(p.server)
}

// abort closes a connection with a reset: what is under way is lost, and the other side needn't wait to know it.
func abort(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // closed already: nothing to do
	conn.Close()
}
