package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// TFTP as EDK II's firmware does it: blocks of a frame, four in a window.
const (
	blockSize  = 1468
	windowSize = 4
	askAgain   = time.Second
	askTimes   = 4
)

// tftp fetches a file (RFC 1350, 2347, 2348, 7440).
func tftp(ctx context.Context, from netip.Addr, server, name string) ([]byte, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	to := netip.AddrPortFrom(netip.MustParseAddr(server), 69)
	last := fmt.Appendf([]byte{0, 1}, "%s\x00octet\x00tsize\x000\x00blksize\x00%d\x00windowsize\x00%d\x00", name, blockSize, windowSize)
	var content []byte
	packet := make([]byte, 2048)
	expect, told, silent := uint16(0), uint16(0), 0
	_, err = conn.WriteToUDPAddrPort(last, to)
	for err == nil && ctx.Err() == nil {
		if err = conn.SetReadDeadline(time.Now().Add(askAgain)); err != nil {
			break
		}
		n, peer, readErr := conn.ReadFromUDPAddrPort(packet)
		if readErr != nil {
			if silent++; silent == askTimes {
				return nil, fmt.Errorf("TFTP: nothing comes: %w", readErr)
			}
			_, err = conn.WriteToUDPAddrPort(last, to)
			continue
		}
		silent = 0
		kind, number := binary.BigEndian.Uint16(packet), binary.BigEndian.Uint16(packet[2:])
		switch {
		case n < 4 || peer.Addr().Unmap() != to.Addr():
			continue
		case kind == 5:
			return nil, fmt.Errorf("TFTP: %q", packet[4:n])
		case kind == 6 && expect == 0:
			to, expect = peer, 1
			last = []byte{0, 4, 0, 0}
		case kind == 3 && peer == to && number != expect && expect > 0:
			// One was lost, or an acknowledgement was (RFC 7440 section 4). Once is enough: more would double the traffic.
			if told == expect {
				continue
			}
			told = expect
			last = binary.BigEndian.AppendUint16([]byte{0, 4}, expect-1)
		case kind == 3 && peer == to:
			content = append(content, packet[4:n]...)
			done := n-4 < blockSize
			if expect++; !done && number%windowSize != 0 {
				continue
			}
			last = binary.BigEndian.AppendUint16([]byte{0, 4}, number)
			if done {
				_, err := conn.WriteToUDPAddrPort(last, to)
				return content, err
			}
		default:
			continue
		}
		_, err = conn.WriteToUDPAddrPort(last, to)
	}
	return nil, errors.Join(err, ctx.Err())
}
