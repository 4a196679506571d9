package netboot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// arpSocket asks on one interface who has an address (RFC 826).
type arpSocket struct {
	file *os.File
	raw  func([]byte) error
	own  net.HardwareAddr
	from netip.Addr
}

const arpLength = 28 // Ethernet and IPv4

// listenARP opens a socket; told is called with the address and MAC address of whoever speaks.
func listenARP(link *net.Interface, server netip.Addr, told func(netip.Addr, string)) (*arpSocket, error) {
	if len(link.HardwareAddr) != 6 {
		return nil, errors.New(link.Name + " has no Ethernet address")
	}
	network := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP))
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: network, Ifindex: link.Index}); err != nil {
		unix.Close(socket)
		return nil, err
	}
	everyone := &unix.SockaddrLinklayer{
		Protocol: network, Ifindex: link.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255},
	}
	s := &arpSocket{file: os.NewFile(uintptr(socket), "arp"), own: link.HardwareAddr, from: server}
	control, err := s.file.SyscallConn()
	if err != nil {
		s.file.Close()
		return nil, err
	}
	s.raw = func(packet []byte) (err error) {
		if write := control.Write(func(fd uintptr) bool {
			err = unix.Sendto(int(fd), packet, 0, everyone)
			return err != unix.EAGAIN
		}); write != nil {
			return write
		}
		return err
	}
	go s.read(told)
	return s, nil
}

// read reads until the socket is closed. What it hears of an interface that is down is nothing, not an error that ends it.
func (s *arpSocket) read(told func(netip.Addr, string)) {
	packet := make([]byte, 64)
	for {
		n, err := s.file.Read(packet)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil && !errors.Is(err, unix.ENETDOWN) {
			return
		}
		if a, mac, ok := speaker(packet[:n]); ok && !bytes.Equal(mac, s.own) {
			told(a, mac.String())
		}
	}
}

// speaker is who sends an ARP packet, from which address.
func speaker(packet []byte) (netip.Addr, net.HardwareAddr, bool) {
	if len(packet) < arpLength || !bytes.Equal(packet[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return netip.Addr{}, nil, false
	}
	a := netip.AddrFrom4([4]byte(packet[14:18]))
	return a, net.HardwareAddr(bytes.Clone(packet[8:14])), !a.IsUnspecified()
}

func (s *arpSocket) ask(a netip.Addr) error {
	packet := append(make([]byte, 0, arpLength), 0, 1, 8, 0, 6, 4, 0, 1)
	packet = append(append(packet, s.own...), s.from.AsSlice()...)
	packet = append(append(packet, 0, 0, 0, 0, 0, 0), a.AsSlice()...)
	return s.raw(packet)
}

func (s *arpSocket) close() {
	if s != nil {
		s.file.Close()
	}
}

// echoSocket asks by ICMP whether something answers at an address (RFC 792).
type echoSocket struct {
	conn *net.IPConn
	id   uint16
}

const echoRequest, echoReply = 8, 0

// listenEcho opens a socket; told is called with the address of whoever answers.
func listenEcho(server netip.Addr, told func(netip.Addr)) (*echoSocket, error) {
	conn, err := net.ListenIP("ip4:icmp", &net.IPAddr{IP: server.AsSlice()})
	if err != nil {
		return nil, err
	}
	s := &echoSocket{conn: conn, id: uint16(os.Getpid())}
	go func() {
		packet := make([]byte, 256)
		for {
			n, from, err := conn.ReadFromIP(packet)
			if err != nil {
				return
			}
			a, ok := netip.AddrFromSlice(from.IP.To4())
			if ok && n >= 8 && packet[0] == echoReply && binary.BigEndian.Uint16(packet[4:]) == s.id {
				told(a)
			}
		}
	}()
	return s, nil
}

func (s *echoSocket) ask(a netip.Addr) error {
	packet := binary.BigEndian.AppendUint16([]byte{echoRequest, 0, 0, 0}, s.id)
	packet = append(packet, 0, 1)
	binary.BigEndian.PutUint16(packet[2:], checksum(packet))
	_, err := s.conn.WriteToIP(packet, &net.IPAddr{IP: a.AsSlice()})
	return err
}

func (s *echoSocket) close() {
	if s != nil {
		s.conn.Close()
	}
}
