package network

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/slipway-os/slipway/images/bootspec"
)

// later6 is how long DHCP over IPv4 is alone before IPv6 is asked too: where both work, a node's network is the document's IPv4
// one, and the boot server is better reached over that.
const later6 = 6 * time.Second

// ask6 asks DHCPv6 on one link until it has a lease or ctx ends. A kernel without IPv6 makes it ask in vain; only a server's faults
// are worth a word.
func (f Finder) ask6(ctx context.Context, l LinkState, found chan<- Lease) {
	for pause := orDefault(f.Later6, later6); ; pause = min(2*pause, 16*time.Second) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause + rand.N(pause/4+1)):
		}
		lease, err := f.exchange6(ctx, l, max(pause, time.Second))
		if err == nil {
			select {
			case found <- lease:
			case <-ctx.Done():
			}
			return
		}
		if errors.Is(err, errNoUse) && ctx.Err() == nil {
			f.Log.Warn("DHCPv6 failed, trying again", "link", l.Name, "cause", err)
		}
	}
}

// errNoUse says that a DHCPv6 server has answered, and what it said is of no use.
var errNoUse = errors.New("the answer is no use")

// exchange6 is one SOLICIT and a REPLY, or ADVERTISE, REQUEST and REPLY (RFC 8415 section 18.2.1); each answer is waited for as long as wait.
func (f Finder) exchange6(ctx context.Context, l LinkState, wait time.Duration) (Lease, error) {
	c, err := nclient6.New(l.Name, nclient6.WithTimeout(wait), nclient6.WithRetry(1))
	if err != nil {
		return Lease{}, err
	}
	defer c.Close()
	mac := c.InterfaceAddr()
	reply, err := c.RapidSolicit(ctx,
		dhcpv6.WithClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac}), // without a time: the clock isn't set
		dhcpv6.WithUserClass([]byte(bootspec.VendorClass)),
		dhcpv6.WithRequestedOptions(dhcpv6.OptionBootfileURL, dhcpv6.OptionDNSRecursiveNameServer))
	if err != nil {
		return Lease{}, err
	}
	lease, err := leaseFrom6(reply, f.Server)
	if err != nil {
		return Lease{}, fmt.Errorf("%w: %w", errNoUse, err)
	}
	lease.Link, lease.MAC = l.Name, mac.String()
	return lease, nil
}

// leaseFrom6 is leaseFrom for DHCPv6, which tells no subnet mask: the address is of a /64 with the boot server, or stands alone and
// routers lead on (RFC 5942).
func leaseFrom6(p *dhcpv6.Message, server string) (Lease, error) {
	ia := p.Options.OneIANA()
	if ia == nil || ia.Options.OneAddress() == nil || ia.Options.OneAddress().ValidLifetime == 0 {
		return Lease{}, errors.New("it gives no address")
	}
	addr, ok := netip.AddrFromSlice(ia.Options.OneAddress().IPv6Addr)
	if !ok || !addr.Is6() || addr.Is4In6() || !addr.IsGlobalUnicast() {
		return Lease{}, fmt.Errorf("it gives no usable address (%v)", ia.Options.OneAddress().IPv6Addr)
	}
	var err error
	if server == "" {
		if server, err = BaseURL(p.Options.BootFileURL()); err != nil {
			return Lease{}, fmt.Errorf("its boot file URL (option 59) is no boot server: %w", err)
		}
	}
	l := Lease{Address: netip.PrefixFrom(addr, 128), Server: server}
	if u, err := url.Parse(server); err == nil {
		if host, err := netip.ParseAddr(u.Hostname()); err == nil && netip.PrefixFrom(addr, 64).Contains(host) {
			l.Address = netip.PrefixFrom(addr, 64)
		}
	}
	for _, d := range p.Options.DNS() {
		if a, ok := netip.AddrFromSlice(d.To16()); ok && len(l.DNS) < maxDNS && !a.IsUnspecified() {
			l.DNS = append(l.DNS, a)
		}
	}
	return l, nil
}
