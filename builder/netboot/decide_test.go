package netboot

import (
	"bytes"
	"flag"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/slipway-os/slipway/profiles/cluster"
)

var update = flag.Bool("update", false, "write the answers into testdata/decide.txt")

// lab is the shipped example's site.
func lab(t testing.TB) *Site {
	t.Helper()
	c, err := cluster.Parse("lab.yaml", cluster.Lab())
	if err != nil {
		t.Fatal(err)
	}
	return FromCluster(c)
}

// furtherSubnets gives the lab a subnet more that the server has an interface in, and one behind a relay, each with a node.
func furtherSubnets(site *Site) {
	address := netip.MustParseAddr
	site.Further = []Subnet{
		{Prefix: netip.MustParsePrefix("10.2.0.0/24"), Server: address("10.2.0.1"), Pool: Pool{address("10.2.0.100"), address("10.2.0.199")}},
		{Prefix: netip.MustParsePrefix("10.3.0.0/24"), Gateway: address("10.3.0.1"), Pool: Pool{address("10.3.0.100"), address("10.3.0.199")}},
	}
	site.Machines = append(site.Machines,
		Machine{Name: "worker-2", Role: "worker", MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0x22}, Address: address("10.2.0.22")},
		Machine{Name: "worker-3", Role: "worker", MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0x23}, Address: address("10.3.0.23")})
}

func someTime() time.Time { return time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC) }

// policyFor is the policy of a case: words change the lab's site.
func policyFor(t testing.TB, words string) Policy {
	t.Helper()
	site := lab(t)
	images := map[string]string{
		"control-plane amd64": "slipway-control-plane-0.1.0-amd64.efi", "worker amd64": "slipway-worker-0.1.0-amd64.efi",
		"worker arm64": "slipway-worker-0.1.0-arm64.efi",
	}
	var held []Lease
	from, bios := FromNetwork, ""
	var at []netip.Addr
	unicast := false
	for word := range strings.FieldsSeq(words) {
		switch word {
		case "subnets":
			furtherSubnets(site)
		case "unicast":
			unicast = true
		case "at=10.2.0.1":
			at = []netip.Addr{netip.MustParseAddr("10.2.0.1")}
		case "at=both":
			at = []netip.Addr{site.Server, netip.MustParseAddr("10.2.0.1")}
		case "unknown=offer":
			site.ServeUnknown = true
		case "unknown=discover":
			site.ServeUnknown, site.Discover = true, true
		case "dns":
			site.DNS = []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")}
		case "long":
			site.Machines[0].Name = strings.Repeat("n", 63)
			for i := range 30 {
				site.DNS = append(site.DNS, netip.AddrFrom4([4]byte{10, 1, 0, byte(200 + i)}))
			}
		case "pool=empty":
			site.Pool = Pool{}
		case "held":
			held = append(held, Lease{MAC: "02:00:00:00:00:07", Address: netip.MustParseAddr("10.1.0.107"), Until: someTime().Add(time.Hour)})
		case "proxy", "bootport":
			site.Proxy = true
		case "disk":
			from = FromDisk
		case "images=none":
			images = nil
		case "ipxe":
			bios = "slipway-worker-0.1.0-amd64.kpxe"
		default:
			t.Fatalf("%q is no word for a policy", word)
		}
	}
	l, err := openPools(nil, site, someTime)
	if err != nil {
		t.Fatal(err)
	}
	for _, lease := range held {
		l[0].put(lease)
	}
	return Policy{
		Site: site, HTTPPort: 8080, Lease: l.propose, MTU: 1500, At: at, Unicast: unicast,
		Image:      func(role, arch string) string { return images[role+" "+arch] },
		BIOSLoader: func(string) string { return bios },
		BootFrom: func(mac net.HardwareAddr) BootFrom {
			if mac[5] == 0x21 {
				return from
			}
			return FromNetwork
		},
	}
}

// TestDecide answers the packets in testdata/decide.txt: a case is a title, perhaps a policy ("with ..."), a request ("> ...")
// and the answer ("< ...").
func TestDecide(t *testing.T) {
	const file = "testdata/decide.txt"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	title, with, want := "", "", ""
	var got []string
	finish := func() {
		if have := strings.Join(got, "\n"); have != want && !*update {
			t.Errorf("%s\ngot:\n%s\nwant:\n%s", title, have, want)
		}
		for _, line := range got {
			out.WriteString("< " + line + "\n")
		}
		got, want = nil, ""
	}
	for line := range strings.Lines(string(text)) {
		mark, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if mark == "<" {
			want = strings.TrimPrefix(want+"\n"+rest, "\n")
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
			asked, err := decode(request(t, rest))
			if err != nil {
				t.Fatalf("%s: %v", title, err)
			}
			policy := policyFor(t, with)
			decide := Decide
			if strings.Contains(with, "bootport") {
				decide = func(r *dhcpv4.DHCPv4, p Policy) Decision { return decideProxy(r, p, true) }
			}
			d := decide(asked, policy)
			if again := decide(asked, policy); !reflect.DeepEqual(d, again) {
				t.Errorf("%s: decided differently when asked again: %+v, %+v", title, d, again)
			}
			got = words(t, asked, d)
		}
	}
	finish()
	if *update {
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDecodeIsLenient: real firmware leaves out the end option, and puts options into the header's fields.
func TestDecodeIsLenient(t *testing.T) {
	whole := request(t, "DISCOVER from=52:54:00:00:00:11 60=PXEClient 93=0007")
	overloaded := request(t, "DISCOVER from=52:54:00:00:00:11 52=03")
	copy(overloaded[fileStart:], "\x3c\x05PXECl\xff")
	copy(overloaded[snameStart:], "\x3c\x04ient\x5d\x02\x00\x07\xff")
	for name, packet := range map[string][]byte{
		"whole": whole, "without end": whole[:len(whole)-1], "options in file and sname": overloaded,
		"zeros after the end": append(whole, make([]byte, 60)...),
	} {
		asked, err := decode(packet)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := Decide(asked, policyFor(t, "")); d.Client != ClientPXE {
			t.Errorf("%s: taken for a %s", name, d.Client)
		}
	}
	for name, packet := range map[string][]byte{
		"empty": nil, "short": whole[:200], "another cookie": append(append([]byte(nil), whole[:236]...), "1234\xff"...),
		"cut option": whole[:len(whole)-2], "overload without end and cut": append(append([]byte(nil), whole[:fileStart]...), bytes.Repeat([]byte{9}, 600)...),
	} {
		if asked, err := decode(packet); err == nil {
			t.Errorf("%s was taken: %s", name, asked.Summary())
		}
	}
}

// TestSiteCheck: a site made by hand can't make the server answer wrongly.
func TestSiteCheck(t *testing.T) {
	for want, spoil := range map[string]func(*Site){
		"server address 10.9.0.1 is not in subnet": func(s *Site) { s.Server = netip.MustParseAddr("10.9.0.1") },
		"not a range in subnet":                    func(s *Site) { s.Pool.Last = netip.MustParseAddr("10.1.0.99") },
		"cp-1: needs a MAC address":                func(s *Site) { s.Machines[0].MAC = net.HardwareAddr{1, 2} },
		"10.1.0.11 is also that of cp-1":           func(s *Site) { s.Machines[1].Address = s.Machines[0].Address },
		"10.1.0.1 is also that of the server":      func(s *Site) { s.Machines[1].Address = s.Server },
		"52:54:00:00:00:11 is also that of cp-1":   func(s *Site) { s.Machines[1].MAC = s.Machines[0].MAC },
	} {
		site := lab(t)
		if err := site.check(); err != nil {
			t.Fatal(err)
		}
		spoil(site)
		if err := site.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want: %s", err, want)
		}
	}
}

// BenchmarkAnswer is one packet's way through the server without its sockets and disk: decode, decide, encode.
func BenchmarkAnswer(b *testing.B) {
	packet := request(b, "DISCOVER from=52:54:00:00:00:11 broadcast 57=05c0 55=1,3,6,12,43,60,66,67,97 97=0011223344556677889900112233445566 93=0007 60=PXEClient:Arch:00007:UNDI:003016")
	policy := policyFor(b, "")
	for b.Loop() {
		asked, err := decode(packet)
		if err != nil {
			b.Fatal(err)
		}
		encode(Decide(asked, policy).Reply)
	}
}
