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
	"golang.org/x/sys/unix"
)

// maxDHCP bounds a request in bytes: an Ethernet frame and some more.
const maxDHCP = 4096

// maxKept bounds the acknowledgements that wait for their lease to be on disk. More aren't begun: their clients ask again.
const maxKept = 2048

// dhcp answers DHCP on one interface.
type dhcp struct {
	policy Policy
	states *states
	leases *leases
	past   *history
	rivals *rivals
	log    *slog.Logger
	link   int // interface index
	conn   *net.UDPConn
	kept   chan kept
	site   func() *Site // the one that is served now; nil: always policy's
}

// kept is what is done once a change of the leases is on disk.
type kept struct {
	saved   <-chan error
	mac     string
	request *dhcpv4.DHCPv4
	reply   *dhcpv4.DHCPv4 // nil: none
}

// serve answers until ctx ends.
func (s *dhcp) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	s.kept = make(chan kept, maxKept)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.acknowledge()
	}()
	defer func() { close(s.kept); <-ended }()
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
			pause(ctx, time.Second) // the interface is down
			continue
		}
		request, err := decode(buffer[:n])
		if err != nil {
			s.log.Debug("dhcp: not a DHCP message", "from", from, "error", err)
			continue
		}
		s.current().handle(buffer[:n], request)
	}
}

// acknowledge sends what waits for the disk. While it waits for one lease others join it: they are written together.
func (s *dhcp) acknowledge() {
	for k := range s.kept {
		if err := <-k.saved; err != nil {
			s.log.Error("dhcp: cannot keep a lease, so none is given", "mac", k.mac, "error", err)
			continue
		}
		s.reply(k.mac, k.request, k.reply)
	}
}

// handle decides and does.
func (s *dhcp) handle(packet []byte, request *dhcpv4.DHCPv4) {
	d := Decide(request, s.policy)
	var to netip.AddrPort
	unicast := false
	if d.Reply != nil {
		to, unicast = destination(request, d.Reply)
	}
	s.past.note(portDHCP, packet, request, d, to, unicast)
	if server := address(request.ServerIdentifier()); server.IsValid() && !s.policy.Site.Proxy {
		s.rivals.saw(server, "", fmt.Sprintf("%s asks it: %s", request.ClientHWAddr, request.MessageType()))
	}
	mac := request.ClientHWAddr.String()
	if len(s.kept) == cap(s.kept) && (d.Hold > offerTime || d.Decline || d.Release) {
		s.log.Warn("dhcp: not answered, the disk is slower than requests for leases come", "mac", mac)
		return
	}
	s.tell(request, d, "dhcp")
	if saved := s.keep(d, mac); saved != nil {
		s.kept <- kept{saved, mac, request, d.Reply}
		return
	}
	s.reply(mac, request, d.Reply)
}

// tell notes a decision and logs it.
func (s *dhcp) tell(request *dhcpv4.DHCPv4, d Decision, what string) {
	level, mac := slog.LevelDebug, request.ClientHWAddr.String()
	if other := s.note(d, mac); d.Reply != nil || other {
		level = slog.LevelInfo
	}
	s.log.Log(context.Background(), level, what, "mac", mac, "node", d.Machine.Name, "message", request.MessageType(),
		"client", string(d.Client), "answer", d.Reason)
}

// keep notes what a decision does to the pool. The channel tells when it's on disk; nil: it needn't be.
func (s *dhcp) keep(d Decision, mac string) <-chan error {
	switch {
	case d.Hold > 0:
		return s.leases.hold(mac, d.Address, d.Hold)
	case d.Decline && d.Known:
		s.log.Warn("dhcp: something else uses a node's address", "node", d.Machine.Name, "address", d.Address)
	case d.Decline:
		return s.leases.decline(mac, d.Address)
	case d.Release:
		return s.leases.release(mac, d.Address)
	}
	return nil
}

// note keeps what the decision tells of the machine, and says whether that's another thing than last time.
func (s *dhcp) note(d Decision, mac string) bool {
	if (d.Known || s.policy.Site.Discover) && d.Reply != nil && d.Reply.MessageType() == dhcpv4.MessageTypeOffer && d.Client.firmware() {
		s.states.offered(mac, d.Reason)
	}
	if !d.Known && !s.policy.Site.ListUnknown {
		return false
	}
	address := ""
	if d.Address.IsValid() && (d.Reply != nil || s.policy.Site.Proxy && d.Known) {
		address = d.Address.String()
	}
	return s.states.seen(mac, address, d.Reason)
}

func (s *dhcp) reply(mac string, request, reply *dhcpv4.DHCPv4) {
	if reply == nil {
		return
	}
	if err := s.send(request, reply); err != nil {
		s.log.Error("dhcp: cannot answer", "mac", mac, "error", err)
	}
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
	// The server identifier and the packet's source must be the same address, also where the interface has several.
	source := unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(s.link), Spec_dst: s.policy.Site.Server.As4()})
	if _, _, err := s.conn.WriteMsgUDPAddrPort(encode(reply), source, to); err != nil {
		return fmt.Errorf("cannot send to %s: %w", to, err)
	}
	return nil
}

func pause(ctx context.Context, how time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(how):
	}
}
