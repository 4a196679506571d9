package netboot

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// The tests say DHCPv6 packets in words: a message type and then key=value, a number being an option's code:
//
//	SOLICIT from=fe80::5054:ff:fe00:21 id=LL:52:54:00:00:00:21 ia=00000001 61=0007 16=PXEClient 6=59,60
//
// relay=LINK,PEER puts the message into a relay's, lladdr=MAC and interface=WORD into that; of several the last is the outermost.

var kinds6 = []string{
	"", "SOLICIT", "ADVERTISE", "REQUEST", "CONFIRM", "RENEW", "REBIND", "REPLY", "RELEASE", "DECLINE", "RECONFIGURE", "INFORMATION-REQUEST",
	"RELAY-FORW", "RELAY-REPL",
}

// ours is the tests' server's identifier.
func ours() dhcpv6.DUID { return &dhcpv6.DUIDUUID{UUID: [16]byte{1, 2, 3, 4}} }

func option6(code int, content []byte) []byte {
	head := binary.BigEndian.AppendUint16(nil, uint16(code))
	return append(binary.BigEndian.AppendUint16(head, uint16(len(content))), content...)
}

// request6 makes a packet's bytes from words, by hand, and says where it comes from.
func request6(t testing.TB, words string) (packet []byte, from netip.Addr) {
	t.Helper()
	fields := strings.Fields(words)
	for i, kind := range kinds6 {
		if kind == fields[0] {
			packet = []byte{byte(i), 'x', 'i', 'd'}
		}
	}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "from":
			from = netip.MustParseAddr(value)
		case "relay":
			link, peer, _ := strings.Cut(value, ",")
			header := append([]byte{12, 0}, netip.MustParseAddr(link).AsSlice()...)
			header = append(header, netip.MustParseAddr(peer).AsSlice()...)
			packet = append(header, option6(9, packet)...)
		case "lladdr":
			mac, err := net.ParseMAC(value)
			if err != nil {
				t.Fatal(err)
			}
			packet = append(packet, option6(79, append([]byte{0, 1}, mac...))...)
		case "interface":
			packet = append(packet, option6(18, []byte(value))...)
		default:
			packet = append(packet, field6(t, key, value)...)
		}
	}
	return packet, from
}

// field6 is one option in words.
func field6(t testing.TB, key, value string) []byte {
	t.Helper()
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	switch key {
	case "id":
		kind, rest, _ := strings.Cut(value, ":")
		return option6(1, append(map[string][]byte{"LL": {0, 3, 0, 1}, "LLT": {0, 1, 0, 1, 1, 2, 3, 4}, "UUID": {0, 4}}[kind], unhex(rest)...))
	case "server":
		if value == "ours" {
			return option6(2, ours().ToBytes())
		}
		return option6(2, unhex(value))
	case "ia", "ta", "pd":
		parts := strings.Split(value, ",")
		content := unhex(parts[0])
		if key != "ta" {
			content = append(content, make([]byte, 8)...)
		}
		for _, a := range parts[1:] {
			content = append(content, option6(5, append(netip.MustParseAddr(a).AsSlice(), make([]byte, 8)...))...)
		}
		return option6(map[string]int{"ia": 3, "ta": 4, "pd": 25}[key], content)
	}
	code, err := strconv.Atoi(key)
	if err != nil {
		t.Fatalf("%q is no word for a packet", key)
	}
	switch code {
	case 6:
		var content []byte
		for number := range strings.SplitSeq(value, ",") {
			n, _ := strconv.Atoi(number)
			content = binary.BigEndian.AppendUint16(content, uint16(n))
		}
		return option6(code, content)
	case 15:
		return option6(code, append([]byte{0, byte(len(value))}, value...))
	case 16:
		return option6(code, append([]byte{0, 0, 1, 87, 0, byte(len(value))}, value...))
	}
	return option6(code, unhex(value))
}

// walk6 says a reply's options in their order. It shares nothing with the library.
func walk6(content []byte) (string, error) {
	var out []string
	for len(content) > 0 {
		if len(content) < 4 || len(content) < 4+int(binary.BigEndian.Uint16(content[2:])) {
			return "", fmt.Errorf("%x is no option", content)
		}
		code, value := int(binary.BigEndian.Uint16(content)), content[4:4+int(binary.BigEndian.Uint16(content[2:]))]
		content = content[4+len(value):]
		word, err := option6Words(code, value)
		if err != nil {
			return "", err
		}
		out = append(out, fmt.Sprintf("%d=%s", code, word))
	}
	return strings.Join(out, " "), nil
}

func option6Words(code int, value []byte) (string, error) {
	number := func(at int) uint32 { return binary.BigEndian.Uint32(value[at:]) }
	shortest := map[int]int{3: 12, 4: 4, 5: 24, 13: 2, 16: 6, 25: 12, 9: 4}[code]
	if len(value) < shortest {
		return "", fmt.Errorf("option %d of %d bytes", code, len(value))
	}
	within := func(rest []byte, words string) (string, error) {
		inner, err := walk6(rest)
		return "(" + strings.TrimSpace(words+" "+inner) + ")", err
	}
	switch code {
	case 2:
		if string(value) == string(ours().ToBytes()) {
			return "ours", nil
		}
	case 3, 25:
		return within(value[12:], fmt.Sprintf("%x T1=%d T2=%d", value[:4], number(4), number(8)))
	case 4:
		return within(value[4:], fmt.Sprintf("%x", value[:4]))
	case 5:
		a, _ := netip.AddrFromSlice(value[:16])
		return within(value[24:], fmt.Sprintf("%s %d %d", a, number(16), number(20)))
	case 13:
		return fmt.Sprintf("%d %q", binary.BigEndian.Uint16(value), value[2:]), nil
	case 16:
		return fmt.Sprintf("%d %q", number(0), value[6:]), nil
	case 18, 59:
		return string(value), nil
	case 9:
		return reply6Words(value)
	}
	return hex.EncodeToString(value), nil
}

// reply6Words says a reply, with what relays have around it.
func reply6Words(packet []byte) (string, error) {
	if len(packet) < 4 || int(packet[0]) >= len(kinds6) {
		return "", fmt.Errorf("%x is no message", packet)
	}
	head, rest := kinds6[packet[0]], packet[4:]
	switch {
	case packet[0] == 13 && len(packet) >= 34:
		link, _ := netip.AddrFromSlice(packet[2:18])
		peer, _ := netip.AddrFromSlice(packet[18:34])
		head, rest = fmt.Sprintf("%s hops=%d link=%s peer=%s", head, packet[1], link, peer), packet[34:]
	case string(packet[1:4]) != "xid":
		return "", fmt.Errorf("another transaction: %x", packet[:4])
	}
	options, err := walk6(rest)
	return "[" + strings.TrimSpace(head+" "+options) + "]", err
}

// words6 says a decision: the reply as it goes out, read back from its bytes, and the reason.
func words6(t testing.TB, d Decision6) []string {
	t.Helper()
	if d.Reply == nil {
		return []string{"no answer: " + d.Reason}
	}
	line, err := reply6Words(d.Reply.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	return []string{strings.TrimSuffix(strings.TrimPrefix(line, "["), "]"), "because: " + d.Reason}
}
