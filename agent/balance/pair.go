package balance

import (
	"io"
	"net"
	"time"
)

// keepAlive finds out within 30 s that the other side's machine is gone, where checks don't.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
}

// pair is a client's connection and the one to a server that it is passed on to.
type pair struct{ client, server *net.TCPConn }

// run copies both ways until both sides have ended or one fails. The kernel moves the bytes (splice).
func (p *pair) run() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.copy(p.server, p.client)
	}()
	p.copy(p.client, p.server)
	<-done
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

// abort closes a connection with a reset: what is under way is lost, and the other side needn't wait to know it.
func abort(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // closed already: nothing to do
	conn.Close()
}
