package vrrp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Advertisement is the one message of VRRPv3 for IPv4 (RFC 9568, section 5.2).
type Advertisement struct {
	Router    uint8        // VRID, 1..255
	Priority  uint8        // 0: the sender gives the address up
	Interval  uint16       // time between advertisements in centiseconds, 1..4095
	Addresses []netip.Addr // IPv4, 1..255
}

const (
	versionAndType = 3<<4 | 1
	headerSize     = 8
	// maxMessage is the size of an advertisement with 255 addresses in bytes.
	maxMessage = headerSize + 255*4
)

// Encode is the message without its IP header, which will have these addresses. The fields must be within their ranges. The
// checksum includes the pseudo-header of IPv4: RFC 9568, section 5.2.8, says that it doesn't, but RFC 5798 was read so, and
// keepalived takes no other.
func (a Advertisement) Encode(from, to netip.Addr) []byte {
	b := make([]byte, headerSize, headerSize+4*len(a.Addresses))
	b[0], b[1], b[2], b[3] = versionAndType, a.Router, a.Priority, uint8(len(a.Addresses))
	binary.BigEndian.PutUint16(b[4:], a.Interval&0x0fff)
	for _, address := range a.Addresses {
		b = append(b, address.AsSlice()...)
	}
	binary.BigEndian.PutUint16(b[6:], ^sum(pseudoHeader(from, to, len(b)), b))
	return b
}

// Decode reads a message without its IP header. Its checksum may include the pseudo-header of IPv4 or not.
func Decode(b []byte, from, to netip.Addr) (Advertisement, error) {
	fail := func(format string, args ...any) (Advertisement, error) {
		return Advertisement{}, fmt.Errorf("cannot read VRRP message: "+format, args...)
	}
	if len(b) < headerSize {
		return fail("%d bytes are too few", len(b))
	}
	if b[0] != versionAndType {
		return fail("version %d and type %d are not an advertisement of VRRPv3", b[0]>>4, b[0]&0x0f)
	}
	count := int(b[3])
	if count == 0 || len(b) != headerSize+4*count {
		return fail("%d bytes for %d addresses", len(b), count)
	}
	if sum(0, b) != 0xffff && sum(pseudoHeader(from, to, len(b)), b) != 0xffff {
		return fail("its checksum is wrong")
	}
	a := Advertisement{Router: b[1], Priority: b[2], Interval: binary.BigEndian.Uint16(b[4:]) & 0x0fff}
	if a.Router == 0 || a.Interval == 0 {
		return fail("router %d or interval %d is zero", a.Router, a.Interval)
	}
	for i := range count {
		a.Addresses = append(a.Addresses, netip.AddrFrom4([4]byte(b[headerSize+4*i:])))
	}
	return a, nil
}

// sum is the one's complement sum (RFC 1071) of 16-bit words, of which there is a whole number.
func sum(start uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		start += uint32(binary.BigEndian.Uint16(b))
	}
	for start > 0xffff {
		start = start>>16 + start&0xffff
	}
	return uint16(start)
}

// pseudoHeader is the sum of what RFC 2460, section 8.1, puts before a message, for IPv4.
func pseudoHeader(from, to netip.Addr, size int) uint32 {
	if !from.Is4() || !to.Is4() {
		return 0
	}
	return uint32(sum(0, from.AsSlice())) + uint32(sum(0, to.AsSlice())) + protocol + uint32(size)
}
