package netboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Beside a DHCP server that is there already, this one gives no addresses: it tells firmware what to boot, in an offer without an
// address (PXE specification 2.1, section 2.2.1, "proxyDHCP"), and at port 4011, where the firmware asks again once it has its
// address.

// decideProxy says what a proxyDHCP server answers; atBootPort: the packet came to port 4011. Like Decide it is pure.
func decideProxy(request *dhcpv4.DHCPv4, policy Policy, atBootPort bool) Decision {
	d := Decision{Client: clientOf(request), On: policy.On}
	d.Machine, d.Known = policy.Site.machine(request.ClientHWAddr)
	if d.Reason = unfit(request); d.Reason != "" || !d.place(request, policy) {
		return d
	}
	if !d.Known {
		d.Reason = "not in the cluster document"
		return d
	}
	kind, server := request.MessageType(), address(request.ServerIdentifier())
	switch {
	case kind == dhcpv4.MessageTypeDiscover && !atBootPort:
		d.answerProxy(request, policy, dhcpv4.MessageTypeOffer, atBootPort)
	case kind == dhcpv4.MessageTypeRequest, kind == dhcpv4.MessageTypeInform && atBootPort:
		d.Address = wish(request) // what the other server gave it
		if atBootPort || policy.Site.ours(server) {
			d.answerProxy(request, policy, dhcpv4.MessageTypeAck, atBootPort)
			return d
		}
		d.Reason = fmt.Sprintf("client asks another server for %s", d.Address)
	default:
		d.Reason = fmt.Sprintf("message type %s is the other DHCP server's", kind)
	}
	return d
}

// answerProxy answers a client that has something to boot; no other one needs a proxy's answer.
func (d *Decision) answerProxy(request *dhcpv4.DHCPv4, policy Policy, kind dhcpv4.MessageType, atBootPort bool) {
	if d.Client == ClientPlain {
		d.Reason = "a plain client: addresses are the other DHCP server's"
		return
	}
	reply := newReply(request, d.Server, kind)
	if kind == dhcpv4.MessageTypeAck {
		// The answer goes there.
		if own := address(request.ClientIPAddr); own.IsValid() {
			if _, ours := policy.Site.subnet(own); !ours {
				d.Reason = fmt.Sprintf("its address %s is in no subnet of this server's", own)
				return
			}
		}
		reply.ClientIPAddr = request.ClientIPAddr
	}
	boot := d.bootFile(request, reply, policy)
	if !bootable(reply) {
		d.Reason = "nothing for " + string(d.Client) + boot
		return
	}
	d.fitProxy(reply, policy, atBootPort)
	echo(request, reply)
	fit(reply, limit(request, policy.MTU))
	d.Reply = reply
	d.Reason = fmt.Sprintf("proxy %s for %s%s", strings.ToLower(kind.String()), d.Client, boot)
}

// bootable says whether a reply has something that its client could do.
func bootable(reply *dhcpv4.DHCPv4) bool {
	return reply.BootFileName != "" || reply.Options.Has(dhcpv4.OptionBootfileName) || reply.Options.Has(dhcpv4.OptionVendorSpecificInformation)
}

// fitProxy makes of what a full server says what a proxy must say.
func (d *Decision) fitProxy(reply *dhcpv4.DHCPv4, policy Policy, atBootPort bool) {
	switch d.Client {
	case ClientPXE, ClientOther:
		// EDK2 throws a proxy's offer with discovery options away, and asks port 4011 when there are none (PxeBcCacheDhcp4Offer).
		// There it takes the file; only "boot your disk" needs the options.
		if !atBootPort || reply.Options.Has(dhcpv4.OptionBootfileName) || reply.BootFileName != "" {
			reply.Options.Del(dhcpv4.OptionVendorSpecificInformation)
		}
	case ClientIPXE:
		// iPXE takes a proxy by its class, and its answer when that has both a next server and a file. Those of the DHCP server
		// count even so, unless the proxy's have a higher priority, encapsulated option 1 (iPXE's settings: src/core/settings.c).
		reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(optionIPXE), []byte{1, 1, 100, endOption}))
		reply.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient"))
		reply.ServerIPAddr = d.Server.AsSlice()
		if url := reply.BootFileNameOption(); len(url) < headerFile {
			reply.BootFileName = url
		}
	case ClientAgent:
		reply.UpdateOption(dhcpv4.OptClassIdentifier(bootspec.VendorClass)) // the agent tells a proxy by it
	}
}

// serveBootPort answers at port 4011 until ctx ends.
func (s *dhcp) serveBootPort(ctx context.Context, conn *net.UDPConn) error {
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buffer := make([]byte, maxDHCP)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		switch {
		case err != nil && ctx.Err() != nil: // what was read before is answered
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("cannot read requests at port %d: %w", portBoot, err)
		case err != nil:
			s.log.Warn("pxe: cannot read a request", "error", err)
			pause(ctx, time.Second)
			continue
		}
		request, err := decode(buffer[:n])
		if err != nil {
			s.log.Debug("pxe: not a DHCP message", "from", from, "error", err)
			continue
		}
		s.current().handleBootPort(conn, buffer[:n], request, from)
	}
}

// handleBootPort answers to where the request came from: the client has its address by now.
func (s *dhcp) handleBootPort(conn *net.UDPConn, packet []byte, request *dhcpv4.DHCPv4, from netip.AddrPort) {
	d := decideProxy(request, s.policy, true)
	if _, near := s.policy.Site.subnet(from.Addr().Unmap()); near && !d.Address.IsValid() {
		d.Address = from.Addr().Unmap()
	}
	var answer []byte
	if d.Reply != nil {
		answer = encode(d.Reply)
	}
	s.past.note(portBoot, packet, request, d, answer, from, false)
	s.tell(request, d, "pxe")
	if d.Reply == nil {
		return
	}
	if _, err := conn.WriteToUDPAddrPort(answer, from); err != nil {
		s.log.Error("pxe: cannot answer", "mac", request.ClientHWAddr, "to", from, "error", err)
	}
}
