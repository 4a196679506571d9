package secure

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Servers are the boot servers of a site: all serve the same at the same ports, and the machine stays with one until that isn't there any
// more. The zero Servers knows no others.
type Servers struct {
	mu     sync.Mutex
	others []netip.Addr
	known  []string // all hosts of the last dial
	first  string   // the host that is asked first
}

// Add tells of further servers.
func (s *Servers) Add(others ...netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range others {
		if !slices.Contains(s.others, o) {
			s.others = append(s.others, o)
		}
	}
}

// Next has the next server asked first from now on: the present one is there, but is of no help.
func (s *Servers) Next() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.known, s.first); i >= 0 {
		s.first = s.known[(i+1)%len(s.known)]
	}
}

// hosts are all servers, in the order in which they are asked.
func (s *Servers) hosts(named string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = []string{named}
	for _, o := range s.others {
		if o.String() != named {
			s.known = append(s.known, o.String())
		}
	}
	begin := max(0, slices.Index(s.known, s.first))
	return slices.Concat(s.known[begin:], s.known[:begin])
}

// Dial connects to the server of an address, or else to another one at the same port. It is for http.Transport.
func (s *Servers) Dial(ctx context.Context, kind, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	named, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	hosts := s.hosts(named)
	if len(hosts) > 1 {
		dialer.Timeout = 5 * time.Second
	}
	var failed error
	for _, host := range hosts {
		conn, err := dialer.DialContext(ctx, kind, net.JoinHostPort(host, port))
		if err == nil {
			s.mu.Lock()
			s.first = host
			s.mu.Unlock()
			return conn, nil
		}
		failed = err
		if ctx.Err() != nil {
			break
		}
	}
	if len(hosts) > 1 {
		failed = fmt.Errorf("none of %d boot servers answers: %w", len(hosts), failed)
	}
	return nil, failed
}
