package netboot

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/builder/handed"
	"github.com/slipway-os/slipway/images/bootspec"
)

// held are sockets that somebody keeps for a server, as systemd does, by what was asked for.
type held struct {
	t     testing.TB
	lines []string
	files map[string]*os.File
}

// hold binds sockets: "udp 10.1.0.1:69 br0", "tcp 10.1.0.1:8080".
func hold(t testing.TB, lines ...string) *held {
	t.Helper()
	h := &held{t: t, lines: lines, files: map[string]*os.File{}}
	for _, line := range lines {
		f, err := holdOne(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		h.files[line] = f
		t.Cleanup(func() { f.Close() })
	}
	return h
}

// holdOne makes a socket with what systemd sets (socket_address_listen in its source).
func holdOne(line string) (*os.File, error) {
	fields := append(strings.Fields(line), "")
	at, err := netip.ParseAddrPort(fields[1])
	if err != nil {
		return nil, err
	}
	family, kind := unix.AF_INET6, unix.SOCK_DGRAM
	var to unix.Sockaddr = &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	if at.Addr().Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	if fields[0] == "tcp" {
		kind = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if fields[2] != "" {
		err = unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, fields[2])
	}
	if family == unix.AF_INET6 {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1))
	}
	err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, to))
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "slipway.socket"), nil
}

// list are the files in their order.
func (h *held) list() (files []*os.File) {
	for _, line := range h.lines {
		files = append(files, h.files[line])
	}
	return files
}

// hand is a set of descriptors for a server in this process.
func (h *held) hand() *handed.Sockets {
	h.t.Helper()
	var files []*os.File
	for _, f := range h.list() {
		raw, err := f.SyscallConn()
		must(h.t, err)
		must(h.t, raw.Control(func(fd uintptr) {
			var double int
			if double, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
				files = append(files, os.NewFile(uintptr(double), f.Name()))
			}
		}))
		must(h.t, err)
	}
	s, err := handed.New(files)
	must(h.t, err)
	return s
}

// waits says whether something waits in a UDP socket.
func (h *held) waits(line string) bool {
	h.t.Helper()
	raw, err := h.files[line].SyscallConn()
	must(h.t, err)
	bytes := 0
	must(h.t, raw.Control(func(fd uintptr) { bytes, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) }))
	must(h.t, err)
	return bytes > 0
}

// asked is what a machine has asked a server, once and without an answer yet.
type asked struct {
	t              testing.TB
	dhcp, tftp     *net.UDPConn
	plain, secured net.Conn
}

// asksAll has worker-1 send a DISCOVER and a request for its kernel, and open two TCP connections, each with a request.
func asksAll(t testing.TB, node *host, server string, authority []byte) *asked {
	t.Helper()
	a := &asked{t: t}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	must(t, node.in(func() (err error) {
		if a.dhcp, err = listenUDP("eth0", netip.MustParseAddrPort("0.0.0.0:68")); err != nil {
			return err
		}
		if a.tftp, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 1, 0, 21)}); err != nil {
			return err
		}
		if a.plain, err = net.DialTimeout("tcp4", server+":8080", 20*time.Second); err != nil {
			return err
		}
		a.secured, err = net.DialTimeout("tcp4", server+":7446", 20*time.Second)
		return err
	}))
	t.Cleanup(a.close)
	a.secured = tls.Client(a.secured, &tls.Config{RootCAs: roots, ServerName: bootspec.SecureName})
	deadline := time.Now().Add(time.Minute)
	must(t, errors.Join(a.dhcp.SetDeadline(deadline), a.tftp.SetDeadline(deadline), a.plain.SetDeadline(deadline), a.secured.SetDeadline(deadline)))
	_, err := a.dhcp.WriteToUDPAddrPort(request(t, "DISCOVER from="+worker1+" broadcast"), netip.MustParseAddrPort("255.255.255.255:67"))
	must(t, err)
	_, err = a.tftp.WriteToUDPAddrPort([]byte("\x00\x01"+workerUKI+"\x00octet\x00"), netip.MustParseAddrPort(server+":69"))
	must(t, err)
	_, err = a.plain.Write([]byte("GET /healthz HTTP/1.0\r\n\r\n"))
	must(t, err)
	return a
}

func (a *asked) close() { a.dhcp.Close(); a.tftp.Close(); a.plain.Close(); a.secured.Close() }

// answered wants an answer to everything.
func (a *asked) answered() {
	a.t.Helper()
	defer a.close()
	packet := make([]byte, 2000)
	n, from, err := a.dhcp.ReadFromUDPAddrPort(packet)
	if err != nil || n < 243 || packet[242] != 2 || netip.AddrFrom4([4]byte(packet[16:20])).String() != "10.1.0.21" {
		a.t.Errorf("DHCP: %v from %s, %d bytes", err, from, n)
	}
	if n, from, err = a.tftp.ReadFromUDPAddrPort(packet); err != nil || n < 4 || string(packet[:4]) != "\x00\x03\x00\x01" {
		a.t.Errorf("TFTP: %v from %s: %q", err, from, packet[:min(n, 64)])
	}
	if _, err := a.secured.Write([]byte("GET /healthz HTTP/1.0\r\n\r\n")); err != nil {
		a.t.Errorf("TLS: %v", err)
	}
	for name, conn := range map[string]net.Conn{"HTTP": a.plain, "HTTPS": a.secured} {
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode != http.StatusOK {
			a.t.Errorf("%s: %v %v", name, err, answer)
		}
	}
}

// TestHandedSockets: a server with no right to ports below 1024 serves on the sockets that it is given, and what machines ask while none
// runs, before the first start and between a kill and the next one, is answered by the one that comes.
func TestHandedSockets(t *testing.T) {
	network(t)
	f := newFleetAtRest(t, 1, nil)
	c := f.servers[0]
	var h *held
	must(t, c.in(func() error {
		h = hold(t, "udp 0.0.0.0:67 eth0", "udp 10.1.0.2:69 eth0", "tcp 10.1.0.2:8080", "tcp 10.1.0.2:7446")
		return nil
	}))
	c.config.handed = h.list()
	node := plug(t, worker1)
	node.has("10.1.0.21/24")
	for range 3 {
		a := asksAll(t, node, "10.1.0.2", []byte(c.config.Authority))
		waitFor(t, func() bool { return h.waits("udp 0.0.0.0:67 eth0") && h.waits("udp 10.1.0.2:69 eth0") })
		c.launch()
		a.answered()
		c.stop()
	}
}

// TestHandedSocketsStay: a server that ends closes nothing that isn't its own; and an interface that comes back is served on the same
// sockets, by that server and by the next.
func TestHandedSocketsStay(t *testing.T) {
	network(t)
	h := hold(t, "udp 0.0.0.0:67 br0", "udp 10.1.0.1:69 br0", "udp 10.1.0.1:4011 br0", "tcp 10.1.0.1:8080", "tcp 10.1.0.1:7446")
	h.lines = append(h.lines[:2:2], h.lines[3:]...) // not a proxy
	log := &journal{}
	config := configFor(t, log)
	config.TFTPSinglePort = true
	config.Handed = h.hand()
	_, stop := run(t, config)
	node := plug(t, worker1)
	must(t, node.udhcpc())
	if got := node.told("bound", "ip"); got != "ip=10.1.0.21" {
		t.Errorf("it was told %s", got)
	}
	removeBridge(t, serverLink)
	waitFor(t, func() bool { return strings.Contains(log.String(), "THE INTERFACE IS GONE") })
	addBridge(t, serverLink, "10.1.0.1/24")
	waitFor(t, func() bool { return strings.Contains(log.String(), "the interface is back") })
	again := plug(t, "52:54:00:00:00:22")
	again.has("10.1.0.22/24")
	if said, err := again.run("atftp", "-g", "-r", workerUKI, "-l", again.dir+"/kernel", "10.1.0.1"); err != nil {
		t.Errorf("%v: %s", err, said)
	}
	stop()

	node = plugInto(t, serverLink, "52:54:00:00:00:23")
	node.has("10.1.0.21/24")
	a := asksAll(t, node, "10.1.0.1", config.Secure.Authority)
	waitFor(t, func() bool { return h.waits(h.lines[0]) && h.waits(h.lines[1]) })
	config.Handed = h.hand()
	run(t, config)
	a.answered()
}

// TestHandedMisfits: a socket that fits nothing that the server serves on is refused, with what to write in its unit.
func TestHandedMisfits(t *testing.T) {
	network(t)
	bridge, err := netlink.LinkByName(serverLink)
	must(t, err)
	setAddress(t, bridge, "10.1.0.7/24")
	for line, want := range map[string]string{
		"udp 0.0.0.0:67":        "(slipway.socket, UDP 0.0.0.0:67): DHCP is served on br0 alone: add BindToDevice=br0 to its unit",
		"udp 0.0.0.0:67 lo":     "(slipway.socket, UDP 0.0.0.0:67 on lo): DHCP is served on br0: write BindToDevice=br0 in its unit",
		"udp [::]:67 br0":       "DHCP is served at UDP 0.0.0.0:67 on br0: write ListenDatagram=0.0.0.0:67 in its place",
		"udp 10.1.0.7:69 br0":   "TFTP is served at UDP 10.1.0.1:69 on br0: write ListenDatagram=10.1.0.1:69 in its place",
		"tcp 10.1.0.1:69":       "write ListenDatagram=10.1.0.1:69 in its place",
		"udp 10.1.0.1:4011 br0": "nothing is served on that port here; take it out of its unit (served are UDP 0.0.0.0:67 on br0; UDP 10.1.0.1:69 on br0; TCP 10.1.0.1:8080; TCP 10.1.0.1:7446)",
		"tcp 10.1.0.1:80":       "nothing is served on that port",
		"tcp [::]:8080":         "HTTP is served at TCP 10.1.0.1:8080: write ListenStream=10.1.0.1:8080 in its place",
		"udp 10.1.0.1:8080 br0": "write ListenStream=10.1.0.1:8080 in its place",
		"tcp 10.1.0.1:7446 br0": "this machine itself would not reach HTTPS there: move its line to a unit without BindToDevice=",
		"udp [::]:547 br0":      "nothing is served on that port",
		"udp 10.1.0.1:69 br0":   "",
	} {
		t.Run(line, func(t *testing.T) {
			c := configFor(t, &journal{})
			c.Handed = hold(t, line).hand()
			s, err := New(c)
			if err == nil {
				s.Close()
			}
			if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), "cannot use a socket that systemd hands over (slipway.socket, ") || !strings.Contains(err.Error(), want)) {
				t.Errorf("got %v\nwant %s", err, want)
			}
		})
	}
	t.Run("no socket at all", func(t *testing.T) {
		null, err := os.Open("/dev/null")
		must(t, err)
		c := configFor(t, &journal{})
		c.Handed, err = handed.New([]*os.File{null})
		must(t, err)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), "(/dev/null, no socket): only ListenDatagram= and ListenStream= with an address") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("of an interface that is gone", func(t *testing.T) {
		addBridge(t, "br9", "10.9.0.1/24")
		h := hold(t, "udp 0.0.0.0:67 br9")
		removeBridge(t, "br9")
		c := configFor(t, &journal{})
		c.Handed = h.hand()
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), "(slipway.socket, UDP 0.0.0.0:67): the interface that it is bound to is no more: systemctl restart its unit") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("twice, and another one", func(t *testing.T) {
		c := configFor(t, &journal{})
		h := hold(t, "udp 10.1.0.1:69 br0", "tcp 10.1.0.1:81")
		h.lines = append(h.lines, h.lines[0])
		c.Handed = h.hand()
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), "it is handed over twice") || !strings.Contains(err.Error(), "nothing is served on that port") {
			t.Errorf("got %v", err)
		}
	})
}

// TestHandedSocketsOverIPv6: DHCPv6 and the rest over IPv6 come from sockets that were handed over, twice: they have joined their groups
// by then.
func TestHandedSocketsOverIPv6(t *testing.T) {
	config := network6(t, &journal{})
	h := hold(t, "udp [::]:547 br0", "udp [fd00:1::1]:69 br0", "tcp [fd00:1::1]:8080", "tcp [fd00:1::1]:7446")
	node := plug(t, worker1)
	link := node.ready6()
	for i := range 2 {
		config.Handed = h.hand()
		_, stop := run(t, config)
		reply := node.ask6(link)
		if address := reply.Options.OneIANA().Options.OneAddress(); address == nil || address.IPv6Addr.String() != "fd00:1::21" {
			t.Errorf("%d: %s", i, reply.Summary())
		}
		node.run("ip", "address", "replace", "fd00:1::21/64", "dev", "eth0", "nodad")
		for _, command := range []string{
			"curl -sSf http://[fd00:1::1]:8080/healthz", "atftp -g -r " + workerUKI + " -l " + node.dir + fmt.Sprint("/kernel", i) + " fd00:1::1",
		} {
			if said, err := node.run(strings.Fields(command)...); err != nil {
				t.Errorf("%d: %s: %v: %s", i, command, err, said)
			}
		}
		stop()
	}
}
