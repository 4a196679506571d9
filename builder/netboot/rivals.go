package netboot

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

// Another DHCP server on the same network gives machines addresses and boot files of its own, now and then, whoever is faster. So
// what others answer is watched, and every minute a DISCOVER of our own asks who is there.

// Rival is another DHCP server.
type Rival struct {
	Address netip.Addr `json:"address"`
	MAC     string     `json:"mac,omitempty"` // empty: it was only named by a client
	First   time.Time  `json:"first"`
	Last    time.Time  `json:"last"`
	Seen    string     `json:"seen"` // what it did last, in words
}

// Bounds of rivals, and how they are spoken of.
const (
	maxRivals   = 16
	rivalStays  = 15 * time.Minute // after it was seen last
	rivalSpoken = time.Hour        // is how often the log says it again
	probePause  = time.Minute
)

// rivals are the other servers that were seen.
type rivals struct {
	site *Site
	now  func() time.Time
	log  *slog.Logger
	ours *sisters // other boot servers of this site: none of them is a rival

	mu        sync.Mutex
	byAddress map[netip.Addr]*Rival
	spoken    map[netip.Addr]time.Time
	ask       bool // a client has named one: ask at once who is there
}

// saw notes another server.
func (r *rivals) saw(server netip.Addr, mac, what string) {
	if r == nil || !server.IsValid() || r.site.ours(server) || r.ours.is(server) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if r.byAddress == nil {
		r.byAddress, r.spoken = map[netip.Addr]*Rival{}, map[netip.Addr]time.Time{}
	}
	rival := r.byAddress[server]
	if rival == nil {
		if len(r.byAddress) >= maxRivals {
			return
		}
		rival = &Rival{Address: server, First: now}
		r.byAddress[server] = rival
		r.ask = mac == ""
	}
	rival.Last, rival.Seen = now, what
	if mac != "" {
		rival.MAC = mac
	}
	if last, told := r.spoken[server]; !told || now.Sub(last) >= rivalSpoken {
		r.spoken[server] = now
		r.log.Warn("ANOTHER DHCP SERVER ANSWERS ON THIS NETWORK: machines may get its addresses and boot files instead of ours. Stop it, or serve beside it with --proxy",
			"server", server, "mac", rival.MAC, "seen", what)
	}
}

// asks says, once, that a client has named a server that wasn't known.
func (r *rivals) asks() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	ask := r.ask
	r.ask = false
	return ask
}

// list are those that were seen lately.
func (r *rivals) list() []Rival {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Rival
	for address, rival := range r.byAddress {
		if r.now().Sub(rival.Last) > rivalStays || r.ours.is(address) {
			delete(r.byAddress, address)
			continue
		}
		out = append(out, *rival)
	}
	slices.SortFunc(out, func(a, b Rival) int { return a.Address.Compare(b.Address) })
	return out
}

// rivalOf reads an IPv4 packet that comes from a DHCP server's port: whose answer it is and what it says. Beside another server
// only one that also says what to boot is a rival.
func rivalOf(packet []byte, proxy bool) (server netip.Addr, what string) {
	const ip, udp = 20, 8 // shortest headers
	if len(packet) < ip+udp || packet[0]>>4 != 4 {
		return
	}
	header := int(packet[0]&0xf) * 4
	if header < ip || len(packet) < header+udp || packet[9] != unix.IPPROTO_UDP || binary.BigEndian.Uint16(packet[6:])&0x1fff != 0 ||
		binary.BigEndian.Uint16(packet[header:]) != portDHCP {
		return
	}
	reply, err := decode(packet[header+udp:])
	if err != nil || reply.OpCode != dhcpv4.OpcodeBootReply {
		return
	}
	kind := reply.MessageType()
	if kind != dhcpv4.MessageTypeOffer && kind != dhcpv4.MessageTypeAck && kind != dhcpv4.MessageTypeNak {
		return
	}
	if server = address(reply.ServerIdentifier()); !server.IsValid() {
		server = netip.AddrFrom4([4]byte(packet[12:16]))
	}
	what = fmt.Sprintf("%s of %s to %s", kind, reply.YourIPAddr, reply.ClientHWAddr)
	boot := reply.BootFileName + reply.BootFileNameOption()
	if boot != "" {
		what += ", boot file " + quoted([]byte(boot))
	}
	if proxy && boot == "" {
		return netip.Addr{}, ""
	}
	return server, what
}

// watch listens for other servers on a link until ctx ends, and asks for them where none should be.
func (r *rivals) watch(ctx context.Context, link *net.Interface) {
	socket, err := listenPackets(link.Index)
	if err != nil {
		r.log.Warn("cannot watch for other DHCP servers (it takes CAP_NET_RAW)", "error", err)
		return
	}
	defer unix.Close(socket)
	var asked time.Time
	buffer := make([]byte, maxDHCP)
	for ctx.Err() == nil {
		if now := time.Now(); !r.site.Proxy && (now.Sub(asked) >= probePause || r.asks()) {
			asked = now
			if err := probe(socket, link); err != nil {
				r.log.Debug("cannot ask for other DHCP servers", "error", err)
			}
		}
		n, from, err := unix.Recvfrom(socket, buffer, 0)
		if err != nil { // it waits for a moment at most, so that ctx is looked at
			if err != unix.EAGAIN && err != unix.EINTR {
				pause(ctx, time.Second) // the link is down
			}
			continue
		}
		lower, ok := from.(*unix.SockaddrLinklayer)
		if !ok || lower.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if server, what := rivalOf(buffer[:n], r.site.Proxy); server.IsValid() {
			r.saw(server, net.HardwareAddr(lower.Addr[:min(lower.Halen, 8)]).String(), what)
		}
	}
}

// listenPackets opens a socket for the IPv4 packets on a link that are replies from a DHCP server's port: the kernel passes the others
// over, requests of relays among them, which come from the same port.
func listenPackets(link int) (int, error) {
	network := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP))
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // of no protocol: nothing comes before the filter
	if err != nil {
		return 0, err
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 9}, // protocol
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 8, K: unix.IPPROTO_UDP},
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 6}, // a later fragment has no ports
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jt: 6, K: 0x1fff},
		{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0}, // length of the header
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: 0},  // source port
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 3, K: portDHCP},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_IND, K: 8}, // the message's first byte
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(dhcpv4.OpcodeBootReply)},
		{Code: unix.BPF_RET | unix.BPF_K, K: maxDHCP},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	err = unix.SetsockoptSockFprog(socket, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	if err == nil {
		err = unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000})
	}
	if err == nil {
		err = unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: network, Ifindex: link})
	}
	if err != nil {
		unix.Close(socket)
		return 0, err
	}
	return socket, nil
}

// probe broadcasts a DISCOVER. It goes out by the packet socket, so that this server itself doesn't hear it.
func probe(socket int, link *net.Interface) error {
	discover, err := dhcpv4.NewDiscovery(link.HardwareAddr, dhcpv4.WithBroadcast(true))
	if err != nil {
		return err
	}
	message := discover.ToBytes()
	const ip, udp = 20, 8
	packet := make([]byte, ip+udp, ip+udp+len(message))
	be := binary.BigEndian
	packet[0], packet[8], packet[9] = 0x45, 64, unix.IPPROTO_UDP
	be.PutUint16(packet[2:], uint16(ip+udp+len(message)))
	copy(packet[16:], []byte{255, 255, 255, 255})
	be.PutUint16(packet[10:], checksum(packet[:ip]))
	be.PutUint16(packet[ip:], 68)
	be.PutUint16(packet[ip+2:], portDHCP)
	be.PutUint16(packet[ip+4:], uint16(udp+len(message))) // without a checksum of UDP, which is for the sender to leave out (RFC 768)
	to := &unix.SockaddrLinklayer{
		Protocol: binary.NativeEndian.Uint16(be.AppendUint16(nil, unix.ETH_P_IP)), Ifindex: link.Index, Halen: 6,
		Addr: [8]byte{255, 255, 255, 255, 255, 255},
	}
	return unix.Sendto(socket, append(packet, message...), 0, to)
}

// checksum is that of an IPv4 header (RFC 791).
func checksum(header []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
