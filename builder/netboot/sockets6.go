package netboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// portDHCP6 is where DHCPv6 servers and relays hear, portClient6 where clients do (RFC 8415 section 7.2).
const (
	portDHCP6   = 547
	portClient6 = 546
)

// multicast6 are the groups that a DHCPv6 server hears: all servers and relays on the link, all servers of the site (RFC 8415 section 7.1).
var multicast6 = [...]net.IP{net.ParseIP("ff02::1:2"), net.ParseIP("ff05::1:3")}

// sockets6 are the server's for UDP over IPv6, bound to the interface that has its address.
type sockets6 struct {
	link       *net.Interface
	server     netip.Addr
	dhcp, tftp *net.UDPConn
}

// bind6 binds the sockets for IPv6, or says why not and what to do. What it has bound close closes. Those for TCP are like the others.
func (s *sockets) bind6(six *IPv6, httpPort, securePort int) (err error) {
	server := six.Server
	link, err := s.link6(six)
	if err != nil {
		return err
	}
	s.six = &sockets6{link: link, server: server}
	if s.six.dhcp, err = datagrams(s.handed, link.Name, netip.AddrPortFrom(netip.IPv6Unspecified(), portDHCP6)); err != nil {
		return explain("DHCPv6", "udp", portDHCP6, err)
	}
	for _, group := range multicast6 {
		if err := ipv6.NewPacketConn(s.six.dhcp).JoinGroup(link, &net.UDPAddr{IP: group}); err != nil && !errors.Is(err, unix.EADDRINUSE) { // a socket that was handed over has joined already
			return fmt.Errorf("cannot serve DHCPv6: cannot join %s on %s (is IPv6 off there?): %w", group, link.Name, err)
		}
	}
	if s.six.tftp, err = datagrams(s.handed, link.Name, netip.AddrPortFrom(server, portTFTP)); err != nil {
		return explain("TFTP", "udp", portTFTP, err)
	}
	plain, err := s.listen(netip.AddrPortFrom(server, uint16(httpPort)))
	if err != nil {
		return explain("HTTP", "tcp", httpPort, err)
	}
	s.http = append(s.http, plain)
	if securePort == 0 {
		return nil
	}
	secure, err := s.listen(netip.AddrPortFrom(server, uint16(securePort)))
	if err != nil {
		return explain("HTTPS", "tcp", securePort, err)
	}
	s.secure = append(s.secure, secure)
	return nil
}

// link6 is the interface that has the server's IPv6 address.
func (s *sockets) link6(six *IPv6) (link *net.Interface, err error) {
	for _, w := range s.wires {
		has, err := hasAddress(w.link, six.Server)
		if err != nil {
			return nil, err
		}
		if has {
			link = w.link
		}
	}
	if link == nil {
		first := s.wires[0].link.Name
		return nil, fmt.Errorf("cannot serve IPv6 on %s: it lacks the server's address (ip address add %s dev %s)", first, netip.PrefixFrom(six.Server, six.Subnet.Bits()), first)
	}
	return link, nil
}

// transfer opens the socket of one TFTP transfer over IPv6.
func (s *sockets6) transfer() (*net.UDPConn, error) {
	return listenUDP6(s.link.Name, netip.AddrPortFrom(s.server, 0))
}

func (s *sockets6) close() {
	if s == nil {
		return
	}
	for _, c := range []*net.UDPConn{s.dhcp, s.tftp} {
		if c != nil {
			c.Close()
		}
	}
}

// freely lets a socket have an address that the kernel still looks for duplicates of, a second or two after it was added (RFC 4862).
func freely(link string) func(_, _ string, raw syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var err error
		if control := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
			if link != "" {
				err = errors.Join(err, unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, link))
			}
		}); control != nil {
			return control
		}
		return err
	}
}

func listenUDP6(link string, at netip.AddrPort) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: freely(link)}
	conn, err := config.ListenPacket(context.Background(), "udp6", at.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

func listenTCP6(at netip.AddrPort) (net.Listener, error) {
	config := net.ListenConfig{Control: freely("")}
	return config.Listen(context.Background(), "tcp6", at.String())
}
