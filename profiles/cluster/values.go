package cluster

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// APIPort is the port of the API servers.
const APIPort = 6443

// wrong is a value that can't be read, with what to write instead.
type wrong struct{ message, hint string }

func (w wrong) Error() string { return w.message }

// Hint says what to write instead; images/document asks for it.
func (w wrong) Hint() string { return w.hint }

// MAC is a 48-bit hardware address of one interface, in lower case with colons: 52:54:00:00:00:11.
type MAC string

// ParseMAC reads a MAC address with colons, dashes or dots. Group addresses and zero are refused.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return "", wrong{fmt.Sprintf("%q is not a MAC address", s), "write six bytes like 52:54:00:00:00:11"}
	}
	if hw[0]&1 != 0 {
		return "", wrong{fmt.Sprintf("%q is a group address, no machine has it", s), "the first byte of a machine's MAC address is even"}
	}
	if strings.Trim(hw.String(), "0:") == "" {
		return "", wrong{fmt.Sprintf("%q is no machine's MAC address", s), "look at the machine's label or its firmware's boot menu"}
	}
	return MAC(hw.String()), nil
}

// UnmarshalText reads what ParseMAC reads.
func (m *MAC) UnmarshalText(text []byte) (err error) {
	*m, err = ParseMAC(string(text))
	return err
}

// HardwareAddr is m for package net; nil when m is empty.
func (m MAC) HardwareAddr() net.HardwareAddr {
	hw, err := net.ParseMAC(string(m))
	if err != nil {
		return nil
	}
	return hw
}

// Range is a range of addresses, both ends included. The zero Range is empty.
type Range struct{ First, Last netip.Addr }

// UnmarshalText reads FIRST-LAST.
func (r *Range) UnmarshalText(text []byte) error {
	const hint = "write it like 10.1.0.100-10.1.0.199"
	first, last, ok := strings.Cut(string(text), "-")
	a, err := netip.ParseAddr(strings.TrimSpace(first))
	b, err2 := netip.ParseAddr(strings.TrimSpace(last))
	if !ok || err != nil || err2 != nil || a.Is4() != b.Is4() {
		return wrong{fmt.Sprintf("%q is not a range of addresses", text), hint}
	}
	if b.Less(a) {
		return wrong{fmt.Sprintf("the range %s ends before it begins", text), hint}
	}
	*r = Range{First: a, Last: b}
	return nil
}

// IsValid says whether the range has addresses.
func (r Range) IsValid() bool { return r.First.IsValid() }

// Contains says whether a lies in the range.
func (r Range) Contains(a netip.Addr) bool {
	return r.IsValid() && a.IsValid() && !a.Less(r.First) && !r.Last.Less(a)
}

// String is FIRST-LAST, or nothing for the empty range.
func (r Range) String() string {
	if !r.IsValid() {
		return ""
	}
	return r.First.String() + "-" + r.Last.String()
}

// Endpoint is a host, an address or a DNS name, and a port.
type Endpoint struct {
	Host string
	Port int
}

// UnmarshalText reads HOST or HOST:PORT; the port is 6443 unless it is given.
func (e *Endpoint) UnmarshalText(text []byte) error {
	const hint = "write an address or a name, like 10.1.0.5 or api.example.com:6443"
	host, port := string(text), APIPort
	if _, err := netip.ParseAddr(host); err != nil && strings.Contains(host, ":") {
		h, p, err := net.SplitHostPort(host)
		n, err2 := strconv.Atoi(p)
		if err != nil || err2 != nil || n < 1 || n > 65535 {
			return wrong{fmt.Sprintf("%q is not a host with a port", text), hint}
		}
		host, port = h, n
	}
	if _, err := netip.ParseAddr(host); err != nil && !isDomain(host) {
		return wrong{fmt.Sprintf("%q is neither an address nor a DNS name", host), hint}
	}
	*e = Endpoint{Host: host, Port: port}
	return nil
}

// String is HOST:PORT.
func (e Endpoint) String() string { return net.JoinHostPort(e.Host, strconv.Itoa(e.Port)) }

// Taint keeps pods off a node.
type Taint struct{ Key, Value, Effect string }

// UnmarshalText reads KEY=VALUE:EFFECT or KEY:EFFECT, as kubectl does.
func (t *Taint) UnmarshalText(text []byte) error {
	const hint = "write it like dedicated=db:NoSchedule; effects are NoSchedule, PreferNoSchedule, NoExecute"
	spec, effect, ok := strings.Cut(string(text), ":")
	key, value, _ := strings.Cut(spec, "=")
	if !ok || !isLabelKey(key) || !isLabelValue(value) {
		return wrong{fmt.Sprintf("%q is not a taint", text), hint}
	}
	switch effect {
	case "NoSchedule", "PreferNoSchedule", "NoExecute":
	default:
		return wrong{fmt.Sprintf("%q is not an effect of a taint", effect), hint}
	}
	*t = Taint{Key: key, Value: value, Effect: effect}
	return nil
}

var (
	dnsLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`) // RFC 1123, section 2.1, lower case
	linkName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	uuid     = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	labelish = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
)

// isDomain says whether s is a DNS name of labels, at most 253 bytes, in lower case. A last label of digits alone makes
// it a mistyped address (RFC 3696, section 2).
func isDomain(s string) bool {
	if len(s) > 253 || strings.Trim(s[strings.LastIndexByte(s, '.')+1:], "0123456789") == "" {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !dnsLabel.MatchString(label) {
			return false
		}
	}
	return true
}

// isLabelKey and isLabelValue are the syntax of Kubernetes labels.
func isLabelKey(s string) bool {
	prefix, name, ok := strings.Cut(s, "/")
	if !ok {
		return labelish.MatchString(s)
	}
	return isDomain(prefix) && labelish.MatchString(name)
}

func isLabelValue(s string) bool { return s == "" || labelish.MatchString(s) }
