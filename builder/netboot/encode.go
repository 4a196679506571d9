package netboot

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sort"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Lengths in bytes.
const (
	minimumReply = 300 // replies are padded to the BOOTP minimum (RFC 1542 section 2.1): some clients drop shorter ones
	bootpHeader  = 240 // a message before its options, with the magic cookie
	ipHeaders    = 28  // IPv4 and UDP
	minimumMTU   = 576 // every client takes a datagram of this length (RFC 2131 section 2)
	ethernetMTU  = 1500
	headerFile   = 128 // the header's field for a boot file, with a zero at its end
)

// Where a message's header fields lie that may carry options too (RFC 2131 section 2).
const (
	snameStart = 44
	fileStart  = 108
	fileEnd    = 236
)

// endOption closes the options. Some clients leave it out when they fill the packet; the library insists on it.
const endOption = 255

// decode reads a message, leniently: without an end option, with options in the header fields (RFC 2132 section 9.3).
func decode(packet []byte) (*dhcpv4.DHCPv4, error) {
	request, err := dhcpv4.FromBytes(packet)
	if err != nil && len(packet) > bootpHeader {
		request, err = dhcpv4.FromBytes(append(packet[:len(packet):len(packet)], endOption))
	}
	if err != nil {
		return nil, err
	}
	overload := request.Options.Get(dhcpv4.OptionOptionOverload)
	if len(overload) != 1 {
		return request, nil
	}
	if overload[0]&1 != 0 { // RFC 3396 section 5: first file, then sname
		request.BootFileName = ""
		err = request.Options.FromBytes(packet[fileStart:fileEnd])
	}
	if overload[0]&2 != 0 && err == nil {
		request.ServerHostName = ""
		err = request.Options.FromBytes(packet[snameStart:fileStart])
	}
	return request, err
}

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
	packet = append(packet, endOption)
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

// limit is how long a reply may be, in bytes of UDP payload: what the client takes (option 57, RFC 2132 section 9.10; it
// counts the whole datagram), at most the interface's MTU.
func limit(request *dhcpv4.DHCPv4, mtu int) int {
	if mtu == 0 {
		mtu = ethernetMTU
	}
	longest := minimumMTU
	if value := request.Options.Get(dhcpv4.OptionMaximumDHCPMessageSize); len(value) == 2 {
		longest = max(longest, int(binary.BigEndian.Uint16(value)))
	}
	return min(longest, max(mtu, minimumMTU)) - ipHeaders
}

// fit drops options until a reply isn't longer than the limit: first what a client can boot without, then what it has
// sent itself. Relay information that doesn't fit whole is left out (RFC 3046 section 2.2).
func fit(reply *dhcpv4.DHCPv4, longest int) {
	for _, code := range []uint8{6, 12, 3, 66, 97, 61, 82} {
		if length(reply) <= longest {
			return
		}
		delete(reply.Options, code)
	}
}

// length is how long encode makes a reply, in bytes, before the padding.
func length(reply *dhcpv4.DHCPv4) int {
	total := bootpHeader + 1
	for _, value := range reply.Options {
		total += len(value) + 2*max(1, (len(value)+254)/255)
	}
	return total
}

// destination is where a reply goes (RFC 2131 section 4.1). unicast is true for the case without ARP: the client has
// no address yet and can't answer ARP, so the sender must know its hardware address.
func destination(request, reply *dhcpv4.DHCPv4) (to netip.AddrPort, unicast bool) {
	const server, client = 67, 68
	broadcast := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), client)
	if relay := address(request.GatewayIPAddr); relay.IsValid() {
		return netip.AddrPortFrom(relay, server), false
	}
	if reply.MessageType() == dhcpv4.MessageTypeNak {
		return broadcast, false
	}
	// Only an acknowledgement repeats the client's own address, once it's known to be that. A DISCOVER may claim any.
	if own := address(reply.ClientIPAddr); own.IsValid() {
		return netip.AddrPortFrom(own, client), false
	}
	your := address(reply.YourIPAddr)
	if request.IsBroadcast() || !your.IsValid() {
		return broadcast, false
	}
	return netip.AddrPortFrom(your, client), true
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
