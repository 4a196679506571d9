package netboot

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

const (
	worker1      = "52:54:00:00:00:21"
	stranger     = "52:54:00:00:00:99"
	workerUKI    = "slipway-worker-0.1.0-amd64.efi"
	serverBase   = "http://10.1.0.1:8080"
	workerLease  = "ip=10.1.0.21 mask=24 serverid=10.1.0.1 lease=3600 hostname=worker-1"
	leaseAndBoot = "ip mask serverid lease hostname boot_file siaddr bootfile tftp vendor"
)

// TestUdhcpc: each kind of client gets its address and what it boots, and nothing that isn't for it.
func TestUdhcpc(t *testing.T) {
	network(t)
	run(t, configFor(t, &journal{}))
	node := plug(t, worker1)
	for _, c := range []struct{ name, words, want string }{
		{"plain, answered at its hardware address", "", workerLease},
		{"plain, answered by broadcast", "-B", workerLease},
		{"without a client identifier", "-C", workerLease},
		{"wishes for another's address", "-r 10.1.0.11", workerLease},
		{"the agent", "-V slipway-agent", workerLease + " bootfile=" + serverBase},
		{"UEFI PXE", "-V PXEClient:Arch:00007:UNDI:003016 -x 0x5d:0007",
			workerLease + " boot_file=" + workerUKI + " siaddr=10.1.0.1 bootfile=" + workerUKI + " tftp=10.1.0.1 vendor=PXEClient"},
		{"UEFI HTTP", "-V HTTPClient:Arch:00016:UNDI:003001 -x 0x5d:0010",
			workerLease + " bootfile=" + serverBase + "/artifacts/" + workerUKI + " vendor=HTTPClient"},
		{"BIOS PXE", "-V PXEClient:Arch:00000:UNDI:002001 -x 0x5d:0000", workerLease},
	} {
		must(t, node.udhcpc(append(strings.Fields(c.words), "-O", "hostname", "-O", "bootfile", "-O", "tftp", "-O", "lease")...))
		if got := node.told("bound", strings.Fields(leaseAndBoot)...); got != c.want {
			t.Errorf("%s: got\n%s, want\n%s", c.name, got, c.want)
		}
	}
}

// TestDhclient: ISC's client gets its lease, keeps it when it starts again (INIT-REBOOT), and gets its own instead of one
// that it remembers wrongly.
func TestDhclient(t *testing.T) {
	network(t)
	log := &journal{}
	run(t, configFor(t, log))
	node := plug(t, worker1)
	names := []string{"new_ip_address", "new_subnet_mask", "new_dhcp_server_identifier", "new_dhcp_lease_time"}
	const want = "new_ip_address=10.1.0.21 new_subnet_mask=255.255.255.0 new_dhcp_server_identifier=10.1.0.1 new_dhcp_lease_time=3600"
	for _, event := range []string{"BOUND", "REBOOT"} {
		stop := node.dhclient()
		if got := node.told(event, names...); got != want {
			t.Errorf("%s: got\n%s, want\n%s", event, got, want)
		}
		stop()
	}
	remembered := filepath.Join(node.dir, "leases")
	text, err := os.ReadFile(remembered)
	must(t, err)
	must(t, os.WriteFile(remembered, bytes.ReplaceAll(text, []byte("fixed-address 10.1.0.21"), []byte("fixed-address 10.1.0.66")), 0o600))
	defer node.dhclient()()
	if got := node.told("BOUND", names...); got != want {
		t.Errorf("with a wrong memory: got\n%s, want\n%s", got, want)
	}
	if !strings.Contains(log.String(), "refused: client wants 10.1.0.66, its address is 10.1.0.21") {
		t.Errorf("the wrong address wasn't refused:\n%s", log)
	}
}

// dhclient runs ISC's client until stop is called; the words are more arguments.
func (c *host) dhclient(words ...string) (stop func()) {
	c.t.Helper()
	if _, err := exec.LookPath("dhclient"); err != nil {
		c.t.Skip("dhclient is not installed (make deps)")
	}
	arguments := []string{"dhclient", "-d", "-1", "-e", "RESULT=" + c.dir, "-cf", "/dev/null", "-sf", c.hook(),
		"-lf", filepath.Join(c.dir, "leases"), "-pf", filepath.Join(c.dir, "pid")}
	end := c.start(append(append(arguments, words...), "eth0")...)
	return func() {
		waitFor(c.t, func() bool { // it writes its lease after it has called the script
			text, err := os.ReadFile(filepath.Join(c.dir, "leases"))
			return err == nil && bytes.Contains(text, []byte("fixed-address"))
		})
		end()
	}
}

// TestUnknownMachine: a machine outside the document gets no answer but is listed; where the document allows it, it gets
// an address of the pool and nothing to boot, also after a restart, and gives it back.
func TestUnknownMachine(t *testing.T) {
	network(t)
	config := configFor(t, &journal{})
	s, stop := run(t, config)
	other := plug(t, stranger)
	if err := other.udhcpc(); err == nil {
		t.Error("it got a lease, which the document doesn't allow")
	}
	listed := s.Nodes()
	if n := listed[len(listed)-1]; n.MAC != stranger || n.State != "seen" || n.Name != "" || n.Last != "not in the cluster document" {
		t.Errorf("it is listed as %+v", n)
	}
	stop()

	config.Site.ServeUnknown = true
	s, stop = run(t, config)
	pxe := []string{"-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "0x5d:0007", "-O", "bootfile", "-O", "tftp"}
	for range 2 {
		must(t, other.udhcpc(pxe...))
		if got := other.told("bound", "ip", "boot_file", "bootfile", "tftp"); got != "ip=10.1.0.100" {
			t.Errorf("it was told %s", got)
		}
		stop()
		s, stop = run(t, config)
	}
	third := plug(t, "52:54:00:00:00:98")
	must(t, third.udhcpc("-r", "10.1.0.100"))
	if got := third.told("bound", "ip"); got != "ip=10.1.0.101" {
		t.Errorf("another machine that wishes for its address was told %s", got)
	}
	leases := func() string {
		entries, err := s.entries.List(leaseKey)
		must(t, err)
		return fmt.Sprintf("%s", entries)
	}
	if !strings.Contains(leases(), stranger) {
		t.Errorf("its lease isn't kept: %s", leases())
	}
	leave := other.dhclient()
	other.told("BOUND")
	leave()
	other.dhclient("-r")
	waitFor(t, func() bool { return !strings.Contains(leases(), stranger) })
}

// TestReplyPath: an answer goes to the client's hardware address, or to all when it asks for that (RFC 2131 section 4.1).
func TestReplyPath(t *testing.T) {
	network(t)
	run(t, configFor(t, &journal{}))
	node := plug(t, worker1)
	answers := node.answers()
	for _, c := range []struct{ words, want string }{
		{"-o", worker1 + " 10.1.0.21"},
		{"-B", "ff:ff:ff:ff:ff:ff 255.255.255.255"},
	} {
		must(t, node.udhcpc(c.words))
		for _, message := range []string{"offer", "acknowledgement"} {
			select {
			case got := <-answers:
				if got != c.want {
					t.Errorf("udhcpc %s: the %s goes to %s, want %s", c.words, message, got, c.want)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("udhcpc %s: no %s is seen", c.words, message)
			}
		}
	}
}

// answers sees where the server's DHCP messages go: hardware and IPv4 address.
func (c *host) answers() <-chan string {
	c.t.Helper()
	var socket int
	must(c.t, c.in(func() (err error) {
		protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP))
		if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol)); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	}))
	found := make(chan string, 16)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	c.t.Cleanup(func() { cancel(); <-ended })
	go func() {
		defer close(ended)
		defer unix.Close(socket)
		const ip, udp = 14, 34 // where they start
		frame := make([]byte, 2048)
		for ctx.Err() == nil {
			n, _, err := unix.Recvfrom(socket, frame, 0)
			if err != nil || n < udp+8 || frame[ip+9] != unix.IPPROTO_UDP || binary.BigEndian.Uint16(frame[udp:]) != portDHCP {
				continue
			}
			to, _ := netip.AddrFromSlice(frame[ip+16 : ip+20])
			found <- fmt.Sprintf("%s %s", net.HardwareAddr(frame[:6]), to)
		}
	}()
	return found
}

// TestRelay: a relay on the subnet gets the answers, on port 67, with its information.
func TestRelay(t *testing.T) {
	network(t)
	run(t, configFor(t, &journal{}))
	relay := plug(t, stranger)
	if said, err := relay.run("ip", "address", "add", "10.1.0.2/24", "dev", "eth0"); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	must(t, relay.in(func() error {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 1, 0, 2), Port: portDHCP})
		if err != nil {
			return err
		}
		defer conn.Close()
		packet := request(t, "DISCOVER from="+worker1+" giaddr=10.1.0.2 82=0104deadbeef 55=1")
		if _, err := conn.WriteToUDP(packet, &net.UDPAddr{IP: net.IPv4(10, 1, 0, 1), Port: portDHCP}); err != nil {
			return err
		}
		buffer := make([]byte, 2000)
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		n, from, err := conn.ReadFromUDP(buffer)
		if err != nil {
			return err
		}
		codes, values, err := walk(buffer[:n])
		if got := from.String() + " " + optionWords(codes, values); err != nil || got != "10.1.0.1:67 53=OFFER 54=10.1.0.1 51=3600 1=255.255.255.0 82=0104deadbeef" {
			t.Errorf("%s, %v", got, err)
		}
		return nil
	}))
}

// TestMalformed: what isn't DHCP is passed over, and the next client is answered.
func TestMalformed(t *testing.T) {
	network(t)
	run(t, configFor(t, &journal{}))
	node := plug(t, worker1)
	if said, err := node.run("ip", "address", "add", "10.1.0.200/24", "dev", "eth0"); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	must(t, node.in(func() error {
		conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(10, 1, 0, 1), Port: portDHCP})
		if err != nil {
			return err
		}
		defer conn.Close()
		header := append(make([]byte, 236), 99, 130, 83, 99)
		for _, packet := range [][]byte{
			{}, {1}, header[:200], header, append(header[:240:240], 53, 200, 1), bytes.Repeat([]byte{0xff}, 1400),
			append(header[:240:240], bytes.Repeat([]byte{82, 0}, 500)...), bytes.Repeat([]byte{1}, 60_000),
		} {
			if _, err := conn.Write(packet); err != nil {
				return err
			}
		}
		return nil
	}))
	must(t, node.udhcpc())
	if got := node.told("bound", "ip"); got != "ip=10.1.0.21" {
		t.Errorf("after malformed packets the client was told %s", got)
	}
}

// TestCurl: artifacts, reports and states over HTTP, with the client everybody has.
func TestCurl(t *testing.T) {
	network(t)
	config := configFor(t, &journal{})
	run(t, config)
	node := plug(t, worker1)
	must(t, node.udhcpc())
	curl := func(words ...string) string {
		t.Helper()
		said, err := node.run(append([]string{"curl", "-sS", "--max-time", "20"}, words...)...)
		if err != nil {
			t.Fatalf("curl %s: %v: %s", words, err, said)
		}
		return said
	}
	url := serverBase + bootspec.RouteArtifacts + workerUKI
	size, err := os.Stat(filepath.Join(config.Artifacts, workerUKI))
	must(t, err)
	head := strings.ToLower(curl("--head", url))
	for _, want := range []string{"http/1.1 200", fmt.Sprintf("content-length: %d\r\n", size.Size()), "content-type: application/efi\r\n", "accept-ranges: bytes\r\n"} {
		if !strings.Contains(head, want) || strings.Contains(head, "chunked") {
			t.Errorf("HEAD answers %q, want %q in it", head, want)
		}
	}
	_, rest, _ := strings.Cut(head, "etag: ")
	tag, _, _ := strings.Cut(rest, "\r\n")
	report := `{"mac":"` + worker1 + `","boot":"b","event":"failed","uptime":4000,"unit":"etcd.service","detail":"exit 1","log":"two\nlines"}`
	for _, c := range []struct {
		name, want string
		words      []string
	}{
		{"the same again", "304", []string{"-H", "If-None-Match: " + tag, url}},
		{"a part of what has changed", "200", []string{"-r", "5-9", "-H", `If-Range: "another"`, url}},
		{"a part", "206", []string{"-r", "5-9", "-H", "If-Range: " + tag, url}},
		{"a part past the end", "416", []string{"-r", "99999999-", url}},
		{"a listing", "404", []string{serverBase + bootspec.RouteArtifacts}},
		{"a file that no manifest names", "404", []string{serverBase + "/artifacts/" + entriesFile}},
		{"a way out of the folder", "404", []string{"--path-as-is", serverBase + "/artifacts/..%2f..%2fetc%2fpasswd"}},
		{"writing", "405", []string{"-X", "PUT", "-d", "x", url}},
		{"health", "200", []string{serverBase + bootspec.RouteHealth}},
		{"a report", "204", []string{"-d", report, serverBase + bootspec.RouteReport}},
		{"half a report", "400", []string{"-d", report[:30], serverBase + bootspec.RouteReport}},
	} {
		if got := curl(append([]string{"-o", "/dev/null", "-w", "%{http_code}"}, c.words...)...); got != c.want {
			t.Errorf("%s: answer %s, want %s", c.name, got, c.want)
		}
	}
	var nodes []NodeStatus
	must(t, json.Unmarshal([]byte(curl(serverBase+bootspec.RouteNodes)), &nodes))
	n := nodes[len(nodes)-1]
	failed, _ := n.Boot().Find(bootspec.EventFailed)
	if n.Name != "worker-1" || n.State != "failed" || failed.Unit != "etcd.service" || failed.Detail != "exit 1" || failed.Log != "two\nlines" {
		t.Errorf("the states say %+v", n)
	}
}

// TestTFTP: the boot file with ordinary clients, from a port of its own and from port 69, and noted as sent; nothing else is there.
func TestTFTP(t *testing.T) {
	for _, single := range []bool{false, true} {
		t.Run(fmt.Sprintf("single port %v", single), func(t *testing.T) {
			network(t)
			config := configFor(t, &journal{})
			config.TFTPSinglePort = single
			s, _ := run(t, config)
			node := plug(t, worker1)
			must(t, node.udhcpc())
			got := filepath.Join(node.dir, "got")
			for _, command := range [][]string{
				{"tftp", "-m", "binary", "10.1.0.1", "-c", "get", workerUKI, got},
				{"atftp", "-g", "-r", workerUKI, "-l", got, "--option", "blksize 1428", "--option", "windowsize 8", "10.1.0.1"},
				{"busybox", "tftp", "-g", "-b", "1428", "-r", workerUKI, "-l", got, "10.1.0.1"},
				{"curl", "-sS", "-o", got, "tftp://10.1.0.1/" + workerUKI},
			} {
				if said, err := node.run(command...); err != nil {
					t.Fatalf("%s: %v: %s", command[0], err, said)
				}
				sameFile(t, got, filepath.Join(config.Artifacts, workerUKI))
				must(t, os.Remove(got))
			}
			waitFor(t, func() bool {
				nodes := s.Nodes()
				_, sent := nodes[len(nodes)-1].Boot().Find(bootspec.EventKernelSent)
				return sent
			})
			for _, name := range []string{entriesFile, "../" + entriesFile, "/etc/passwd", "slipway-worker-0.1.0-amd64.json"} {
				if said, _ := node.run("tftp", "-m", "binary", "10.1.0.1", "-c", "get", name, got); !strings.Contains(said, "Error code") {
					t.Errorf("%s was served: %q", name, said)
				}
			}
		})
	}
}
