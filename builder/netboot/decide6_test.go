package netboot

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// lab6 is the lab's site with IPv6.
func lab6(t testing.TB) *Site {
	t.Helper()
	site := lab(t)
	site.IPv6 = &IPv6{Subnet: netip.MustParsePrefix("fd00:1::/64"), Server: netip.MustParseAddr("fd00:1::1"), Advertise: true}
	for i, last := range []string{"11", "21"} {
		site.Machines[i].Address6 = netip.MustParseAddr("fd00:1::" + last)
	}
	return site
}

// policy6For is the policy of a case: words change the lab's site.
func policy6For(t testing.TB, words string) Policy6 {
	t.Helper()
	p := Policy6{Site: lab6(t), DUID: ours(), HTTPBase: "http://[fd00:1::1]:8080"}
	images, from := map[string]string{"worker amd64": workerUKI, "worker arm64": "slipway-worker-0.1.0-arm64.efi"}, FromNetwork
	for word := range strings.FieldsSeq(words) {
		switch word {
		case "dns":
			p.Site.IPv6.DNS = []netip.Addr{netip.MustParseAddr("fd00:1::2")}
		case "disk":
			from = FromDisk
		default:
			t.Fatalf("%q is no word for a policy", word)
		}
	}
	p.Image = func(role, arch string) string { return images[role+" "+arch] }
	p.BootFrom = func(net.HardwareAddr) BootFrom { return from }
	return p
}

// TestDecide6 answers the packets in testdata/decide6.txt, as TestDecide those in decide.txt.
func TestDecide6(t *testing.T) {
	const file = "testdata/decide6.txt"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	title, with := "", ""
	var got, want []string
	finish := func() {
		if have, should := strings.Join(got, "\n"), strings.Join(want, "\n"); have != should && !*update {
			t.Errorf("%s\ngot:\n%s\nwant:\n%s", title, have, should)
		}
		for _, line := range got {
			out.WriteString("< " + line + "\n")
		}
		got, want = nil, nil
	}
	for line := range strings.Lines(string(text)) {
		mark, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if mark == "<" {
			want = append(want, rest)
			continue
		}
		finish()
		out.WriteString(line)
		switch mark {
		case "#":
			title, with = rest, ""
		case "with":
			with = rest
		case ">":
			packet, from := request6(t, rest)
			asked, err := dhcpv6.FromBytes(packet)
			if err != nil {
				t.Fatalf("%s: %v", title, err)
			}
			d := Decide6(asked, from, policy6For(t, with))
			if again := Decide6(asked, from, policy6For(t, with)); !reflect.DeepEqual(d, again) {
				t.Errorf("%s: decided differently when asked again: %+v, %+v", title, d, again)
			}
			got = words6(t, d)
		}
	}
	finish()
	if *update {
		must(t, os.WriteFile(file, out.Bytes(), 0o644))
	}
}

// FuzzDecide6: whatever arrives on port 547, the answer is a well-formed message for that transaction that gives nobody but a node
// an address, and no other address than the node's.
func FuzzDecide6(f *testing.F) {
	text, err := os.ReadFile("testdata/decide6.txt")
	must(f, err)
	for line := range strings.Lines(string(text)) {
		if words, found := strings.CutPrefix(line, "> "); found {
			packet, from := request6(f, words)
			f.Add(packet, from.AsSlice())
		}
	}
	policies := []Policy6{policy6For(f, ""), policy6For(f, "dns disk")}
	f.Fuzz(func(t *testing.T, packet, source []byte) {
		asked, err := dhcpv6.FromBytes(packet)
		from, ok := netip.AddrFromSlice(source)
		if err != nil || !ok {
			return
		}
		for _, policy := range policies {
			checkDecision6(t, Decide6(asked, from, policy), policy, packet)
		}
	})
}

func checkDecision6(t *testing.T, d Decision6, policy Policy6, packet []byte) {
	if d.Reason == "" {
		t.Error("no reason")
	}
	if d.Reply == nil {
		return
	}
	if !d.Known {
		t.Errorf("a machine outside the document is answered: %s", d.Reason)
	}
	bytes := d.Reply.ToBytes()
	if len(bytes) > 2*len(packet)+1200 {
		t.Errorf("%d bytes are answered to %d", len(bytes), len(packet))
	}
	again, err := dhcpv6.FromBytes(bytes)
	if err != nil {
		t.Fatalf("the library can't read %x: %v", bytes, err)
	}
	message, err := again.GetInnerMessage()
	if err != nil {
		t.Fatal(err)
	}
	if message.TransactionID != d.Message.TransactionID || message.Options.ServerID() == nil {
		t.Errorf("another transaction or no server: %s", message.Summary())
	}
	for _, ia := range message.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			if own, _ := netip.AddrFromSlice(a.IPv6Addr); a.ValidLifetime > 0 && own != d.Machine.Address6 {
				t.Errorf("%s is given to %s", own, d.Machine.Name)
			}
		}
	}
}

// TestOwnDUID: the server's identifier stays when it starts again.
func TestOwnDUID(t *testing.T) {
	store, err := openStore(t.TempDir())
	must(t, err)
	defer store.close()
	var ids []string
	for range 2 {
		id, err := ownDUID(store)
		must(t, err)
		ids = append(ids, id.String())
	}
	other, err := ownDUID(nil)
	must(t, err)
	if ids[0] != ids[1] || ids[0] == other.String() {
		t.Errorf("%v, another server is %s", ids, other)
	}
	must(t, store.replace(duidFile, []byte(`{"duid": "no"}`)))
	if id, err := ownDUID(store); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("a damaged file gives %v, %v", id, err)
	}
}

// TestAdvertisement: firmware is told to ask DHCPv6, and nobody takes the server for a router.
func TestAdvertisement(t *testing.T) {
	six := lab6(t).IPv6
	got := advertisement(six, net.HardwareAddr{2, 0, 0, 0, 0, 1})
	if got.RouterLifetime != 0 || !got.ManagedConfiguration || !got.OtherConfiguration || len(got.Options) != 2 {
		t.Errorf("%+v", got)
	}
}
