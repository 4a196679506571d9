package netboot

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/slipway-os/slipway/builder/kv"
	"github.com/slipway-os/slipway/images/bootspec"
)

// FuzzDecide: whatever arrives on port 67, the answer is a well-formed packet that fits its client, told by the library
// and by a reader that shares nothing with it.
func FuzzDecide(f *testing.F) {
	text, err := os.ReadFile("testdata/decide.txt")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if words, found := strings.CutPrefix(line, "> "); found {
			f.Add(request(f, words))
		}
	}
	overloaded := request(f, "DISCOVER from=52:54:00:00:00:11 52=03")
	copy(overloaded[fileStart:], "\x3c\x05PXECl\xff")
	f.Add(overloaded)
	// Relay information and identifiers over 255 bytes come in parts (RFC 3396).
	long := request(f, "DISCOVER from=52:54:00:00:00:11 57=05dc")
	for _, code := range []byte{61, 82, 97} {
		part := append([]byte{code, 255}, make([]byte, 255)...)
		long = append(append(append(long[:len(long)-1], part...), part...), 255)
	}
	f.Add(long)
	policies := []Policy{policyFor(f, ""), policyFor(f, "unknown=offer held dns"), policyFor(f, "long unknown=offer"), policyFor(f, "ipxe"), policyFor(f, "ipxe proxy"), policyFor(f, "subnets unknown=offer unicast")}
	f.Fuzz(func(t *testing.T, packet []byte) {
		asked, err := decode(packet)
		if err != nil {
			return
		}
		for _, policy := range policies {
			checkDecision(t, asked, Decide(asked, policy), policy)
			if policy.Site.Proxy {
				checkDecision(t, asked, decideProxy(asked, policy, true), policy)
			}
		}
	})
}

func checkDecision(t *testing.T, asked *dhcpv4.DHCPv4, d Decision, policy Policy) {
	if d.Reason == "" {
		t.Error("no reason")
	}
	if d.Reply == nil {
		if d.Hold != 0 {
			t.Errorf("an address is held without an answer: %+v", d)
		}
		return
	}
	if d.Client == ClientIPXE && (strings.HasSuffix(d.Reply.BootFileName, bootspec.ExtBIOS) || strings.HasSuffix(string(d.Reply.Options.Get(dhcpv4.OptionBootfileName)), bootspec.ExtBIOS)) {
		t.Error("iPXE is given iPXE: a loop")
	}
	if policy.Site.Proxy && (d.Hold > 0 || !isZero(d.Reply.YourIPAddr) || d.Reply.Options.Has(dhcpv4.OptionIPAddressLeaseTime)) {
		t.Errorf("a proxy gives an address: %s", d.Reply.Summary())
	}
	if d.Hold > 0 && (d.Known || !d.Subnet.Pool.Contains(d.Address)) {
		t.Errorf("%s is held, which isn't the pool's to give to this client", d.Address)
	}
	packet := encode(d.Reply)
	if longest := max(limit(asked, policy.MTU), minimumReply); len(packet) > longest {
		t.Errorf("reply of %d bytes, the client takes %d", len(packet), longest)
	}
	codes, values, err := walk(packet)
	if err != nil {
		t.Fatalf("%v: %x", err, packet)
	}
	if codes[0] != 53 || codes[1] != 54 || (values[51] != nil && codes[2] != 51) || (values[82] != nil && codes[len(codes)-1] != 82) {
		t.Errorf("order of options: %v", codes)
	}
	again, err := dhcpv4.FromBytes(packet)
	if err != nil {
		t.Fatalf("the library can't read %x: %v", packet, err)
	}
	for code, value := range values {
		if !bytes.Equal(again.Options[uint8(code)], value) || !bytes.Equal(d.Reply.Options[uint8(code)], value) {
			t.Errorf("option %d differs: %x", code, value)
		}
	}
	for _, code := range []int{61, 82, 97} {
		if values[code] != nil && !bytes.Equal(values[code], asked.Options[uint8(code)]) {
			t.Errorf("option %d is not what the client sent: %x", code, values[code])
		}
	}
	to, unicast := destination(asked, d.Reply)
	if !to.IsValid() || !to.Addr().Is4() || unicast && to.Addr() != d.Address {
		t.Errorf("reply goes to %s (without ARP: %v)", to, unicast)
	}
	_, known := policy.Site.subnet(to.Addr())
	selects := relayed(asked, agentLink) != nil && to.Addr() == address(asked.GatewayIPAddr) // such a relay may be anywhere
	if a := to.Addr(); !known && !selects && a.String() != "255.255.255.255" {
		t.Errorf("reply leaves the subnets: %s", a)
	}
}

// FuzzReport: whatever a node says can be kept, shown on a terminal and read again.
func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"mac":"52:54:00:00:00:11","boot":"b","event":"agent up","uptime":1200}`))
	f.Add([]byte(`{"mac":"52:54:00:00:00:11","boot":"b","event":"failed","uptime":1,"detail":"a\u001b[2Jb","log":"x\ty\n\u0000","unit":"etcd.service"}`))
	f.Add([]byte(`{"mac":"52-54-00-00-00-11","event":"ready","uptime":9223372036854775807}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decodeReport(bytes.NewReader(body))
		if err != nil {
			return
		}
		for _, line := range append(strings.FieldsFunc(r.Log, func(c rune) bool { return c == '\n' || c == '\t' }), string(r.Event), r.Detail, r.Unit, r.Boot) {
			if strings.ContainsFunc(line, unicode.IsControl) || !utf8.ValidString(line) {
				t.Errorf("%q could write over a terminal", line)
			}
		}
		n := NodeStatus{State: unseen}
		for range 3 {
			n.report(r, someTime())
		}
		text, err := json.Marshal(n)
		var again NodeStatus
		if err == nil {
			err = json.Unmarshal(text, &again)
		}
		if err != nil || len(again.Boots) != 1 || again.State != string(r.Event) {
			t.Errorf("%s: %v", text, err)
		}
	})
}

// stored are states as entries.
func stored(t *testing.T, all []NodeStatus) (out []kv.Entry) {
	for _, n := range all {
		n.bound()
		value, err := encodeState(&n, 0)
		must(t, err)
		out = append(out, kv.Entry{Key: stateKey + n.MAC, Value: value})
	}
	return out
}

// FuzzStored: whatever the files of an earlier run hold, the server opens them or says that it can't; what it then writes
// it reads again as the same.
func FuzzStored(f *testing.F) {
	f.Add([]byte(`[{"mac":"52:54:00:00:00:11","state":"ready","boots":[{"id":"b","events":[{"event":"offer","time":"2026-01-01T00:00:00Z"}]}]}]`), []byte(`[]`))
	f.Add([]byte(`[{"mac":"02:00:00:00:00:07","state":"seen","boots":null},{}]`), []byte(`[{"mac":"02:00:00:00:00:07","address":"10.1.0.107","until":"2026-02-03T04:05:06Z"},{"address":"10.1.0.108"}]`))
	f.Add([]byte(`[null]`), []byte(`[{"mac":"a","address":"10.1.0.107"},{"mac":"a","address":"10.1.0.108"},{"mac":"b","address":"10.1.0.108"}]`))
	site := lab(f)
	site.ServeUnknown, site.ListUnknown = true, true
	f.Fuzz(func(t *testing.T, nodes, held []byte) {
		var earlier []NodeStatus
		if readJSON(bytes.NewReader(nodes), &earlier) == nil {
			first := newStates(t, site)
			must(t, first.take(stored(t, earlier)))
			second := newStates(t, site)
			must(t, second.take(stored(t, first.all())))
			if a, b := first.all(), second.all(); !reflect.DeepEqual(a, b) {
				t.Errorf("states differ when read again:\n%+v\n%+v", a, b)
			}
			first.report(bootspec.Report{MAC: site.Machines[0].MAC.String(), Boot: "b", Event: bootspec.EventReady})
		}
		var leased []Lease
		if readJSON(bytes.NewReader(held), &leased) != nil {
			return
		}
		l, err := openLeases(nil, site, someTime)
		if err != nil {
			t.Fatal(err)
		}
		l.take(leased)
		for mac, a := range l.byMAC {
			if l.held[a].MAC != mac || !l.pool.Contains(a) {
				t.Errorf("%s has %s, which is %+v", mac, a, l.held[a])
			}
		}
		for a, lease := range l.held {
			if lease.Address != a || lease.MAC != "" && l.byMAC[lease.MAC] != a {
				t.Errorf("%s is held by %+v, who has %s", a, lease, l.byMAC[lease.MAC])
			}
		}
		for _, lease := range leased {
			if a := l.propose("02:00:00:00:00:99", lease.Address); a.IsValid() && (!l.pool.Contains(a) || l.held[a].Until.After(someTime())) {
				t.Errorf("%s is proposed, which is %+v", a, l.held[a])
			}
		}
	})
}

func newStates(t testing.TB, site *Site) *states {
	t.Helper()
	s, err := openStates(nil, site, someTime, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
