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

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// The tests say packets in words: a request is its message type and then key=value, a number being an option's code:
//
//	DISCOVER from=52:54:00:00:00:11 60=PXEClient 93=0007 55=1,3,67 broadcast
//
// Values are text for the options in textOptions, numbers for those in listOptions, addresses for those in
// addressOptions, and hexadecimal for all others.

var (
	textOptions    = " 12 15 60 66 67 77 "
	listOptions    = " 55 "
	addressOptions = " 1 3 6 50 54 "
)

func among(code int, list string) bool { return strings.Contains(list, fmt.Sprintf(" %d ", code)) }

// request makes a packet's bytes from words; it builds them by hand, so that nothing is as the library would have it.
func request(t testing.TB, words string) []byte {
	t.Helper()
	packet := make([]byte, bootpHeader)
	packet[0], packet[1], packet[2] = 1, 1, 6 // BOOTREQUEST, Ethernet
	copy(packet[4:], "xid!")
	copy(packet[236:], []byte{99, 130, 83, 99})
	fields := strings.Fields(words)
	for i, kind := range []string{"", "DISCOVER", "OFFER", "REQUEST", "DECLINE", "ACK", "NAK", "RELEASE", "INFORM"} {
		if kind == fields[0] {
			packet = append(packet, 53, 1, byte(i))
		}
	}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "from":
			mac, err := net.ParseMAC(value)
			if err != nil {
				t.Fatal(err)
			}
			copy(packet[28:], mac)
		case "broadcast":
			packet[10] = 0x80
		case "reply":
			packet[0] = 2
		case "ciaddr":
			copy(packet[12:], netip.MustParseAddr(value).AsSlice())
		case "giaddr":
			copy(packet[24:], netip.MustParseAddr(value).AsSlice())
		default:
			packet = append(packet, option(t, key, value)...)
		}
	}
	return append(packet, 255)
}

func option(t testing.TB, key, value string) []byte {
	t.Helper()
	code, err := strconv.Atoi(key)
	if err != nil {
		t.Fatalf("%q is no word for a packet", key)
	}
	var content []byte
	switch {
	case among(code, textOptions):
		content = []byte(value)
	case among(code, listOptions):
		for number := range strings.SplitSeq(value, ",") {
			n, _ := strconv.Atoi(number)
			content = append(content, byte(n))
		}
	case among(code, addressOptions):
		content = netip.MustParseAddr(value).AsSlice()
	default:
		if content, err = hex.DecodeString(value); err != nil {
			t.Fatal(err)
		}
	}
	return append([]byte{byte(code), byte(len(content))}, content...)
}

// walk reads a reply's options in their order. It is written for these tests and shares nothing with the library: header,
// cookie, options of one part each, an end, and nothing but zeros behind it.
func walk(packet []byte) (codes []int, values map[int][]byte, err error) {
	if len(packet) < 300 {
		return nil, nil, fmt.Errorf("%d bytes are under 300", len(packet))
	}
	if packet[0] != 2 || packet[1] != 1 || packet[2] != 6 || binary.BigEndian.Uint32(packet[236:]) != 0x63825363 {
		return nil, nil, fmt.Errorf("not a BOOTREPLY for Ethernet: % x", packet[:4])
	}
	values = map[int][]byte{}
	for rest := packet[240:]; ; {
		switch {
		case len(rest) == 0:
			return nil, nil, fmt.Errorf("no end option")
		case rest[0] == 255:
			if strings.Trim(string(rest[1:]), "\x00") != "" {
				return nil, nil, fmt.Errorf("something comes after the end option")
			}
			return codes, values, nil
		case rest[0] == 0 || len(rest) < 2 || len(rest) < 2+int(rest[1]):
			return nil, nil, fmt.Errorf("option %d is cut or padding in the middle", rest[0])
		}
		code, content := int(rest[0]), rest[2:2+int(rest[1])]
		if len(codes) == 0 || codes[len(codes)-1] != code {
			if values[code] != nil {
				return nil, nil, fmt.Errorf("option %d comes in two places", code)
			}
			codes = append(codes, code)
		}
		values[code] = append(values[code], content...)
		rest = rest[2+len(content):]
	}
}

// words says a decision: the reply as it goes out, read back from its bytes, and the reason.
func words(t testing.TB, asked *dhcpv4.DHCPv4, d Decision) []string {
	t.Helper()
	var lines []string
	if d.Hold > 0 {
		lines = append(lines, fmt.Sprintf("hold %s for %s", d.Address, d.Hold))
	}
	if d.Decline || d.Release {
		lines = append(lines, fmt.Sprintf("decline=%v release=%v %s", d.Decline, d.Release, d.Address))
	}
	if d.Reply == nil {
		return append(lines, "no answer: "+d.Reason)
	}
	packet := encode(d.Reply)
	codes, values, err := walk(packet)
	if err != nil {
		t.Fatalf("reply %x: %v", packet, err)
	}
	to, unicast := destination(asked, d.Reply)
	line := fmt.Sprintf("to=%s", to)
	if unicast {
		line += " without ARP"
	}
	for _, f := range []struct {
		name  string
		place int
	}{{"ciaddr", 12}, {"yiaddr", 16}, {"siaddr", 20}, {"giaddr", 24}} {
		if a := netip.AddrFrom4([4]byte(packet[f.place:])); !a.IsUnspecified() {
			line += fmt.Sprintf(" %s=%s", f.name, a)
		}
	}
	if file, _, _ := strings.Cut(string(packet[fileStart:fileEnd]), "\x00"); file != "" {
		line += " file=" + file
	}
	lines = append(lines, line, optionWords(codes, values), "because: "+d.Reason)
	if string(packet[4:8]) != "xid!" || string(packet[28:44]) != string(append(asked.ClientHWAddr, make([]byte, 10)...)) {
		t.Errorf("transaction or hardware address differ: %x", packet[:44])
	}
	return lines
}

func optionWords(codes []int, values map[int][]byte) string {
	var out []string
	for _, code := range codes {
		value := values[code]
		word := hex.EncodeToString(value)
		switch {
		case code == 53:
			word = dhcpv4.MessageType(value[0]).String()
		case code == 51:
			word = fmt.Sprint(binary.BigEndian.Uint32(value))
		case among(code, textOptions):
			word = string(value)
		case among(code, addressOptions) && len(value) == 4:
			word = netip.AddrFrom4([4]byte(value)).String()
		case len(value) > 40:
			word = fmt.Sprintf("(%d bytes)", len(value))
		}
		out = append(out, fmt.Sprintf("%d=%s", code, word))
	}
	return strings.Join(out, " ")
}
