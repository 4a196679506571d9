// Package handed finds, among the sockets that systemd hands to a service (socket activation, sd_listen_fds(3)), those that the
// boot server would have bound itself: by what they are (protocol, address, port, interface), not by their order.
//
// It binds nothing and serves nothing. A socket that fits nothing is refused, with the line of its unit that is to be changed.
package handed

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Protocols of sockets.
const (
	UDP = "UDP"
	TCP = "TCP"
)

// Want is a socket that the server would bind.
type Want struct {
	For      string // in words: "TFTP"
	Protocol string // UDP or TCP
	Address  netip.AddrPort
	Link     string // name of the interface that it is bound to (SO_BINDTODEVICE); empty: none
}

// Sockets are those that were handed over. A nil one is none. They stay open until Close: who takes one gets a descriptor of his own, and
// may take it again after he has closed that.
type Sockets struct{ list []*socket }

// socket is one of them, as it was when it came.
type socket struct {
	Want         // without For
	unit  string // or FileDescriptorName=
	file  *os.File
	gone  bool   // the interface that it is bound to
	what  string // it is neither UDP nor TCP over IP, but this; empty: it is
	deaf  bool   // TCP that doesn't listen
	taken bool
}

// FromSystemd takes what systemd hands to this process, and leaves nothing of it in the environment.
func FromSystemd() (*Sockets, error) { return New(activation.Files(true)) }

// New takes descriptors over, also when it fails. The name of a file is where it comes from, in words.
func New(files []*os.File) (*Sockets, error) {
	if len(files) == 0 {
		return nil, nil
	}
	s := &Sockets{}
	for _, f := range files {
		one, err := look(f)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, fmt.Errorf("cannot use what systemd hands over: %s: %w", f.Name(), err)
		}
		s.list = append(s.list, one)
	}
	return s, nil
}

// look asks the kernel what a descriptor is.
func look(f *os.File) (one *socket, err error) {
	one = &socket{unit: f.Name(), file: f}
	return one, control(f, func(fd int) error { return one.look(fd) })
}

// control does something with a file's descriptor. os.File.Fd would make it blocking, for systemd too.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if outer := raw.Control(func(fd uintptr) { err = do(int(fd)) }); outer != nil {
		return outer
	}
	return err
}

func (s *socket) look(fd int) error {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if errors.Is(err, unix.ENOTSOCK) {
		s.what = "no socket"
		return nil
	}
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	switch a := at.(type) {
	case *unix.SockaddrInet4:
		s.Address = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		s.Address = netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	default:
		s.what = "no socket of UDP or TCP"
		return nil
	}
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	switch {
	case kind == unix.SOCK_DGRAM && protocol == unix.IPPROTO_UDP:
		s.Protocol = UDP
	case kind == unix.SOCK_STREAM && (protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_MPTCP):
		s.Protocol = TCP
		listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if err != nil {
			return os.NewSyscallError("getsockopt", err)
		}
		s.deaf = listens == 0
	default:
		s.what = "no socket of UDP or TCP"
		return nil
	}
	s.Link, err = unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
	if s.gone = errors.Is(err, unix.ENODEV); s.gone {
		return nil
	}
	return os.NewSyscallError("getsockopt", err)
}

// fits says whether it is what is wanted.
func (s *socket) fits(w Want) bool {
	return s.what == "" && !s.gone && !s.deaf && s.Protocol == w.Protocol && s.Address == w.Address && s.Link == w.Link
}

// find is the socket for what is wanted; nil: none.
func (s *Sockets) find(w Want) *socket {
	if s == nil {
		return nil
	}
	for _, one := range s.list {
		if one.fits(w) {
			return one
		}
	}
	return nil
}

// Datagrams is the UDP socket that was handed over for an address, bound to an interface; nil: none was. It is bound to the
// interface anew when that was taken away and has come back since, which takes CAP_NET_RAW.
func (s *Sockets) Datagrams(link string, at netip.AddrPort) (*net.UDPConn, error) {
	one := s.find(Want{Protocol: UDP, Address: at, Link: link})
	if one == nil {
		return nil, nil
	}
	one.taken = true
	if err := one.bindAgain(); err != nil {
		return nil, fmt.Errorf("%s: %w", one, err)
	}
	conn, err := net.FilePacketConn(one.file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", one, err)
	}
	return conn.(*net.UDPConn), nil
}

// bindAgain binds a socket to the interface that has its interface's name now, if that is another one. A socket is bound to the number of an
// interface, and one that is made again has another number.
func (s *socket) bindAgain() error {
	link, err := net.InterfaceByName(s.Link)
	if err != nil {
		return err
	}
	return control(s.file, func(fd int) error {
		if now, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX); err == nil && now == link.Index {
			return nil
		}
		return os.NewSyscallError("setsockopt SO_BINDTODEVICE", unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, s.Link))
	})
}

// Listener is the TCP socket that was handed over for an address; nil: none was.
func (s *Sockets) Listener(at netip.AddrPort) (net.Listener, error) {
	one := s.find(Want{Protocol: TCP, Address: at})
	if one == nil {
		return nil, nil
	}
	one.taken = true
	listener, err := net.FileListener(one.file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", one, err)
	}
	return listener, nil
}

// Close closes this process' descriptors. What systemd has stays open, with all that waits in it.
func (s *Sockets) Close() {
	if s == nil {
		return
	}
	for _, one := range s.list {
		one.file.Close()
	}
}

// String is a socket in words: "slipway.socket, UDP 10.1.0.1:69 on eno2".
func (s *socket) String() string {
	if s.what != "" {
		return s.unit + ", " + s.what
	}
	return s.unit + ", " + s.Want.String()
}

func (w Want) String() string {
	text := w.Protocol + " " + w.Address.String()
	if w.Link != "" {
		text += " on " + w.Link
	}
	return text
}

// directive is the setting that makes such a socket (systemd.socket(5)).
func (w Want) directive() string {
	if w.Protocol == TCP {
		return "ListenStream=" + w.Address.String()
	}
	return "ListenDatagram=" + w.Address.String()
}

// Misfits says which of the sockets that nobody has taken are none of those that are wanted, and what to change in their units; nil: all fit.
func (s *Sockets) Misfits(wants []Want) error {
	if s == nil {
		return nil
	}
	var all error
	for _, one := range s.list {
		if one.taken {
			continue
		}
		if why := s.misfit(one, wants); why != "" {
			all = errors.Join(all, fmt.Errorf("cannot use a socket that systemd hands over (%s): %s", one, why))
		}
	}
	return all
}

func (s *Sockets) misfit(one *socket, wants []Want) string {
	if one.what != "" {
		return "only ListenDatagram= and ListenStream= with an address and a port are of use here"
	}
	if one.gone {
		return "the interface that it is bound to is no more: systemctl restart its unit"
	}
	w, ok := one.nearest(wants)
	switch {
	case !ok:
		return fmt.Sprintf("nothing is served on that port here; take it out of its unit (served are %s)", list(wants))
	case one.Protocol != w.Protocol, one.Address != w.Address:
		return fmt.Sprintf("%s is served at %s: write %s in its place", w.For, w, w.directive())
	case one.Link == "" && w.Link != "":
		return fmt.Sprintf("%s is served on %s alone: add BindToDevice=%s to its unit", w.For, w.Link, w.Link)
	case w.Link != "" && one.Link != w.Link:
		return fmt.Sprintf("%s is served on %s: write BindToDevice=%s in its unit", w.For, w.Link, w.Link)
	case one.Link != w.Link:
		return fmt.Sprintf("this machine itself would not reach %s there: move its line to a unit without BindToDevice= (and with Service=)", w.For)
	case one.deaf:
		return "it doesn't listen"
	case s.find(w) != one:
		return "it is handed over twice: take it out of one of its units"
	}
	return ""
}

// nearest is what a socket was probably meant for: the same port, and then as much of the rest as there is.
func (s *socket) nearest(wants []Want) (best Want, ok bool) {
	most := -1
	for _, w := range wants {
		if w.Address.Port() != s.Address.Port() {
			continue
		}
		score := 0
		for i, same := range []bool{w.Address.Addr().Is4() == s.Address.Addr().Is4(), w.Link == s.Link, w.Address == s.Address, w.Protocol == s.Protocol} {
			if same {
				score += 1 << i
			}
		}
		if score > most {
			best, most, ok = w, score, true
		}
	}
	return best, ok
}

func list(wants []Want) string {
	var words []string
	for _, w := range wants {
		words = append(words, w.String())
	}
	return strings.Join(words, "; ")
}
