package bootspec

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// maxNetworkArgument bounds ArgNetwork in bytes: x86's kernels take 2048 for all arguments.
const maxNetworkArgument = 1536

// Shape is what a network's links are made of, without what they carry: addresses, routes, names. It is what the first
// stage needs to reach a boot server over bonds and VLANs. Bridges are left out: what is below them reaches it as well.
func (n Network) Shape() Network {
	var s Network
	left := map[string]bool{}
	for _, l := range n.Links {
		if l.Kind == KindBridge || l.VLAN != nil && left[l.VLAN.Parent] {
			left[l.Name] = true
			continue
		}
		s.Links = append(s.Links, Link{Name: l.Name, Kind: l.Kind, Match: l.Match, MTU: l.MTU, VLAN: l.VLAN, Members: l.Members, Bond: l.Bond})
	}
	return s
}

// Top is the names of the links that no other one is on or made of.
func (n Network) Top() []string {
	var names []string
	for _, l := range n.Links {
		if !slices.ContainsFunc(n.Links, func(u Link) bool { return slices.Contains(u.Below(), l.Name) }) {
			names = append(names, l.Name)
		}
	}
	return names
}

// Argument is the network's shape as the value of ArgNetwork: JSON in base64 (RFC 4648, 5, without padding).
func (n Network) Argument() (string, error) {
	text, err := json.Marshal(n.Shape())
	if err != nil {
		return "", fmt.Errorf("cannot write network argument: %w", err)
	}
	value := base64.RawURLEncoding.EncodeToString(text)
	if len(value) > maxNetworkArgument {
		return "", fmt.Errorf("cannot write network argument: %d bytes are over the limit of %d for a kernel argument", len(value), maxNetworkArgument)
	}
	return value, nil
}

// BootArgument is Argument for a machine that boots by the card of a MAC address and is reached at an address; empty when that needs no bond and no
// VLAN. The card is the first member of its bond: that gives the bond its MAC address, by which the boot server knows the machine.
func (n Network) BootArgument(mac string, address netip.Addr) (string, error) {
	by := slices.IndexFunc(n.Links, func(l Link) bool {
		return slices.ContainsFunc(l.Addresses, func(a netip.Prefix) bool { return a.Addr() == address })
	})
	if by < 0 || n.Links[by].Kind == KindPhysical || n.Links[by].Kind == KindBridge {
		return "", nil
	}
	card := slices.IndexFunc(n.Links, func(l Link) bool { return l.Match != nil && strings.EqualFold(l.Match.MAC, mac) })
	links := slices.Clone(n.Links)
	for i, l := range links {
		if card >= 0 && l.Kind == KindBond && slices.Contains(l.Members, links[card].Name) {
			others := slices.DeleteFunc(slices.Clone(l.Members), func(m string) bool { return m == links[card].Name })
			links[i].Members = append([]string{links[card].Name}, others...)
		}
	}
	return Network{Links: links}.Argument()
}

// ParseNetworkArgument reads what Argument wrote, strictly.
func ParseNetworkArgument(value string) (Network, error) {
	var n Network
	if len(value) > maxNetworkArgument {
		return n, fmt.Errorf("kernel argument %s: %d bytes are over the limit of %d", ArgNetwork, len(value), maxNetworkArgument)
	}
	text, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		return n, fmt.Errorf("kernel argument %s: %w (`slipway net plan --output argument` prints it)", ArgNetwork, err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&n); err != nil {
		return Network{}, fmt.Errorf("kernel argument %s: %w (`slipway net plan --output argument` prints it)", ArgNetwork, err)
	}
	if len(n.Links) == 0 {
		return Network{}, fmt.Errorf("kernel argument %s: it has no links", ArgNetwork)
	}
	return n.Shape(), nil
}
