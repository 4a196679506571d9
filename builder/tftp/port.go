package tftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bounds of what the kernel cuts into packets at once (UDP_SEGMENT, udp(7)).
const (
	maxSegments  = 64
	maxSegmented = 65000 // bytes
)

// port is where a transfer's packets leave from: a socket of its own, connected to its client, or the one that all share.
type port struct {
	fd  int
	own bool
	to  unix.Sockaddr // of a shared one
	// control has the kernel cut a window into packets: it walks its tables once for all of them. nil: it can't.
	control []byte
}

// ownPort takes a socket over. The runtime's poller mustn't watch it, so it's doubled and the first one closed.
func ownPort(conn *net.UDPConn, client netip.AddrPort, segment int) (port, error) {
	defer conn.Close()
	fd, err := double(conn)
	if err != nil {
		return port{}, err
	}
	to, err := sockaddr(fd, client)
	if err == nil {
		err = unix.Connect(fd, to)
	}
	if err != nil {
		_ = unix.Close(fd)
		return port{}, fmt.Errorf("cannot connect to %s: %w", client, err)
	}
	return port{fd: fd, own: true, control: segmentControl(segment)}, nil
}

// sharedPort is a port that others use too.
func sharedPort(fd int, client netip.AddrPort, segment int) (port, error) {
	to, err := sockaddr(fd, client)
	return port{fd: fd, to: to, control: segmentControl(segment)}, err
}

func (p *port) close() {
	if p.own {
		_ = unix.Close(p.fd)
	}
}

// double is another descriptor of a socket.
func double(conn *net.UDPConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	if control := raw.Control(func(from uintptr) { fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0) }); control != nil {
		return -1, control
	}
	return fd, err
}

// sockaddr is an address for a socket's family.
func sockaddr(fd int, to netip.AddrPort) (unix.Sockaddr, error) {
	own, err := unix.Getsockname(fd)
	if err != nil {
		return nil, err
	}
	if _, v4 := own.(*unix.SockaddrInet4); v4 {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().Unmap().As4()}, nil
	}
	out := &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if zone := to.Addr().Zone(); zone != "" {
		index, err := strconv.Atoi(zone)
		if err != nil {
			link, err := net.InterfaceByName(zone)
			if err != nil {
				return nil, err
			}
			index = link.Index
		}
		out.ZoneId = uint32(index)
	}
	return out, nil
}

// addrPort is the other way round. A zone is its interface's number.
func addrPort(from unix.Sockaddr) (netip.AddrPort, bool) {
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), true
	case *unix.SockaddrInet6:
		to := netip.AddrFrom16(a.Addr)
		if a.ZoneId != 0 {
			to = to.WithZone(strconv.Itoa(int(a.ZoneId)))
		}
		return netip.AddrPortFrom(to, uint16(a.Port)), true
	}
	return netip.AddrPort{}, false
}

// segmentControl is the control message that says how large a segment is.
func segmentControl(size int) []byte {
	out := make([]byte, unix.CmsgSpace(2))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&out[0]))
	header.Level, header.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	header.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(out[unix.CmsgLen(0):], uint16(size))
	return out
}

// send sends packets of a size; the last may be shorter. What the network doesn't take is as good as lost: the error is for
// the log.
func (p *port) send(packets []byte, size int) error {
	for len(packets) > 0 {
		now := min(len(packets), size)
		if p.control != nil {
			now = min(len(packets), size*max(1, min(maxSegments, maxSegmented/size)))
		}
		switch err := p.write(packets[:now], now > size); {
		case now > size && slices.ContainsFunc(cannotCut, func(e error) bool { return errors.Is(err, e) }):
			p.control = nil
		case err != nil:
			return err
		default:
			packets = packets[now:]
		}
	}
	return nil
}

// cannotCut is what an interface or a route answers that can't have packets cut.
var cannotCut = []error{unix.EINVAL, unix.EIO, unix.EMSGSIZE, unix.EOPNOTSUPP, unix.ENOPROTOOPT}

func (p *port) write(packets []byte, several bool) error {
	switch {
	case several:
		_, err := unix.SendmsgN(p.fd, packets, p.control, p.to, unix.MSG_DONTWAIT)
		return err
	case p.own:
		_, err := unix.Write(p.fd, packets)
		return err
	}
	return unix.Sendto(p.fd, packets, unix.MSG_DONTWAIT, p.to)
}
