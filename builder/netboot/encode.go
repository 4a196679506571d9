package netboot

import (
	"net"
	"net/netip"
	"sort"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// minimumReply is the length replies are padded to, in bytes: the BOOTP minimum (RFC 1542 section 2.1); some clients
// drop shorter ones.
const minimumReply = 300

// bootpHeader is the length of a message before its options, with the magic cookie.
const bootpHeader = 240

// encode writes a reply with message type, server identifier and lease time first and relay information last: the
// library sorts options by number, and some firmware stops reading early. The options themselves are as the library
// encodes them (RFC 3396 splits those over 255 bytes).
func encode(reply *dhcpv4.DHCPv4) []byte {
	bare := *reply
	bare.Options = dhcpv4.Options{}
	packet := bare.ToBytes()[:bootpHeader]
	codes := make([]int, 0, len(reply.Options))
	for code := range reply.Options {
		codes = append(codes, int(code))
	}
	sort.Slice(codes, func(i, j int) bool { return rank(codes[i]) < rank(codes[j]) })
	for _, code := range codes {
		value := reply.Options[uint8(code)]
		for {
			part := value[:min(len(value), 255)]
			packet = append(append(packet, byte(code), byte(len(part))), part...)
			if value = value[len(part):]; len(value) == 0 {
				break
			}
		}
	}
	packet = append(packet, 255)
	for len(packet) < minimumReply {
		packet = append(packet, 0)
	}
	return packet
}

func rank(code int) int {
	switch code {
	case 53:
		return -3
	case 54:
		return -2
	case 51:
		return -1
	case 82:
		return 1000
	}
	return code
}

// destination is where a reply goes (RFC 2131 section 4.1). unicast is true for the case without ARP: the client has
// no address yet and can't answer ARP, so the sender must know its hardware address.
func destination(request, reply *dhcpv4.DHCPv4) (to netip.AddrPort, unicast bool) {
	const server, client = 67, 68
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if relay := address(request.GatewayIPAddr); relay.IsValid() {
		return netip.AddrPortFrom(relay, server), false
	}
	if reply.MessageType() == dhcpv4.MessageTypeNak {
		return netip.AddrPortFrom(broadcast, client), false
	}
	if own := address(request.ClientIPAddr); own.IsValid() {
		return netip.AddrPortFrom(own, client), false
	}
	if request.IsBroadcast() {
		return netip.AddrPortFrom(broadcast, client), false
	}
	return netip.AddrPortFrom(address(reply.YourIPAddr), client), true
}

// address is an IPv4 address, invalid for none or 0.0.0.0.
func address(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip.To4())
	if !ok || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

func isZero(ip net.IP) bool { return !address(ip).IsValid() }

func netmask(p netip.Prefix) net.IPMask { return net.CIDRMask(p.Bits(), 32) }

func slices4(addresses []netip.Addr) []net.IP {
	out := make([]net.IP, 0, len(addresses))
	for _, a := range addresses {
		if a.Is4() {
			out = append(out, a.AsSlice())
		}
	}
	return out
}
