package netboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"
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
	leases pools
	past   *history
	rivals *rivals
	ours   *sisters // other boot servers of this site
	log    *slog.Logger
	now    func() time.Time
	link   *net.Interface
	conn   *net.UDPConn
	probes *prober // nil: no addresses are probed
	kept   chan kept
	site   func() *Site // the one that is served now; nil: always policy's
	turn   *sync.Mutex  // one decision at a time, on all interfaces
}

// kept is what is done once a change of the leases is on disk.
type kept struct {
	saved   <-chan error
	mac     string
	request *dhcpv4.DHCPv4
	reply   *dhcpv4.DHCPv4 // nil: none
	packet  []byte         // the reply's
}

// batch is how many requests are read with one call.
const batch = 64

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
	if s.policy.Site.ServeUnknown && !s.policy.Site.Proxy {
		probes, end := s.openProbes(s.link, s.policy.at()[0], s.now)
		s.probes = probes
		defer end()
	}
	conn := ipv4.NewPacketConn(s.conn)
	if err := conn.SetControlMessage(ipv4.FlagDst, true); err != nil {
		return fmt.Errorf("cannot read DHCP requests: %w", err)
	}
	messages := make([]ipv4.Message, batch)
	for i := range messages {
		messages[i].Buffers, messages[i].OOB = [][]byte{make([]byte, maxDHCP)}, ipv4.NewControlMessage(ipv4.FlagDst)
	}
	for {
		n, err := conn.ReadBatch(messages, 0)
		if err != nil && ctx.Err() != nil { // what was read before is answered
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
		for _, m := range messages[:n] {
			s.take(m)
		}
	}
}

// take reads a packet.
func (s *dhcp) take(m ipv4.Message) {
	s = s.current()
	packet := m.Buffers[0][:m.N]
	request, err := decode(packet)
	if err != nil {
		s.log.Debug("dhcp: not a DHCP message", "from", m.Addr, "error", err)
		return
	}
	var control ipv4.ControlMessage
	unicast := false
	if control.Parse(m.OOB[:m.NN]) == nil {
		unicast = s.policy.Site.ours(address(control.Dst))
	}
	s.handle(packet, request, unicast)
}

// acknowledge sends what waits for the disk. While it waits for one lease others join it: they are written together.
func (s *dhcp) acknowledge() {
	pace := pace{now: time.Now, rest: time.Sleep}
	for k := range s.kept {
		err := <-k.saved
		pace.wait()
		if errors.Is(err, errTaken) {
			s.refuse(k)
			continue
		}
		if err != nil {
			s.log.Error("dhcp: cannot keep a lease, so none is given", "mac", k.mac, "error", err)
			continue
		}
		s.reply(k.mac, k.request, k.reply, k.packet)
	}
}

// refuse tells a client that another machine has its address; it asks anew.
func (s *dhcp) refuse(k kept) {
	d := Decision{}
	if k.reply != nil {
		d.Server = address(k.reply.ServerIdentifier())
	}
	d.refuse(k.request, s.policy, errTaken.Error())
	s.log.Info("dhcp", "mac", k.mac, "message", k.request.MessageType(), "answer", d.Reason)
	s.reply(k.mac, k.request, d.Reply, encode(d.Reply))
}

// handle decides and does. unicast: the packet came to our own address.
func (s *dhcp) handle(packet []byte, request *dhcpv4.DHCPv4, unicast bool) {
	if request.MessageType() == dhcpv4.MessageTypeDiscover && s.ours.link(request.ClientHWAddr.String()) {
		return // a boot server of this site asks who else is there
	}
	mac := request.ClientHWAddr.String()
	d, answer, saved := s.decide(mac, packet, request, unicast)
	if saved != nil {
		s.kept <- kept{saved, mac, request, d.Reply, answer}
		return
	}
	s.reply(mac, request, d.Reply, answer)
}

// decide decides, and keeps what that does to the pool before the next one decides: an address is proposed to one machine at a time.
// answer is the reply in bytes; saved tells when it may go out, nil: now.
func (s *dhcp) decide(mac string, packet []byte, request *dhcpv4.DHCPv4, unicast bool) (d Decision, answer []byte, saved <-chan error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	policy := s.policy
	policy.Unicast = unicast
	d = Decide(request, policy)
	if s.probed(packet, request, d, unicast) {
		return Decision{}, nil, nil
	}
	var to netip.AddrPort
	direct := false
	if d.Reply != nil {
		to, direct = destination(request, d.Reply)
		answer = encode(d.Reply)
	}
	s.past.note(portDHCP, packet, request, d, answer, to, direct)
	server := address(request.ServerIdentifier())
	if s.ours.is(server) {
		return Decision{}, nil, nil // it answers
	}
	if server.IsValid() && !s.policy.Site.Proxy {
		s.rivals.saw(server, "", fmt.Sprintf("%s asks it: %s", request.ClientHWAddr, request.MessageType()))
	}
	if len(s.kept) == cap(s.kept) && (d.Hold > offerTime || d.Decline || d.Release) {
		s.log.Warn("dhcp: not answered, the disk is slower than requests for leases come", "mac", mac)
		return Decision{}, nil, nil
	}
	s.tell(request, d, "dhcp")
	return d, answer, s.keep(d, mac)
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

func (s *dhcp) reply(mac string, request, reply *dhcpv4.DHCPv4, packet []byte) {
	if reply == nil {
		return
	}
	if err := s.send(request, reply, packet); err != nil {
		s.log.Error("dhcp: cannot answer", "mac", mac, "error", err)
	}
}

// send sends a reply the way its client can hear it.
func (s *dhcp) send(request, reply *dhcpv4.DHCPv4, packet []byte) error {
	source := address(reply.ServerIdentifier())
	to, unicast := destination(request, reply)
	if unicast {
		// The client has no address yet and answers no ARP: tell the kernel its hardware address.
		neighbour := &netlink.Neigh{
			LinkIndex: s.link.Index, Family: netlink.FAMILY_V4, State: netlink.NUD_REACHABLE, IP: to.Addr().AsSlice(), HardwareAddr: request.ClientHWAddr,
		}
		if err := netlink.NeighSet(neighbour); err != nil {
			s.log.Warn("dhcp: cannot set a neighbour entry, broadcasting", "error", err)
			to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), to.Port())
		}
	}
	// The server identifier and the packet's source must be the same address, also where the interface has several.
	control := unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(s.link.Index), Spec_dst: source.As4()})
	if _, _, err := s.conn.WriteMsgUDPAddrPort(packet, control, to); err != nil {
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
