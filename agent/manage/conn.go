package manage

import (
	"net"
	"sync"
)

// boundedConn gives its place back when it is closed, once.
type boundedConn struct {
	net.Conn
	free chan struct{}
	once sync.Once
}

func (c *boundedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.free })
	return err
}
