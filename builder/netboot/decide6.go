package netboot

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// Policy6 is everything a decision about a DHCPv6 packet depends on besides the packet. Its functions only look things up.
type Policy6 struct {
	Site     *Site // with IPv6
	DUID     dhcpv6.DUID
	HTTPBase string // http://[fd00:1::1]:8080
	Image    func(role, arch string) string
	BootFrom func(mac net.HardwareAddr) BootFrom // nil: always from the network
}

// Decision6 is what is done with a DHCPv6 packet.
type Decision6 struct {
	Reply   dhcpv6.DHCPv6 // a message, or what relays pass on to the client; nil: no answer
	Message *dhcpv6.Message
	Reason  string
	MAC     net.HardwareAddr // nil: the client doesn't tell it
	By      string           // what tells it
	Machine Machine
	Known   bool
	Client  Client
	Address netip.Addr // the node's; invalid: it has none from here
	Decline bool       // the address is in use by something else
	Offer   bool       // a boot begins
}

// asker6 is a client's message, out of what relays have put around it.
type asker6 struct {
	message *dhcpv6.Message
	relay   *dhcpv6.RelayMessage // the outermost; nil: none
	link    netip.Addr           // of the relay at the client's network; may be unspecified
	peer    netip.Addr           // the client's own address there
	mac     net.HardwareAddr     // as that relay saw it; nil: it doesn't say
}

// maxRelays is how many relays may be around a message (RFC 8415 section 7.6, HOP_COUNT_LIMIT).
const maxRelays = 8

// unwrap finds the client's message in what came from an address.
func unwrap(packet dhcpv6.DHCPv6, from netip.Addr) (asker6, error) {
	a := asker6{peer: from}
	for range maxRelays + 1 {
		if message, ok := packet.(*dhcpv6.Message); ok {
			a.message = message
			return a, nil
		}
		relay, ok := packet.(*dhcpv6.RelayMessage)
		if !ok || relay.MessageType != dhcpv6.MessageTypeRelayForward {
			return a, errors.New("not for a server")
		}
		if a.relay == nil {
			a.relay = relay
		}
		a.link, _ = netip.AddrFromSlice(relay.LinkAddr)
		a.peer, _ = netip.AddrFromSlice(relay.PeerAddr)
		if a.mac = nil; relay.GetOneOption(dhcpv6.OptionClientLinkLayerAddr) != nil {
			if kind, mac := relay.Options.ClientLinkLayerAddress(); kind == iana.HWTypeEthernet && len(mac) == 6 {
				a.mac = mac
			}
		}
		inner := relay.GetOneOption(dhcpv6.OptionRelayMsg)
		if inner == nil {
			return a, errors.New("a relay sends nothing on")
		}
		if packet = relay.Options.RelayMessage(); packet == nil {
			return a, errors.New("a relay sends nothing on")
		}
	}
	return a, fmt.Errorf("more than %d relays", maxRelays)
}

// hardware is a client's MAC address and what tells it: its relay (RFC 6939), its link-local address where that is made of the
// MAC address (RFC 4291 appendix A, as firmware does), or its DUID. The DUID comes last: it stays the same on all interfaces of a machine.
func (a asker6) hardware() (mac net.HardwareAddr, by string) {
	if a.mac != nil {
		return a.mac, "its relay"
	}
	if b := a.peer.As16(); a.peer.Is6() && a.peer.IsLinkLocalUnicast() && b[11] == 0xff && b[12] == 0xfe {
		return net.HardwareAddr{b[8] ^ 2, b[9], b[10], b[13], b[14], b[15]}, "its link-local address"
	}
	switch duid := a.message.Options.ClientID().(type) {
	case *dhcpv6.DUIDLL:
		if duid.HWType == iana.HWTypeEthernet && len(duid.LinkLayerAddr) == 6 {
			return duid.LinkLayerAddr, "its DUID"
		}
	case *dhcpv6.DUIDLLT:
		if duid.HWType == iana.HWTypeEthernet && len(duid.LinkLayerAddr) == 6 {
			return duid.LinkLayerAddr, "its DUID"
		}
	}
	return nil, ""
}

// Decide6 says what the server answers to a DHCPv6 packet that came from an address (RFC 8415 section 18.3). It is pure.
func Decide6(packet dhcpv6.DHCPv6, from netip.Addr, policy Policy6) Decision6 {
	asker, err := unwrap(packet, from.WithZone(""))
	if err != nil {
		return Decision6{Reason: err.Error()}
	}
	message := asker.message
	d := Decision6{Message: message, Client: client6(message)}
	if d.MAC, d.By = asker.hardware(); d.MAC != nil {
		d.Machine, d.Known = policy.Site.machine(d.MAC)
	}
	if d.Reason = unfit6(asker, policy); d.Reason != "" {
		return d
	}
	if d.MAC == nil {
		d.Reason = "it tells its MAC address neither by its link-local address nor by its DUID, and no relay does (RFC 6939)"
		return d
	}
	if !d.Known {
		d.Reason = "not in the cluster document"
		return d
	}
	if !d.Machine.Address6.IsValid() {
		d.Reason = fmt.Sprintf("%s boots in another network than %s", d.Machine.Name, policy.Site.IPv6.Subnet)
		return d
	}
	reply := newReply6(message, policy)
	d.decide(message, reply, policy)
	if d.Reason == "" || reply.MessageType == dhcpv6.MessageTypeNone {
		return d
	}
	if d.Reply, err = wrap(asker.relay, reply); err != nil {
		d.Reply, d.Reason = nil, err.Error()
	}
	return d
}

// unfit6 says why a message is none that this server answers, if so (RFC 8415 section 16).
func unfit6(a asker6, policy Policy6) string {
	kind := a.message.MessageType
	client, server := a.message.Options.ClientID(), a.message.Options.ServerID()
	other := server != nil && !bytes.Equal(server.ToBytes(), policy.DUID.ToBytes())
	switch six := policy.Site.IPv6; {
	case a.relay != nil && !a.link.IsUnspecified() && !six.Subnet.Contains(a.link):
		return fmt.Sprintf("relay at %s is not in %s, the only network this server knows", a.link, six.Subnet)
	case client == nil && kind != dhcpv6.MessageTypeInformationRequest:
		return "it has no client identifier"
	case other:
		return "client chose another server, " + server.String()
	}
	switch kind {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		if server != nil {
			return "it names a server, and is for all of them"
		}
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeDecline, dhcpv6.MessageTypeRelease:
		if server == nil {
			return "it names no server"
		}
	case dhcpv6.MessageTypeInformationRequest:
		if len(a.message.Options.IANA())+len(a.message.Options.IATA())+len(a.message.Options.IAPD()) > 0 {
			return "it asks for no address and has one all the same"
		}
	default:
		return fmt.Sprintf("message type %s is not for a server", kind)
	}
	return ""
}

// newReply6 is a reply with the identifiers of both sides (RFC 8415 sections 18.3.1 to 18.3.8).
func newReply6(message *dhcpv6.Message, policy Policy6) *dhcpv6.Message {
	reply := &dhcpv6.Message{TransactionID: message.TransactionID}
	if id := message.GetOneOption(dhcpv6.OptionClientID); id != nil {
		reply.AddOption(id)
	}
	reply.AddOption(dhcpv6.OptServerID(policy.DUID))
	return reply
}

// decide makes the reply to a node's message. A reply that keeps its type none isn't sent.
func (d *Decision6) decide(message, reply *dhcpv6.Message, policy Policy6) {
	if kind := message.MessageType; kind != dhcpv6.MessageTypeConfirm && kind != dhcpv6.MessageTypeInformationRequest {
		d.Address = d.Machine.Address6
	}
	reply.MessageType = dhcpv6.MessageTypeReply
	switch message.MessageType {
	case dhcpv6.MessageTypeSolicit:
		d.Offer = d.Client.firmware()
		if message.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
			reply.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
		} else {
			reply.MessageType = dhcpv6.MessageTypeAdvertise
			reply.AddOption(dhcpv6.OptPreference(255)) // the client needn't wait for others (section 18.2.1)
		}
		d.give(message, reply, policy)
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		d.give(message, reply, policy)
	case dhcpv6.MessageTypeInformationRequest:
		boot := d.tell(message, reply, policy)
		d.Reason = fmt.Sprintf("reply for %s%s", d.Client, boot)
	case dhcpv6.MessageTypeConfirm:
		d.confirm(message, reply, policy)
	case dhcpv6.MessageTypeRelease:
		status(reply, iana.StatusSuccess, "")
		d.Reason = fmt.Sprintf("client releases %s", d.Address)
	case dhcpv6.MessageTypeDecline:
		d.Decline = true
		status(reply, iana.StatusSuccess, "")
		d.Reason = fmt.Sprintf("client declines %s: something else uses it", d.Address)
	}
}

// confirm says whether a client's addresses are of this network; it says nothing to one that has none (section 18.3.3).
func (d *Decision6) confirm(message, reply *dhcpv6.Message, policy Policy6) {
	asked := false
	for _, ia := range message.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			asked = true
			if own, _ := netip.AddrFromSlice(a.IPv6Addr); !policy.Site.IPv6.Subnet.Contains(own) {
				d.Reason = fmt.Sprintf("refused: %s is not in %s", own, policy.Site.IPv6.Subnet)
				status(reply, iana.StatusNotOnLink, d.Reason)
				return
			}
		}
	}
	if !asked {
		reply.MessageType = dhcpv6.MessageTypeNone
		d.Reason = "client confirms no address"
		return
	}
	d.Reason = "the client's addresses are of this network"
	status(reply, iana.StatusSuccess, "")
}

func status(reply *dhcpv6.Message, code iana.StatusCode, words string) {
	reply.AddOption(&dhcpv6.OptStatusCode{StatusCode: code, StatusMessage: words})
}

// give answers a client that wants an address, and adds the rest.
func (d *Decision6) give(message, reply *dhcpv6.Message, policy Policy6) {
	given := false
	for _, ia := range few(message.Options.IANA()) {
		reply.AddOption(d.association(ia, !given))
		given = true
	}
	for _, ia := range few(message.Options.IATA()) {
		refused := &dhcpv6.OptIATA{IaId: ia.IaId}
		refused.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail, StatusMessage: "no temporary addresses"})
		reply.AddOption(refused)
	}
	for _, ia := range few(message.Options.IAPD()) {
		refused := &dhcpv6.OptIAPD{IaId: ia.IaId}
		refused.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoPrefixAvail, StatusMessage: "no prefixes"})
		reply.AddOption(refused)
	}
	boot := d.tell(message, reply, policy)
	kind := strings.ToLower(reply.MessageType.String())
	if given {
		kind += " " + d.Address.String()
	} else {
		d.Address = netip.Addr{}
	}
	d.Reason = fmt.Sprintf("%s for %s%s", kind, d.Client, boot)
}

// association is the node's address for the first identity association that a client has, none for others. What else the client
// believes to have is over (lifetimes of 0, section 18.3.4).
func (d *Decision6) association(asked *dhcpv6.OptIANA, first bool) *dhcpv6.OptIANA {
	ia := &dhcpv6.OptIANA{IaId: asked.IaId}
	if !first {
		ia.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail, StatusMessage: "one address for a node"})
		return ia
	}
	ia.T1, ia.T2 = LeaseTime/2, LeaseTime*4/5
	own := &dhcpv6.OptIAAddress{IPv6Addr: d.Machine.Address6.AsSlice(), PreferredLifetime: LeaseTime, ValidLifetime: LeaseTime}
	ia.Options.Add(own)
	if d.Message.MessageType != dhcpv6.MessageTypeRenew && d.Message.MessageType != dhcpv6.MessageTypeRebind {
		return ia
	}
	for _, a := range few(asked.Options.Addresses()) {
		if !a.IPv6Addr.Equal(own.IPv6Addr) {
			ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.IPv6Addr})
		}
	}
	return ia
}

// few bounds what is answered of a list: a message with more is no honest one, and a reply should fit a packet of any IPv6 network.
func few[T any](list []T) []T { return list[:min(len(list), 8)] }

// tell adds name servers and what the client boots, and says that in words.
func (d *Decision6) tell(message, reply *dhcpv6.Message, policy Policy6) string {
	if dns := few(policy.Site.IPv6.DNS); len(dns) > 0 && wants6(message, dhcpv6.OptionDNSRecursiveNameServer) {
		var servers []net.IP
		for _, a := range dns {
			servers = append(servers, a.AsSlice())
		}
		reply.AddOption(dhcpv6.OptDNS(servers...))
	}
	return d.bootFile6(message, reply, policy)
}

// wants6 says whether a client asks for an option.
func wants6(message *dhcpv6.Message, code dhcpv6.OptionCode) bool {
	return slices.Contains(message.Options.RequestedOptions(), code)
}

// wrap puts a reply into what its relays pass on.
func wrap(relay *dhcpv6.RelayMessage, reply *dhcpv6.Message) (dhcpv6.DHCPv6, error) {
	if relay == nil {
		return reply, nil
	}
	wrapped, err := dhcpv6.NewRelayReplFromRelayForw(relay, reply)
	if err != nil {
		return nil, fmt.Errorf("cannot answer through a relay: %w", err)
	}
	return wrapped, nil
}
