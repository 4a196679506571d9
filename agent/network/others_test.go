package network

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestOthers: further boot servers are a list in option 43; what is no such list is passed over, and the bounds hold.
func TestOthers(t *testing.T) {
	for _, c := range []struct {
		option []byte
		want   string
	}{
		{nil, "[]"},
		{[]byte{1, 4, 10, 1, 0, 2}, "[10.1.0.2]"},
		{[]byte{6, 1, 8, 1, 8, 10, 1, 0, 2, 10, 1, 0, 3, 255, 1, 4, 10, 1, 0, 4}, "[10.1.0.2 10.1.0.3]"},
		{[]byte{1, 5, 10, 1, 0, 2, 10}, "[10.1.0.2]"},
		{[]byte{1, 8, 10, 1, 0, 2}, "[]"},
		{[]byte{1}, "[]"},
		{[]byte{1, 12, 0, 0, 0, 0, 255, 255, 255, 255, 127, 0, 0, 1}, "[]"},
		{append([]byte{1, 80}, []byte(strings.Repeat("\x0a\x01\x00\x02", 20))...), "[" + strings.TrimSpace(strings.Repeat("10.1.0.2 ", 8)) + "]"},
	} {
		p := &dhcpv4.DHCPv4{YourIPAddr: net.IPv4(10, 1, 0, 11), Options: dhcpv4.Options{}}
		bootServer(p)
		p.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)))
		if c.option != nil {
			p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, c.option))
		}
		lease, err := leaseFrom(p, "")
		if got := fmt.Sprint(lease.Others); got != c.want || err != nil {
			t.Errorf("% x: %s, %v, want %s", c.option, got, err, c.want)
		}
		if lease, _ := leaseFrom(p, "http://10.9.9.9:8080"); len(lease.Others) != 0 {
			t.Error("another DHCP server's option 43 is taken")
		}
	}
}
