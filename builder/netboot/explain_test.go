package netboot

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func noted(t testing.TB, h *history, policy Policy, words string) {
	t.Helper()
	packet := request(t, words)
	asked, err := decode(packet)
	if err != nil {
		t.Fatal(err)
	}
	d := Decide(asked, policy)
	var to netip.AddrPort
	unicast := false
	var answer []byte
	if d.Reply != nil {
		to, unicast = destination(asked, d.Reply)
		answer = encode(d.Reply)
	}
	h.note(portDHCP, packet, asked, d, answer, to, unicast)
}

// TestExplain: the packet, the way to the decision and the answer, in words.
func TestExplain(t *testing.T) {
	policy := policyFor(t, "unknown=offer")
	h := &history{site: policy.Site, now: someTime}
	for _, c := range []struct{ mac, words, want string }{
		{"52:54:00:00:00:21", "DISCOVER 93=0007 60=PXEClient:Arch:00007:UNDI:003016 55=1,67", `
DISCOVER to port 67, options 53=01 55=0143 60="PXEClient:Arch:00007:UNDI:003016" 93=0007
machine: worker-1 of the cluster document, role worker
client: UEFI PXE (option 60 "PXEClient:Arch:00007:UNDI:003016", 77 -, 175 -)
architecture: [EFI x86-64], takes images for amd64
way: from its own network
subnet: 10.1.0.0/24, server 10.1.0.1, authoritative
address: 10.1.0.21, reserved by the document
decision: offer 10.1.0.21 for UEFI PXE, TFTP slipway-worker-0.1.0-amd64.efi
OFFER to 10.1.0.21:68 at its hardware address, without ARP, yiaddr 10.1.0.21, siaddr 10.1.0.1, file "slipway-worker-0.1.0-amd64.efi", options 1=ffffff00 43=060108ff 51=00000e10 53=02 54=0a010001 60="PXEClient" 67="slipway-worker-0.1.0-amd64.efi"`},
		{"52:54:00:00:00:99", "DISCOVER giaddr=10.1.0.2 55=1", `
DISCOVER to port 67, options 53=01 55=01
machine: not in the cluster document
client: plain client (option 60 -, 77 -, 175 -)
way: through relay 10.1.0.2
subnet: 10.1.0.0/24, server 10.1.0.1, authoritative
address: 10.1.0.100 of the pool, held for 1m0s
decision: offer 10.1.0.100 for plain client
OFFER to 10.1.0.2:67, yiaddr 10.1.0.100, options 1=ffffff00 51=00000e10 53=02 54=0a010001`},
		{"52:54:00:00:00:11", "REQUEST 54=10.1.0.2 50=10.1.0.77", `
REQUEST to port 67, options 50=0a01004d 53=03 54=0a010002
machine: cp-1 of the cluster document, role control-plane
client: plain client (option 60 -, 77 -, 175 -)
way: from its own network
subnet: 10.1.0.0/24, server 10.1.0.1, authoritative; it names another server, 10.1.0.2
address: none
decision: client chose another server, 10.1.0.2
`},
	} {
		kind, rest, _ := strings.Cut(c.words, " ")
		noted(t, h, policy, kind+" from="+c.mac+" "+rest)
		past := h.explain(c.mac)
		if len(past) != 1 {
			t.Fatalf("%s: %d exchanges", c.mac, len(past))
		}
		e := past[0]
		if got := "\n" + e.Asked + "\n" + strings.Join(e.Path, "\n") + "\n" + e.Answer; got != c.want || !e.Time.Equal(someTime()) {
			t.Errorf("got:%s\nwant:%s", got, c.want)
		}
	}
}

// TestHistoryIsBounded: neither a machine that asks for ever nor ever new machines fill the memory; nodes stay.
func TestHistoryIsBounded(t *testing.T) {
	policy := policyFor(t, "")
	h := &history{site: policy.Site, now: time.Now}
	noted(t, h, policy, "DISCOVER from=52:54:00:00:00:21")
	for i := range 5 * strangersKept {
		noted(t, h, policy, fmt.Sprintf("DISCOVER from=02:00:00:00:%02x:%02x", i/256, i%256))
	}
	for range 3 * exchangesKept {
		noted(t, h, policy, "DISCOVER from=02:00:00:00:04:ff")
	}
	if got := len(h.byMAC); got != strangersKept+1 || len(h.explain("52:54:00:00:00:21")) != 1 || len(h.explain("02:00:00:00:04:ff")) != exchangesKept {
		t.Errorf("%d machines, %d and %d exchanges", got, len(h.explain("52:54:00:00:00:21")), len(h.explain("02:00:00:00:04:ff")))
	}
	runtime.KeepAlive(h)
}

// TestRivalIsShouted: dnsmasq on the same network is found by asking and by its answers to others, and said everywhere.
func TestRivalIsShouted(t *testing.T) {
	network(t)
	other := plug(t, "52:54:00:00:00:02")
	other.dnsmasq("10.1.0.2", "--dhcp-boot=wrong.efi")
	log := &journal{}
	s, _ := run(t, configFor(t, log))
	node := plug(t, stranger)
	waitFor(t, func() bool { _ = node.udhcpc(); return len(s.Rivals()) == 1 })
	if r := s.Rivals()[0]; r.Address.String() != "10.1.0.2" {
		t.Errorf("seen: %+v", r)
	}
	waitFor(t, func() bool { r := s.Rivals()[0]; return r.MAC == "52:54:00:00:00:02" })
	if n := strings.Count(log.String(), "ANOTHER DHCP SERVER"); n != 1 {
		t.Errorf("the log says it %d times:\n%s", n, log)
	}
	said, err := node.run("curl", "-sS", serverBase+"/v1/warnings")
	var warnings []Warning
	if err != nil || json.Unmarshal([]byte(said), &warnings) != nil || len(warnings) != 1 || !strings.Contains(warnings[0].Text, "10.1.0.2 (52:54:00:00:00:02)") {
		t.Errorf("%v: %s", err, said)
	}
	// A control socket's client learns what the stranger was told.
	past, err := Explain(t.Context(), s.config.StateDir, s.config.Site, stranger)
	if err != nil || len(past) == 0 || past[0].Reason != "not in the cluster document" {
		t.Errorf("%+v, %v", past, err)
	}
	if _, err := Explain(t.Context(), t.TempDir(), s.config.Site, "worker-1"); err == nil || !strings.Contains(err.Error(), "no boot server runs") {
		t.Errorf("without a server: %v", err)
	}
}

// TestRivalIsProbed: nobody else asks, and another server is found all the same.
func TestRivalIsProbed(t *testing.T) {
	network(t)
	plug(t, "52:54:00:00:00:02").dnsmasq("10.1.0.2")
	var s *Server
	waitFor(t, func() bool { // dnsmasq may not be up when the server asks
		var stop func()
		s, stop = run(t, configFor(t, &journal{}))
		defer stop()
		for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if len(s.Rivals()) == 1 {
				return true
			}
		}
		return false
	})
}

func TestRivalsAreForgotten(t *testing.T) {
	now, log := someTime(), &journal{}
	r := &rivals{site: lab(t), now: func() time.Time { return now }, log: testLog(log)}
	r.saw(netip.MustParseAddr("10.1.0.1"), "", "itself")
	for i := range 3 * maxRivals {
		r.saw(netip.AddrFrom4([4]byte{10, 1, 0, byte(100 + i)}), "", "x")
	}
	if len(r.list()) != maxRivals || strings.Contains(log.String(), "10.1.0.1 ") {
		t.Errorf("%d rivals:\n%s", len(r.list()), log)
	}
	now = now.Add(rivalStays + time.Second)
	if got := r.list(); len(got) != 0 {
		t.Errorf("after long: %+v", got)
	}
}

// FuzzRival: whatever another machine sends from port 67 is read, and our own answers are never taken for another server's.
func FuzzRival(f *testing.F) {
	header := append([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 2, 255, 255, 255, 255}, 0, 67, 0, 68, 0, 0, 0, 0)
	f.Add(append(header, request(f, "OFFER reply from=52:54:00:00:00:21 54=10.1.0.2 67=x")...))
	f.Add(append(header, request(f, "ACK reply from=52:54:00:00:00:21")...))
	f.Add(header)
	f.Fuzz(func(t *testing.T, packet []byte) {
		server, what := rivalOf(packet, false)
		if server.IsValid() && (!server.Is4() || what == "" || strings.ContainsAny(what, "\x1b\n")) {
			t.Errorf("%s %q", server, what)
		}
		if beside, _ := rivalOf(packet, true); beside.IsValid() && beside != server {
			t.Errorf("%s beside another server is %s", server, beside)
		}
		quoted(packet)
		if asked, err := dhcpv4.FromBytes(packet); err == nil {
			h := &history{site: lab(t), now: someTime}
			h.note(portDHCP, packet, asked, Decision{Reason: "x"}, nil, netip.AddrPort{}, false)
			h.explain(asked.ClientHWAddr.String())
		}
	})
}
