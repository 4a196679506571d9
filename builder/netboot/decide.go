package netboot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/slipway-os/slipway/images/bootspec"
)

// LeaseTime is how long a lease lasts.
const LeaseTime = time.Hour

// Client is what asks, told by its options 60, 77, 93 and 175.
type Client string

// Clients.
const (
	ClientPlain Client = "plain"     // an operating system, a DHCP client by hand
	ClientPXE   Client = "UEFI PXE"  // option 60 PXEClient, UEFI x64
	ClientHTTP  Client = "UEFI HTTP" // option 60 HTTPClient
	ClientBIOS  Client = "BIOS PXE"  // option 60 PXEClient, architecture 0
	ClientOther Client = "PXE of another architecture"
	ClientIPXE  Client = "iPXE"
	ClientAgent Client = "slipway-agent"
)

// Image is the boot file of a node.
type Image struct {
	File string // UKI's file name
}

// Policy is everything a decision depends on besides the packet.
type Policy struct {
	Site     *Site
	HTTPBase string                   // http://10.1.0.1:8080
	Image    func(role string) string // file name of the role's UKI; empty: none
	// Lease gives a machine outside the document its address in the pool; an invalid address means the pool is empty.
	Lease func(mac string, wish netip.Addr) netip.Addr
}

// Decision is what is done with a packet.
type Decision struct {
	Reply   *dhcpv4.DHCPv4 // nil: no answer
	Reason  string         // for the log and for people: why
	Machine Machine        // the node, when the document knows the MAC address
	Known   bool
	Client  Client
	Address netip.Addr // leased, offered or confirmed
	Decline bool       // the address is in use by something else
	Release bool
}

// Decide says what the server answers (RFC 2131 section 4.3). It touches nothing: the lease it may need comes from the
// policy.
func Decide(request *dhcpv4.DHCPv4, policy Policy) Decision {
	d := Decision{Client: clientOf(request)}
	d.Machine, d.Known = policy.Site.machine(request.ClientHWAddr)
	switch {
	case request.OpCode != dhcpv4.OpcodeBootRequest || request.HWType != iana.HWTypeEthernet || len(request.ClientHWAddr) != 6:
		d.Reason = "not a request of an Ethernet client"
		return d
	case request.MessageType() == dhcpv4.MessageTypeDecline:
		d.Decline, d.Address = true, address(request.RequestedIPAddress())
		d.Reason = fmt.Sprintf("client declines %s: something else uses it", d.Address)
		return d
	case request.MessageType() == dhcpv4.MessageTypeRelease:
		d.Release, d.Address = true, address(request.ClientIPAddr)
		d.Reason = "lease released"
		return d
	}
	if d.Known {
		d.Address = d.Machine.Address
	} else {
		if !policy.Site.ServeUnknown {
			d.Reason = "not in the cluster document"
			return d
		}
		if d.Address = policy.Lease(request.ClientHWAddr.String(), address(request.RequestedIPAddress())); !d.Address.IsValid() {
			d.Reason = "not in the cluster document, and the pool is empty"
			return d
		}
	}
	switch request.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		d.answer(request, policy, dhcpv4.MessageTypeOffer)
	case dhcpv4.MessageTypeRequest:
		d.answerRequest(request, policy)
	case dhcpv4.MessageTypeInform:
		d.answer(request, policy, dhcpv4.MessageTypeAck)
	default:
		d.Reason = "message type " + request.MessageType().String() + " is not for a server"
	}
	return d
}

// answerRequest tells apart selecting, init-reboot, renewing and rebinding (RFC 2131 section 4.3.2).
func (d *Decision) answerRequest(request *dhcpv4.DHCPv4, policy Policy) {
	server := address(request.ServerIdentifier())
	if server.IsValid() && server != policy.Site.Server {
		d.Reason = fmt.Sprintf("client chose another server, %s", server)
		return
	}
	wish := address(request.RequestedIPAddress())
	if !wish.IsValid() {
		wish = address(request.ClientIPAddr)
	}
	if wish != d.Address {
		d.refuse(request, policy, fmt.Sprintf("client wants %s, its address is %s", wish, d.Address))
		return
	}
	d.answer(request, policy, dhcpv4.MessageTypeAck)
}

// refuse makes a NAK (RFC 2131 table 3: only message type, server identifier, client identifier).
func (d *Decision) refuse(request *dhcpv4.DHCPv4, policy Policy, reason string) {
	d.Reason = "refused: " + reason
	d.Reply = newReply(request, policy, dhcpv4.MessageTypeNak)
	if !isZero(request.GatewayIPAddr) {
		d.Reply.SetBroadcast() // RFC 2131 section 4.3.2: the relay must broadcast it
	}
	echo(request, d.Reply)
}

func (d *Decision) answer(request *dhcpv4.DHCPv4, policy Policy, kind dhcpv4.MessageType) {
	site := policy.Site
	reply := newReply(request, policy, kind)
	inform := request.MessageType() == dhcpv4.MessageTypeInform
	if inform {
		reply.ClientIPAddr = request.ClientIPAddr
	} else {
		reply.YourIPAddr = d.Address.AsSlice()
		reply.UpdateOption(dhcpv4.OptIPAddressLeaseTime(LeaseTime))
		if kind == dhcpv4.MessageTypeAck {
			reply.ClientIPAddr = request.ClientIPAddr
		}
	}
	reply.UpdateOption(dhcpv4.OptSubnetMask(netmask(site.Subnet)))
	if site.Gateway.IsValid() {
		reply.UpdateOption(dhcpv4.OptRouter(site.Gateway.AsSlice()))
	}
	if len(site.DNS) > 0 {
		reply.UpdateOption(dhcpv4.OptDNS(slices4(site.DNS)...))
	}
	if d.Known {
		reply.UpdateOption(dhcpv4.OptHostName(d.Machine.Name))
	}
	boot := d.bootFile(request, reply, policy)
	echo(request, reply)
	d.Reply = reply
	d.Reason = strings.TrimSpace(fmt.Sprintf("%s %s for %s%s", strings.ToLower(kind.String()), d.Address, d.Client, boot))
}

// bootFile adds what the client boots and says it in words.
func (d *Decision) bootFile(request, reply *dhcpv4.DHCPv4, policy Policy) string {
	if d.Client == ClientAgent {
		reply.UpdateOption(dhcpv4.OptBootFileName(policy.HTTPBase))
		return ", server " + policy.HTTPBase
	}
	if d.Client == ClientPlain {
		return ""
	}
	if !d.Known {
		return ": no boot file, not in the cluster document"
	}
	file := policy.Image(d.Machine.Role)
	if file == "" {
		return ": no image for role " + d.Machine.Role
	}
	url := policy.HTTPBase + bootspec.RouteArtifacts + file
	switch d.Client {
	case ClientPXE:
		// Option 43 with PXE discovery control 8: boot from this offer, ask no other boot server (PXE 2.1 table 2-3).
		reply.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient"))
		reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, []byte{6, 1, 8, 255}))
		setBootFile(reply, policy.Site.Server, file)
		return ", TFTP " + file
	case ClientHTTP:
		// UEFI 2.10 section 24.7.2.4: the class is echoed, the URL is option 67.
		reply.UpdateOption(dhcpv4.OptClassIdentifier("HTTPClient"))
		reply.UpdateOption(dhcpv4.OptBootFileName(url))
		return ", " + url
	case ClientIPXE:
		if architecture(request) != iana.INTEL_X86PC {
			reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(175), []byte{176, 1, 1, 255}))
			reply.UpdateOption(dhcpv4.OptBootFileName(url))
			return ", " + url
		}
	}
	return fmt.Sprintf(": no boot file, %s can't boot a UEFI image", d.Client)
}

// setBootFile sets the boot file in the header and as options 66 and 67 where the client asks for them.
func setBootFile(reply *dhcpv4.DHCPv4, server netip.Addr, file string) {
	reply.ServerIPAddr = server.AsSlice()
	if len(file) < 128 {
		reply.BootFileName = file
	}
	reply.UpdateOption(dhcpv4.OptTFTPServerName(server.String()))
	reply.UpdateOption(dhcpv4.OptBootFileName(file))
}

func newReply(request *dhcpv4.DHCPv4, policy Policy, kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
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
	reply.UpdateOption(dhcpv4.OptServerIdentifier(policy.Site.Server.AsSlice()))
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

// clientOf tells the client. iPXE comes first: it also calls itself PXEClient.
func clientOf(request *dhcpv4.DHCPv4) Client {
	class := request.ClassIdentifier()
	switch {
	case class == bootspec.VendorClass:
		return ClientAgent
	case bytes.Contains(request.Options.Get(dhcpv4.OptionUserClassInformation), []byte("iPXE")),
		request.Options.Has(dhcpv4.GenericOptionCode(175)):
		return ClientIPXE
	case strings.HasPrefix(class, "HTTPClient"):
		return ClientHTTP
	case !strings.HasPrefix(class, "PXEClient"):
		return ClientPlain
	}
	switch architecture(request) {
	case iana.EFI_X86_64, iana.EFI_BC: // RFC 4578's 9 is what some x64 firmware says
		return ClientPXE
	case iana.INTEL_X86PC:
		return ClientBIOS
	}
	return ClientOther
}

// architecture is the first architecture of option 93 (RFC 4578 section 2.1: a list of 16-bit numbers); without the
// option it's the one in the class identifier, PXEClient:Arch:00007:..., else BIOS.
func architecture(request *dhcpv4.DHCPv4) iana.Arch {
	if value := request.Options.Get(dhcpv4.OptionClientSystemArchitectureType); len(value) >= 2 {
		return iana.Arch(binary.BigEndian.Uint16(value))
	}
	var arch uint16
	if _, rest, found := strings.Cut(request.ClassIdentifier(), ":Arch:"); found {
		_, _ = fmt.Sscanf(rest, "%d", &arch)
	}
	return iana.Arch(arch)
}
