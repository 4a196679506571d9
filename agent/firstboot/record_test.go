package firstboot

import (
	"net/netip"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// TestAfterBoot: a node that booted over IPv6 and has none afterwards reports to the server that its configuration names.
func TestAfterBoot(t *testing.T) {
	node := bootspec.Node{Server: "http://10.1.0.1:8080", Network: bootspec.Network{Links: []bootspec.Link{{Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.21/24")}}}}}
	six := node
	six.Network = bootspec.Network{Links: []bootspec.Link{{Addresses: []netip.Prefix{netip.MustParsePrefix("fd00:1::21/64")}}}}
	offline := node
	offline.Server = ""
	for name, c := range map[string]struct {
		node   bootspec.Node
		server string
		kept   bool
	}{
		"IPv4": {node, "http://10.1.0.1:8080", true}, "another IPv4": {node, "http://10.9.0.1:8080", true}, "IPv6 stays": {six, "http://[fd00:1::1]:8080", true},
		"IPv6 goes": {node, "http://[fd00:1::1]:8080", false}, "no other is known": {offline, "http://[fd00:1::1]:8080", true}, "none": {node, "", true},
	} {
		got := afterBoot(bootspec.BootState{Server: c.server, Secure: &bootspec.Secure{}}, c.node)
		if kept := got.Server == c.server && got.Secure != nil; kept != c.kept {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
