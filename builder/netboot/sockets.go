package netboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Ports (IANA).
const (
	portDHCP = 67
	portBoot = 4011 // boot servers and proxyDHCP (PXE specification 2.1)
	portTFTP = 69
)

// sockets are the server's, bound to one interface.
type sockets struct {
	link   *net.Interface
	server netip.Addr
	dhcp   *net.UDPConn
	boot   *net.UDPConn // nil: not a proxy
	tftp   *net.UDPConn
	http   net.Listener
	secure net.Listener // nil: no TLS
	open   []io.Closer
}

// bind finds the interface and binds every socket (securePort 0: none for TLS), or says why not and what to do.
func bind(name string, site *Site, httpPort, securePort int) (*sockets, error) {
	server := site.Server
	link, err := findInterface(name, netip.PrefixFrom(server, site.Subnet.Bits()))
	if err != nil {
		return nil, err
	}
	s := &sockets{link: link, server: server}
	if s.dhcp, err = listenUDP(link.Name, netip.AddrPortFrom(netip.IPv4Unspecified(), portDHCP)); err != nil {
		return nil, explain("DHCP", "udp", portDHCP, err)
	}
	s.open = append(s.open, s.dhcp)
	if site.Proxy {
		if s.boot, err = listenUDP(link.Name, netip.AddrPortFrom(server, portBoot)); err != nil {
			s.close()
			return nil, explain("proxyDHCP", "udp", portBoot, err)
		}
		s.open = append(s.open, s.boot)
	}
	if s.tftp, err = listenUDP(link.Name, netip.AddrPortFrom(server, portTFTP)); err != nil {
		s.close()
		return nil, explain("TFTP", "udp", portTFTP, err)
	}
	s.open = append(s.open, s.tftp)
	if s.http, err = net.Listen("tcp", netip.AddrPortFrom(server, uint16(httpPort)).String()); err != nil {
		s.close()
		return nil, explain("HTTP", "tcp", httpPort, err)
	}
	s.open = append(s.open, s.http)
	if securePort != 0 {
		if s.secure, err = net.Listen("tcp", netip.AddrPortFrom(server, uint16(securePort)).String()); err != nil {
			s.close()
			return nil, explain("HTTPS", "tcp", securePort, err)
		}
		s.open = append(s.open, s.secure)
	}
	return s, nil
}

func (s *sockets) close() {
	if s == nil {
		return
	}
	for _, c := range s.open {
		c.Close()
	}
}

// transfer opens the socket of one TFTP transfer.
func (s *sockets) transfer() (*net.UDPConn, error) {
	return listenUDP(s.link.Name, netip.AddrPortFrom(s.server, 0))
}

// listenUDP binds a UDP socket to an interface, allowed to broadcast.
func listenUDP(link string, at netip.AddrPort) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if control := raw.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, link),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
			if at.Port() != 0 {
				makeRoom(int(fd))
			}
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
		return fmt.Errorf("cannot serve %s on port %d: no right to (run as root, or give the program CAP_NET_BIND_SERVICE and CAP_NET_ADMIN): %w", service, port, err)
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
