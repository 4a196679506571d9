package network

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Lease is what a DHCP server gave, checked.
type Lease struct {
	Link    string // name
	MAC     string
	Address netip.Prefix
	Router  netip.Addr // zero: none
	DNS     []netip.Addr
	Server  string       // base URL of the boot server, without a slash at the end
	Others  []netip.Addr // further boot servers of the site
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
	var further []netip.Addr
	if server == "" {
		further = others(p)
		var err error
		name := p.BootFileNameOption()
		if name == "" {
			name = p.BootFileName // option 67 is for when the header's field is taken (RFC 2132, 9.5)
		}
		if server, err = BaseURL(name); err != nil {
			return Lease{}, fmt.Errorf("its boot file name (option 67) is no boot server: %w", err)
		}
	}
	l := Lease{Address: netip.PrefixFrom(addr, bits), MAC: p.ClientHWAddr.String(), Server: server, Others: further}
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

// others are further boot servers that an answer tells of: a list in option 43 (RFC 2132 section 8.4). Anything else there is passed over.
func others(p *dhcpv4.DHCPv4) (out []netip.Addr) {
	rest := p.Options.Get(dhcpv4.OptionVendorSpecificInformation)
	for len(rest) >= 2 && rest[0] != dhcpv4.OptionEnd.Code() {
		code, length := rest[0], int(rest[1])
		if rest = rest[2:]; length > len(rest) {
			return out
		}
		for list := rest[:length]; code == bootspec.OptionServers && len(list) >= 4 && len(out) < bootspec.MaxServers; list = list[4:] {
			if a := netip.AddrFrom4([4]byte(list)); a.IsGlobalUnicast() {
				out = append(out, a)
			}
		}
		rest = rest[length:]
	}
	return out
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
