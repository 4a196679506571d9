package netboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/builder/handed"
)

// Ports (IANA).
const (
	portDHCP = 67
	portBoot = 4011 // boot servers and proxyDHCP (PXE specification 2.1)
	portTFTP = 69
)

// sockets are the server's: those for UDP on each interface, those for TCP at each of its addresses.
type sockets struct {
	wires  []*wire
	handed *handed.Sockets // that are used where they fit
	http   []net.Listener
	secure []net.Listener // none: no TLS
	six    *sockets6      // nil: no IPv6
}

// bind finds the interfaces and binds every socket (securePort 0: none for TLS), or says why not and what to do.
func bind(names []string, site *Site, httpPort, securePort int, from *handed.Sockets) (*sockets, error) {
	wires, err := findWires(names, site)
	if err != nil {
		return nil, err
	}
	for _, w := range wires {
		w.handed = from
	}
	s := &sockets{wires: wires, handed: from}
	if err := s.fit(site, httpPort, securePort); err != nil {
		return nil, err
	}
	if err := s.open(site, httpPort, securePort); err != nil {
		s.close()
		return nil, err
	}
	if six := site.ipv6(); six != nil {
		if err := s.bind6(six, httpPort, securePort); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *sockets) open(site *Site, httpPort, securePort int) error {
	for _, w := range s.wires {
		if err := w.open(site.Proxy); err != nil {
			return err
		}
	}
	for _, server := range site.servers() {
		plain, err := s.listen(netip.AddrPortFrom(server, uint16(httpPort)))
		if err != nil {
			return explain("HTTP", "tcp", httpPort, err)
		}
		s.http = append(s.http, plain)
		if securePort == 0 {
			continue
		}
		secure, err := s.listen(netip.AddrPortFrom(server, uint16(securePort)))
		if err != nil {
			return explain("HTTPS", "tcp", securePort, err)
		}
		s.secure = append(s.secure, secure)
	}
	return nil
}

func (s *sockets) close() {
	if s == nil {
		return
	}
	for _, w := range s.wires {
		w.close()
	}
	for _, l := range append(s.http, s.secure...) {
		l.Close()
	}
	s.six.close()
}

// listen is the TCP socket for an address: the one that was handed over, or one that is bound now.
func (s *sockets) listen(at netip.AddrPort) (net.Listener, error) {
	switch l, err := s.handed.Listener(at); {
	case l != nil || err != nil:
		return l, err
	case at.Addr().Is6():
		return listenTCP6(at)
	}
	return net.Listen("tcp", at.String())
}

// datagrams is the UDP socket for an address on an interface: the one that was handed over, or one that is bound now.
func datagrams(from *handed.Sockets, link string, at netip.AddrPort) (*net.UDPConn, error) {
	conn, err := from.Datagrams(link, at)
	switch {
	case err != nil:
		return nil, err
	case conn == nil && at.Addr().Is6():
		return listenUDP6(link, at)
	case conn == nil:
		return listenUDP(link, at)
	}
	if err := broadcasts(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// fit makes sure that whatever was handed over is one of the sockets that are served on.
func (s *sockets) fit(site *Site, httpPort, securePort int) error {
	var wants []handed.Want
	udp := func(what, link string, at netip.Addr, port uint16) {
		wants = append(wants, handed.Want{For: what, Protocol: handed.UDP, Link: link, Address: netip.AddrPortFrom(at, port)})
	}
	tcp := func(at netip.Addr) {
		wants = append(wants, handed.Want{For: "HTTP", Protocol: handed.TCP, Address: netip.AddrPortFrom(at, uint16(httpPort))})
		if securePort != 0 {
			wants = append(wants, handed.Want{For: "HTTPS", Protocol: handed.TCP, Address: netip.AddrPortFrom(at, uint16(securePort))})
		}
	}
	for _, w := range s.wires {
		udp("DHCP", w.link.Name, netip.IPv4Unspecified(), portDHCP)
		for _, server := range w.servers {
			udp("TFTP", w.link.Name, server, portTFTP)
			if site.Proxy {
				udp("proxyDHCP", w.link.Name, server, portBoot)
			}
		}
	}
	for _, server := range site.servers() {
		tcp(server)
	}
	if six := site.ipv6(); six != nil {
		link, err := s.link6(six)
		if err != nil {
			return err
		}
		udp("DHCPv6", link.Name, netip.IPv6Unspecified(), portDHCP6)
		udp("TFTP", link.Name, six.Server, portTFTP)
		tcp(six.Server)
	}
	return s.handed.Misfits(wants)
}

// broadcasts lets a socket broadcast.
func broadcasts(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	if control := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1) }); control != nil {
		return control
	}
	return err
}

// listenUDP binds a UDP socket to an interface, allowed to broadcast.
func listenUDP(link string, at netip.AddrPort) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if control := raw.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, link),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
		}); control != nil {
			return control
		}
		return err
	}}
	conn, err := config.ListenPacket(context.Background(), "udp4", at.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// roomBytes is what the kernel may keep of requests that were not read yet: some thousand machines that are switched on together.
const roomBytes = 8 << 20

// roomy has the kernel keep more than its default. Without CAP_NET_ADMIN it keeps what net.core.rmem_max allows.
func roomy(conn *net.UDPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, roomBytes) })
	if err != nil {
		_ = conn.SetReadBuffer(roomBytes)
	}
}

// findInterface finds the interface by name, and makes sure it has the server's address; without a name it finds the one
// that has it.
func findInterface(name string, server netip.Prefix) (*net.Interface, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("cannot list interfaces: %w", err)
	}
	var names []string
	for i := range links {
		link := &links[i]
		names = append(names, link.Name)
		if name != "" && link.Name != name {
			continue
		}
		has, err := hasAddress(link, server.Addr())
		switch {
		case err != nil:
			return nil, err
		case has && link.Flags&net.FlagUp == 0:
			return nil, fmt.Errorf("cannot serve on %s: it is down (ip link set %s up)", link.Name, link.Name)
		case has:
			return link, nil
		case name != "":
			return nil, fmt.Errorf("cannot serve on %s: it lacks the server's address (ip address add %s dev %s)", name, server, name)
		}
	}
	if name != "" {
		return nil, fmt.Errorf("cannot serve on %s: there is no such interface (there are: %s)", name, strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("cannot serve: no interface has the server's address %s (add it: ip address add %s dev INTERFACE)", server.Addr(), server)
}

func hasAddress(link *net.Interface, want netip.Addr) (bool, error) {
	addresses, err := link.Addrs()
	if err != nil {
		return false, fmt.Errorf("cannot list the addresses of %s: %w", link.Name, err)
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == want {
			return true, nil
		}
	}
	return false, nil
}

// explain turns a bind error into what a person can act on.
func explain(service, network string, port int, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		who := "another program"
		if found := portHolder(network, port); found != "" {
			who = found
		}
		return fmt.Errorf("cannot serve %s: %s holds %s port %d (stop it, or serve from another machine): %w", service, who, network, port, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("cannot serve %s on port %d: no right to (run as root, give the program CAP_NET_BIND_SERVICE and CAP_NET_ADMIN, or have systemd hand the socket over): %w", service, port, err)
	}
	return fmt.Errorf("cannot serve %s on port %d: %w", service, port, err)
}

// portHolder names the process that holds a port, as far as /proc tells ("dnsmasq (process 123)"), or is empty.
func portHolder(network string, port int) string {
	const listening = "0A" // TCP state in /proc/net/tcp
	for _, table := range []string{network, network + "6"} {
		text, err := os.ReadFile("/proc/thread-self/net/" + table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) < 10 || !strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) || (network == "tcp" && fields[3] != listening) {
				continue
			}
			if found := socketOwner(fields[9]); found != "" {
				return found
			}
		}
	}
	return ""
}

func socketOwner(inode string) string {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || target != "socket:["+inode+"]" {
			continue
		}
		pid := strings.Split(link, "/")[2]
		if _, err := strconv.Atoi(pid); err != nil {
			continue
		}
		name, _ := os.ReadFile("/proc/" + pid + "/comm")
		return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), pid)
	}
	return ""
}
