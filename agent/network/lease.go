package network

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Lease is what a DHCP server gave, checked.
type Lease struct {
	Link    string // name
	MAC     string
	Address netip.Prefix
	Router  netip.Addr // zero: none
	DNS     []netip.Addr
	Server  string // base URL of the boot server, without a slash at the end
}

// maxDNS bounds the name servers taken from an answer (resolv.conf's MAXNS).
const maxDNS = 3

// leaseFrom reads an offer or an acknowledgement. A base URL given here wins over option 67; without either, the answer
// is of no use: some other DHCP server's. Errors say what the answer lacks.
func leaseFrom(p *dhcpv4.DHCPv4, server string) (Lease, error) {
	addr, ok := netip.AddrFromSlice(p.YourIPAddr.To4())
	if !ok || addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() {
		return Lease{}, fmt.Errorf("it gives no usable address (%v)", p.YourIPAddr)
	}
	bits, size := p.SubnetMask().Size()
	if size != 32 || bits < 1 {
		return Lease{}, fmt.Errorf("it gives no usable subnet mask (option 1)")
	}
	if server == "" {
		var err error
		name := p.BootFileNameOption()
		if name == "" {
			name = p.BootFileName // option 67 is for when the header's field is taken (RFC 2132, 9.5)
		}
		if server, err = BaseURL(name); err != nil {
			return Lease{}, fmt.Errorf("its boot file name (option 67) is no boot server: %w", err)
		}
	}
	l := Lease{Address: netip.PrefixFrom(addr, bits), MAC: p.ClientHWAddr.String(), Server: server}
	for _, r := range p.Router() {
		if a, ok := netip.AddrFromSlice(r.To4()); ok && l.Address.Contains(a) && a != addr {
			l.Router = a
			break
		}
	}
	for _, d := range p.DNS() {
		if a, ok := netip.AddrFromSlice(d.To4()); ok && len(l.DNS) < maxDNS && !a.IsUnspecified() {
			l.DNS = append(l.DNS, a)
		}
	}
	return l, nil
}

// BaseURL checks the base URL of a boot server: http, a host, no more than a path.
func BaseURL(s string) (string, error) {
	u, err := url.Parse(strings.TrimRight(s, "\x00"))
	if err != nil {
		return "", fmt.Errorf("%q is not a URL", s)
	}
	if u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%q is not an address like http://10.1.0.1:8080", s)
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// defaultRoute is everything, IPv4.
var defaultRoute = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
