package netboot

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// exchange6 is what an exchange of DHCPv6 keeps besides: its decision, without the reply.
type exchange6 struct {
	decision Decision6
	from     netip.AddrPort
}

// note6 keeps an exchange of DHCPv6. The request's bytes are copied.
func (h *history) note6(packet []byte, d Decision6, from, to netip.AddrPort) {
	if d.MAC == nil {
		return
	}
	e := exchange{at: h.now(), port: portDHCP6, request: slices.Clone(packet[:min(len(packet), packetKept)]), to: to, six: &exchange6{d, from}}
	if d.Reply != nil {
		e.reply = d.Reply.ToBytes()
	}
	e.six.decision.Reply, e.six.decision.Message = nil, nil
	h.keep(d.MAC.String(), d.Known, e)
}

// words6 says an exchange of DHCPv6.
func (e exchange) words6(site *Site) Exchange {
	d := e.six.decision
	out := Exchange{Time: e.at, Reason: d.Reason}
	kind, options, err := inWords6(e.request)
	if err != nil { // cut
		out.Asked = fmt.Sprintf("%d bytes that are no DHCPv6 message: %v", len(e.request), err)
		return out
	}
	out.Asked = fmt.Sprintf("%s from %s to port %d, options %s", kind, e.six.from, e.port, options)
	machine := "machine: not in the cluster document"
	if d.Known {
		machine = fmt.Sprintf("machine: %s of the cluster document, role %s", d.Machine.Name, d.Machine.Role)
	}
	out.Path = []string{
		machine, fmt.Sprintf("MAC address: %s, told by %s", d.MAC, d.By), fmt.Sprintf("client: %s", d.Client),
		fmt.Sprintf("subnet: %s, server %s", site.IPv6.Subnet, site.IPv6.Server),
	}
	if d.Address.IsValid() {
		out.Path = append(out.Path, fmt.Sprintf("address: %s, reserved by the document", d.Address))
	}
	out.Path = append(out.Path, "decision: "+d.Reason)
	if e.reply == nil {
		return out
	}
	if kind, options, err = inWords6(e.reply); err != nil {
		out.Answer = err.Error()
		return out
	}
	out.Answer = fmt.Sprintf("%s to %s, options %s", kind, e.to, options)
	return out
}

// inWords6 says a packet: the client's or its own message's type and options by number, or those within relays.
func inWords6(packet []byte) (kind, options string, err error) {
	p, err := dhcpv6.FromBytes(packet)
	if err != nil {
		return "", "", err
	}
	message, err := p.GetInnerMessage()
	if err != nil {
		return "", "", err
	}
	kind = message.MessageType.String()
	if p.IsRelay() {
		kind += " through a relay"
	}
	var out []string
	for _, o := range message.Options.Options {
		out = append(out, fmt.Sprintf("%d=%s", uint16(o.Code()), quoted(o.ToBytes())))
	}
	return kind, strings.Join(out, " "), nil
}
