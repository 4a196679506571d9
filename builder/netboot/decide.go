package netboot

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// LeaseTime is how long a lease lasts; offerTime is how long an address that was only offered is kept for its client.
const (
	LeaseTime = time.Hour
	offerTime = time.Minute
)

// Policy is everything a decision depends on besides the packet. Its functions only look things up.
type Policy struct {
	Site *Site
	// At are our own addresses on the interface that packets are heard on; empty: Site.Server.
	At []netip.Addr
	On string // that interface's name
	// Unicast: the packet came to our own address.
	Unicast  bool
	HTTPPort int
	// Image is the file name of a role's UKI for an architecture by Go's name; empty: there is none.
	Image func(role, arch string) string
	// BIOSLoader is the file name of a role's iPXE for PXE ROMs of legacy BIOS; empty: there is none.
	BIOSLoader func(role string) string
	// Lease proposes an address of the pool for a machine outside the document; an invalid address: the pool is empty.
	Lease func(subnet netip.Prefix, mac string, wish netip.Addr) netip.Addr
	// BootFrom says what a machine of the document boots; nil: always from the network.
	BootFrom func(mac net.HardwareAddr) BootFrom
	MTU      int // of the interface, in bytes; 0: 1500
	// Others are further boot servers of this site, for who can go on with one of them; nil: there are none.
	Others func() []netip.Addr
	// Away says why no address of the pool can be given now; nil: they can.
	Away func() error
}

// Decision is what is done with a packet.
type Decision struct {
	Reply   *dhcpv4.DHCPv4 // nil: no answer
	Reason  string         // for the log and for people: why
	Machine Machine        // the node, when the document knows the MAC address
	Known   bool
	Client  Client
	On      string        // interface that it was heard on
	Subnet  Subnet        // that the client is in
	Server  netip.Addr    // our address that the client can reach
	Address netip.Addr    // leased, offered or confirmed; of a proxy: what the client has from the other server
	Hold    time.Duration // how long the pool's Address must be held for the client, from before the reply; 0: it isn't the pool's
	Decline bool          // the address is in use by something else
	Release bool
}

// Decide says what the server answers (RFC 2131 section 4.3). It is pure: what must be kept is in the decision.
func Decide(request *dhcpv4.DHCPv4, policy Policy) Decision {
	if policy.Site.Proxy {
		return decideProxy(request, policy, false)
	}
	d := Decision{Client: clientOf(request), On: policy.On}
	d.Machine, d.Known = policy.Site.machine(request.ClientHWAddr)
	if d.Reason = unfit(request); d.Reason != "" || !d.place(request, policy) {
		return d
	}
	if server := address(request.ServerIdentifier()); server.IsValid() && !policy.Site.ours(server) {
		d.Reason = fmt.Sprintf("client chose another server, %s", server)
		return d
	}
	switch kind := request.MessageType(); kind {
	case dhcpv4.MessageTypeDiscover:
		if d.lease(request, policy, offerTime) {
			d.answer(request, policy, dhcpv4.MessageTypeOffer)
		}
	case dhcpv4.MessageTypeRequest:
		d.answerRequest(request, policy)
	case dhcpv4.MessageTypeInform:
		d.answerInform(request, policy)
	case dhcpv4.MessageTypeDecline:
		d.Decline, d.Address = true, address(request.RequestedIPAddress())
		d.Reason = fmt.Sprintf("client declines %s: something else uses it", d.Address)
	case dhcpv4.MessageTypeRelease:
		d.Release, d.Address = true, address(request.ClientIPAddr)
		d.Reason = fmt.Sprintf("client releases %s", d.Address)
	default:
		d.Reason = fmt.Sprintf("message type %s is not for a server", kind)
	}
	return d
}

// unfit says why a message is none this server answers, if so.
func unfit(request *dhcpv4.DHCPv4) string {
	const multicast = 1 // in the first byte of a MAC address (IEEE 802)
	mac := request.ClientHWAddr
	if request.OpCode != dhcpv4.OpcodeBootRequest || request.HWType != iana.HWTypeEthernet || len(mac) != 6 ||
		mac[0]&multicast != 0 || bytes.Equal(mac, make([]byte, 6)) {
		return "not a request of an Ethernet client"
	}
	return ""
}

// lease finds the client's address: the document's, or one of the pool's to be held for a time.
func (d *Decision) lease(request *dhcpv4.DHCPv4, policy Policy, hold time.Duration) bool {
	if d.Known {
		if d.Reason = d.elsewhere(); d.Reason != "" {
			return false
		}
		d.Address = d.Machine.Address
		return true
	}
	if !policy.Site.ServeUnknown {
		d.Reason = "not in the cluster document"
		return false
	}
	if policy.Away != nil && policy.Away() != nil {
		d.Reason = "not in the cluster document, and the store that boot servers share is away: no address of the pool is given"
		return false
	}
	if d.Address = policy.Lease(d.Subnet.Prefix, request.ClientHWAddr.String(), wish(request)); !d.Address.IsValid() {
		d.Reason = "not in the cluster document, and the pool is empty"
		return false
	}
	d.Hold = hold
	return true
}

// wish is the address a client asks for: in option 50 when it has none yet, else the one it has.
func wish(request *dhcpv4.DHCPv4) netip.Addr {
	if own := address(request.ClientIPAddr); own.IsValid() {
		return own
	}
	return address(request.RequestedIPAddress())
}

// answerRequest treats selecting, init-reboot, renewing and rebinding alike (RFC 2131 section 4.3.2): the client wants
// an address, and it is its own or it isn't. The server is authoritative: whatever else is refused, not passed over.
func (d *Decision) answerRequest(request *dhcpv4.DHCPv4, policy Policy) {
	wanted := wish(request)
	if !wanted.IsValid() {
		d.Reason = "client asks for no address"
		return
	}
	if where := d.elsewhere(); where != "" {
		d.refuse(request, policy, where)
		return
	}
	if !d.lease(request, policy, LeaseTime) {
		return
	}
	if wanted != d.Address {
		d.Hold = 0
		d.refuse(request, policy, fmt.Sprintf("client wants %s, its address is %s", wanted, d.Address))
		return
	}
	d.answer(request, policy, dhcpv4.MessageTypeAck)
}

// answerInform tells a client that has its address from elsewhere the rest (RFC 2131 section 4.3.5).
func (d *Decision) answerInform(request *dhcpv4.DHCPv4, policy Policy) {
	d.Address = address(request.ClientIPAddr)
	switch {
	case !d.Known && !policy.Site.ServeUnknown:
		d.Reason = "not in the cluster document"
	case !d.Address.IsValid():
		d.Reason = "client informs of no address"
	case !d.Subnet.Prefix.Contains(d.Address):
		d.Reason = fmt.Sprintf("client informs of %s, which is not in %s", d.Address, d.Subnet.Prefix)
	default:
		d.answer(request, policy, dhcpv4.MessageTypeAck)
	}
}

// refuse makes a NAK (RFC 2131 table 3: message type, server identifier, client identifier).
func (d *Decision) refuse(request *dhcpv4.DHCPv4, policy Policy, reason string) {
	d.Reason = "refused: " + reason
	d.Reply = newReply(request, d.Server, dhcpv4.MessageTypeNak)
	if !isZero(request.GatewayIPAddr) {
		d.Reply.SetBroadcast() // RFC 2131 section 4.3.2: the relay must broadcast it
	}
	echo(request, d.Reply)
	fit(d.Reply, limit(request, policy.MTU))
}

func (d *Decision) answer(request *dhcpv4.DHCPv4, policy Policy, kind dhcpv4.MessageType) {
	subnet := d.Subnet
	reply := newReply(request, d.Server, kind)
	if request.MessageType() != dhcpv4.MessageTypeInform {
		reply.YourIPAddr = d.Address.AsSlice()
		reply.UpdateOption(dhcpv4.OptIPAddressLeaseTime(LeaseTime))
	}
	if kind == dhcpv4.MessageTypeAck {
		reply.ClientIPAddr = request.ClientIPAddr
	}
	reply.UpdateOption(dhcpv4.OptSubnetMask(netmask(subnet.Prefix)))
	if subnet.Gateway.IsValid() && wants(request, dhcpv4.OptionRouter) {
		reply.UpdateOption(dhcpv4.OptRouter(subnet.Gateway.AsSlice()))
	}
	if len(subnet.DNS) > 0 && wants(request, dhcpv4.OptionDomainNameServer) {
		reply.UpdateOption(dhcpv4.OptDNS(slices4(subnet.DNS)...))
	}
	if d.Known && wants(request, dhcpv4.OptionHostName) {
		reply.UpdateOption(dhcpv4.OptHostName(d.Machine.Name))
	}
	boot := d.bootFile(request, reply, policy)
	echo(request, reply)
	fit(reply, limit(request, policy.MTU))
	d.Reply = reply
	if !d.Known && policy.Site.Discover && bootable(reply) {
		boot += ", to be discovered"
	}
	d.Reason = fmt.Sprintf("%s %s for %s%s", strings.ToLower(kind.String()), d.Address, d.Client, boot)
}

// wants says whether a client asks for an option. One that asks for nothing in particular (no option 55) gets all.
func wants(request *dhcpv4.DHCPv4, code dhcpv4.OptionCode) bool {
	list := request.Options.Get(dhcpv4.OptionParameterRequestList)
	return len(list) == 0 || slices.Contains(list, code.Code())
}

func newReply(request *dhcpv4.DHCPv4, server netip.Addr, kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	reply := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        request.HWType,
		TransactionID: request.TransactionID,
		Flags:         request.Flags,
		ClientIPAddr:  netip.IPv4Unspecified().AsSlice(),
		YourIPAddr:    netip.IPv4Unspecified().AsSlice(),
		ServerIPAddr:  netip.IPv4Unspecified().AsSlice(),
		GatewayIPAddr: request.GatewayIPAddr,
		ClientHWAddr:  request.ClientHWAddr,
		Options:       dhcpv4.Options{},
	}
	reply.UpdateOption(dhcpv4.OptMessageType(kind))
	reply.UpdateOption(dhcpv4.OptServerIdentifier(server.AsSlice()))
	return reply
}

// echo copies what a server must send back unchanged: the client identifier (RFC 6842), the machine identifier
// (RFC 4578 section 2.3) and the relay's information (RFC 3046 section 2.2).
func echo(request, reply *dhcpv4.DHCPv4) {
	for _, code := range []dhcpv4.OptionCode{
		dhcpv4.OptionClientIdentifier, dhcpv4.OptionClientMachineIdentifier, dhcpv4.OptionRelayAgentInformation,
	} {
		if value := request.Options.Get(code); value != nil {
			reply.UpdateOption(dhcpv4.OptGeneric(code, value))
		}
	}
}
