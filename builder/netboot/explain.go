package netboot

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Bounds of the memory of exchanges.
const (
	exchangesKept = 12   // of a machine
	strangersKept = 256  // machines outside the document of which exchanges are kept
	packetKept    = 1500 // bytes of a packet
)

// Exchange is a packet of a machine, what was decided, and what went out, in words for people.
type Exchange struct {
	Time   time.Time `json:"time"`
	Asked  string    `json:"asked"`
	Path   []string  `json:"path"`   // the decision, step by step
	Answer string    `json:"answer"` // empty: none
	Reason string    `json:"reason"`
}

// exchange is one as it is kept: packets as bytes, words are made when somebody asks.
type exchange struct {
	at             time.Time
	port           uint16 // that it came to
	request, reply []byte // reply is nil: none
	to             netip.AddrPort
	unicast        bool
	decision       Decision   // without its reply
	six            *exchange6 // nil: IPv4
}

// history keeps the newest exchanges of each machine.
type history struct {
	site *Site
	now  func() time.Time

	mu        sync.Mutex
	byMAC     map[string][]exchange
	strangers []string // MAC addresses of machines outside the document, the one longest known first
}

// note keeps an exchange; answer is what goes out, nil: nothing. The request's bytes are copied.
func (h *history) note(port uint16, packet []byte, request *dhcpv4.DHCPv4, d Decision, answer []byte, to netip.AddrPort, unicast bool) {
	e := exchange{at: h.now(), port: port, request: slices.Clone(packet[:min(len(packet), packetKept)]), to: to, unicast: unicast, decision: d, reply: answer}
	e.decision.Reply = nil
	h.keep(request.ClientHWAddr.String(), d.Known, e)
}

// keep keeps an exchange of a machine, which the document knows or doesn't.
func (h *history) keep(mac string, inDocument bool, e exchange) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byMAC == nil {
		h.byMAC = map[string][]exchange{}
	}
	if _, known := h.byMAC[mac]; !known && !inDocument {
		if len(h.strangers) >= strangersKept {
			delete(h.byMAC, h.strangers[0])
			h.strangers = h.strangers[1:]
		}
		h.strangers = append(h.strangers, mac)
	}
	kept := h.byMAC[mac]
	if len(kept) >= exchangesKept {
		kept = append(kept[:0], kept[1:]...)
	}
	if kept == nil {
		kept = make([]exchange, 0, 2) // as many as most machines have: they're large
	}
	h.byMAC[mac] = append(kept, e)
}

// explain tells the newest exchanges of a machine, the oldest first.
func (h *history) explain(mac string) []Exchange {
	h.mu.Lock()
	kept, site := slices.Clone(h.byMAC[mac]), h.site
	h.mu.Unlock()
	out := []Exchange{}
	for _, e := range kept {
		out = append(out, e.words(site))
	}
	return out
}

// words says an exchange.
func (e exchange) words(site *Site) Exchange {
	if e.six != nil {
		return e.words6(site)
	}
	out := Exchange{Time: e.at, Reason: e.decision.Reason}
	request, err := decode(e.request)
	if err != nil { // cut
		out.Asked = fmt.Sprintf("%d bytes that are no DHCP message: %v", len(e.request), err)
		return out
	}
	out.Asked = fmt.Sprintf("%s to port %d, options %s", request.MessageType(), e.port, optionsInWords(request.Options))
	out.Path = e.path(request, site)
	if e.reply == nil {
		return out
	}
	reply, err := decode(e.reply)
	if err != nil {
		out.Answer = err.Error()
		return out
	}
	out.Answer = fmt.Sprintf("%s to %s", reply.MessageType(), e.to)
	if e.unicast {
		out.Answer += " at its hardware address, without ARP"
	}
	for _, f := range []struct {
		name  string
		value netip.Addr
	}{{"yiaddr", address(reply.YourIPAddr)}, {"ciaddr", address(reply.ClientIPAddr)}, {"siaddr", address(reply.ServerIPAddr)}} {
		if f.value.IsValid() {
			out.Answer += ", " + f.name + " " + f.value.String()
		}
	}
	if reply.BootFileName != "" {
		out.Answer += ", file " + quoted([]byte(reply.BootFileName))
	}
	out.Answer += ", options " + optionsInWords(reply.Options)
	return out
}

// path is the way to the decision: who asks, what it is, how it came, which address.
func (e exchange) path(request *dhcpv4.DHCPv4, site *Site) []string {
	d := e.decision
	var path []string
	if d.Known {
		path = append(path, fmt.Sprintf("machine: %s of the cluster document, role %s", d.Machine.Name, d.Machine.Role))
	} else {
		path = append(path, "machine: not in the cluster document")
	}
	path = append(path, fmt.Sprintf("client: %s (option 60 %s, 77 %s, 175 %s)", d.Client, quoted(request.Options.Get(dhcpv4.OptionClassIdentifier)),
		quoted(request.Options.Get(dhcpv4.OptionUserClassInformation)), quoted(request.Options.Get(dhcpv4.GenericOptionCode(optionIPXE)))))
	switch arch := platform(request); {
	case !d.Client.firmware():
	case arch != "":
		path = append(path, fmt.Sprintf("architecture: %v, takes images for %s", architectures(request), arch))
	case d.Client == ClientUBoot:
		path = append(path, fmt.Sprintf("architecture: %v, of U-Boot", architectures(request)))
	case isBIOS(request):
		path = append(path, "architecture: legacy BIOS")
	default:
		path = append(path, fmt.Sprintf("architecture: %v, there are no images for it", architectures(request)))
	}
	path = append(path, "way: "+wayInWords(request, d.On))
	if d.Subnet.Prefix.IsValid() {
		subnet := fmt.Sprintf("subnet: %s, server %s, %s", d.Subnet.Prefix, d.Server, site.mode())
		if server := address(request.ServerIdentifier()); server.IsValid() && !site.ours(server) {
			subnet += fmt.Sprintf("; it names another server, %s", server)
		}
		path = append(path, subnet)
	}
	switch {
	case !d.Address.IsValid():
		path = append(path, "address: none")
	case d.Hold > 0:
		path = append(path, fmt.Sprintf("address: %s of the pool, held for %s", d.Address, d.Hold))
	case d.Known && d.Address == d.Machine.Address:
		path = append(path, fmt.Sprintf("address: %s, reserved by the document", d.Address))
	default:
		path = append(path, fmt.Sprintf("address: %s", d.Address))
	}
	return append(path, "decision: "+d.Reason)
}

// optionsInWords are options by number: 53=01 60="PXEClient".
func optionsInWords(options dhcpv4.Options) string {
	var codes []int
	for code := range options {
		codes = append(codes, int(code))
	}
	slices.Sort(codes)
	var out []string
	for _, code := range codes {
		out = append(out, fmt.Sprintf("%d=%s", code, quoted(options[uint8(code)])))
	}
	return strings.Join(out, " ")
}

// quoted is a value as text where it is one, else as hexadecimal digits; nothing that could write over a terminal.
func quoted(value []byte) string {
	const longest = 200
	text := strings.TrimRight(string(value), "\x00")
	cut := ""
	if len(value) > longest {
		value, text, cut = value[:longest], text[:min(len(text), longest)], "..."
	}
	printable := text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) })
	switch {
	case len(value) == 0:
		return "-"
	case printable && len(text) > 1:
		return `"` + text + `"` + cut
	}
	return fmt.Sprintf("%x", value) + cut
}
