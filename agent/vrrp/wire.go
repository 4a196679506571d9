package vrrp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// wire is the sockets of a virtual router on one link.
type wire struct {
	link   *net.Interface
	source netip.Addr
	conn   *ipv4.PacketConn
	arp    int // packet socket
}

// packet is one message as it came.
type packet struct {
	from, to netip.Addr
	ttl      int
	data     []byte
}

func open(link string, source netip.Addr) (*wire, error) {
	fail := func(err error) (*wire, error) {
		return nil, fmt.Errorf("cannot take part in VRRP on %s: %w", link, err)
	}
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return fail(err)
	}
	arp, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // 0: it only sends
	if err != nil {
		return fail(err)
	}
	raw, err := net.ListenPacket(fmt.Sprintf("ip4:%d", protocol), "0.0.0.0")
	if err != nil {
		unix.Close(arp)
		return fail(err)
	}
	w := &wire{link: ifi, source: source, conn: ipv4.NewPacketConn(raw), arp: arp}
	err = errors.Join(
		w.conn.JoinGroup(ifi, &net.IPAddr{IP: group().AsSlice()}),
		w.conn.SetMulticastInterface(ifi),
		w.conn.SetMulticastTTL(255),
		w.conn.SetMulticastLoopback(false),
		w.conn.SetTOS(0xc0), // internetwork control (RFC 791)
		w.conn.SetControlMessage(ipv4.FlagTTL|ipv4.FlagDst|ipv4.FlagInterface, true),
	)
	if err != nil {
		w.close()
		return fail(err)
	}
	return w, nil
}

func (w *wire) close() {
	w.conn.Close()
	unix.Close(w.arp)
}

// receive hands on what comes over the link, until ctx ends or the socket is closed.
func (w *wire) receive(ctx context.Context, packets chan<- packet) error {
	buffer := make([]byte, maxMessage+1)
	for {
		n, c, from, err := w.conn.ReadFrom(buffer)
		if err != nil {
			return fmt.Errorf("cannot receive VRRP messages: %w", err)
		}
		source, ok := from.(*net.IPAddr)
		if !ok || c == nil || c.IfIndex != w.link.Index {
			continue
		}
		p := packet{ttl: c.TTL, data: append([]byte(nil), buffer[:n]...)}
		p.from, _ = netip.AddrFromSlice(source.IP.To4())
		p.to, _ = netip.AddrFromSlice(c.Dst.To4())
		select {
		case packets <- p:
		case <-ctx.Done():
			return nil
		}
	}
}

func (w *wire) send(message []byte) error {
	c := &ipv4.ControlMessage{Src: w.source.AsSlice(), IfIndex: w.link.Index}
	if _, err := w.conn.WriteTo(message, c, &net.IPAddr{IP: group().AsSlice()}); err != nil {
		return fmt.Errorf("cannot send VRRP message: %w", err)
	}
	return nil
}

// announce is a gratuitous ARP request for an address of ours (RFC 5227, section 3).
func (w *wire) announce(address netip.Addr) error {
	to := unix.SockaddrLinklayer{Ifindex: w.link.Index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	if err := unix.Sendto(w.arp, announcement(w.link.HardwareAddr, address), 0, &to); err != nil {
		return fmt.Errorf("cannot announce %s: %w", address, err)
	}
	return nil
}

// announcement is the Ethernet frame (RFC 826).
func announcement(mac net.HardwareAddr, address netip.Addr) []byte {
	b := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	b = append(b, mac...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_ARP)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, request
	b = append(append(b, mac...), address.AsSlice()...)
	b = append(append(b, 0, 0, 0, 0, 0, 0), address.AsSlice()...)
	return append(b, make([]byte, 60-len(b))...)
}

// take puts an address on a link. Its scope is the link: so it is never the source of a connection that the machine itself
// makes, and agent/network, which owns global addresses, leaves it alone.
func take(link string, address netip.Addr) error {
	l, err := netlink.LinkByName(link)
	if err == nil {
		err = netlink.AddrReplace(l, &netlink.Addr{
			IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(32, 32)}, Scope: unix.RT_SCOPE_LINK,
		})
	}
	if err != nil {
		return fmt.Errorf("cannot put %s on %s: %w", address, link, err)
	}
	return nil
}

// Release takes a virtual address off whatever link has it; that none has it is no error. It mends what a killed process
// has left.
func Release(address netip.Addr) error {
	list, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	for range 10 { // something else has changed addresses meanwhile
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
		list, err = netlink.AddrList(nil, netlink.FAMILY_V4)
	}
	if err != nil {
		return fmt.Errorf("cannot list addresses: %w", err)
	}
	for _, a := range list {
		if !a.IP.Equal(address.AsSlice()) {
			continue
		}
		l, err := netlink.LinkByIndex(a.LinkIndex)
		if err == nil {
			err = netlink.AddrDel(l, &a)
		}
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("cannot take %s off: %w", address, err)
		}
	}
	return nil
}
