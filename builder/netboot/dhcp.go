package netboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"

	"github.com/slipway-os/slipway/images/bootspec"
)

// maxDHCP bounds a request in bytes: an Ethernet frame and some more.
const maxDHCP = 4096

// dhcp answers DHCP on one interface.
type dhcp struct {
	policy Policy
	states *states
	leases *leases
	log    *slog.Logger
	link   int // interface index
	conn   *net.UDPConn
}

// serve answers until ctx ends.
func (s *dhcp) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buffer := make([]byte, maxDHCP)
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buffer)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("cannot read DHCP requests: %w", err)
		}
		if err != nil {
			s.log.Warn("dhcp: cannot read a request", "error", err)
			continue
		}
		request, err := decode(buffer[:n])
		if err != nil {
			s.log.Debug("dhcp: not a DHCP message", "from", from, "error", err)
			continue
		}
		s.handle(request)
	}
}

// endOption closes the options. Some clients leave it out when they fill the packet; the library insists on it.
const endOption = 255

func decode(packet []byte) (*dhcpv4.DHCPv4, error) {
	request, err := dhcpv4.FromBytes(packet)
	if err != nil && len(packet) > bootpHeader {
		request, err = dhcpv4.FromBytes(append(packet[:len(packet):len(packet)], endOption))
	}
	return request, err
}

// handle decides and does.
func (s *dhcp) handle(request *dhcpv4.DHCPv4) {
	policy := s.policy
	var leaseError error
	policy.Lease = func(mac string, wish netip.Addr) netip.Addr {
		a, err := s.leases.give(mac, wish)
		if leaseError = err; err != nil {
			return netip.Addr{}
		}
		return a
	}
	d := Decide(request, policy)
	mac := request.ClientHWAddr.String()
	if leaseError != nil {
		s.log.Error("dhcp: cannot keep a lease, so none is given", "mac", mac, "error", leaseError)
	}
	s.log.Info("dhcp", "mac", mac, "node", d.Machine.Name, "message", request.MessageType(), "client", string(d.Client), "answer", d.Reason)
	s.note(d, mac)
	if d.Reply == nil {
		return
	}
	if err := s.send(request, d.Reply); err != nil {
		s.log.Error("dhcp: cannot answer", "mac", mac, "error", err)
	}
}

// note keeps what the decision tells of the machine.
func (s *dhcp) note(d Decision, mac string) {
	var err error
	switch {
	case d.Decline:
		err = s.leases.decline(mac, d.Address)
	case d.Release:
		err = s.leases.release(mac, d.Address)
	case d.Known && d.Reply != nil && d.Reply.MessageType() == dhcpv4.MessageTypeOffer && d.firmware():
		err = s.states.offered(mac, fmt.Sprintf("%s to %s", d.Address, d.Client))
	}
	if err != nil {
		s.log.Error("dhcp: cannot keep state", "mac", mac, "error", err)
	}
	if d.Known || s.policy.Site.ListUnknown {
		leased := ""
		if d.Reply != nil && d.Address.IsValid() {
			leased = d.Address.String()
		}
		s.states.seen(mac, leased, d.Reason)
	}
}

// firmware says that the client is what a machine boots with, so that its DISCOVER begins a boot.
func (d Decision) firmware() bool {
	return d.Client == ClientPXE || d.Client == ClientHTTP || d.Client == ClientBIOS || d.Client == ClientOther
}

// send sends a reply the way its client can hear it.
func (s *dhcp) send(request, reply *dhcpv4.DHCPv4) error {
	to, unicast := destination(request, reply)
	if unicast {
		// The client has no address yet and answers no ARP: tell the kernel its hardware address.
		neighbour := &netlink.Neigh{
			LinkIndex: s.link, Family: netlink.FAMILY_V4, State: netlink.NUD_REACHABLE, IP: to.Addr().AsSlice(), HardwareAddr: request.ClientHWAddr,
		}
		if err := netlink.NeighSet(neighbour); err != nil {
			s.log.Warn("dhcp: cannot set a neighbour entry, broadcasting", "error", err)
			to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), to.Port())
		}
	}
	if _, err := s.conn.WriteToUDPAddrPort(encode(reply), to); err != nil {
		return fmt.Errorf("cannot send to %s: %w", to, err)
	}
	return nil
}

// kernelSentByTFTP notes a transfer that has ended.
func kernelSentByTFTP(site *Site, states *states, client netip.Addr, name string, size int64) error {
	for _, m := range site.Machines {
		if m.Address == client {
			return states.record(m.MAC.String(), bootspec.EventKernelSent, fmt.Sprintf("%s, %.1f MB by TFTP", name, float64(size)/1e6))
		}
	}
	return nil
}
