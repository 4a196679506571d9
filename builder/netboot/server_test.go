package netboot

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/securetest"
)

// configFor is a boot server's configuration for the lab, with images baked into a folder of the test's.
func configFor(t testing.TB, log *journal) Config {
	t.Helper()
	images := t.TempDir()
	bake(t, images, "worker", "0.1.0", "amd64")
	bake(t, images, "control-plane", "0.1.0", "amd64")
	authority, own := securetest.Certificate(t)
	return Config{
		Secure: &Secure{Authority: authority, Certificate: func() (*tls.Certificate, error) { return own, nil }},
		Site:   lab(t), Artifacts: images, StateDir: filepath.Join(t.TempDir(), "state"), Interfaces: []string{serverLink},
		NodeConfig: func(node string) ([]byte, error) { return []byte(secret + " of " + node), nil },
		Log:        slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// run runs a boot server until stop is called.
func run(t testing.TB, c Config) (s *Server, stop func()) {
	t.Helper()
	s, err := New(c)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		t.Helper()
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			must(t, err)
		case <-time.After(20 * time.Second):
			t.Fatal("the server doesn't end")
		}
	}
	t.Cleanup(stop)
	return s, stop
}

// TestBoot follows one machine through its boot with programs anyone has, and starts the server again in the middle.
func TestBoot(t *testing.T) {
	network(t)
	log := &journal{}
	config := configFor(t, log)
	const uki, root = "slipway-worker-0.1.0-amd64.efi", "slipway-worker-0.1.0-amd64.root"
	_, stop := run(t, config)
	node, stranger := plug(t, "52:54:00:00:00:21"), plug(t, "02:00:00:00:00:07")

	must(t, node.udhcpc("-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "0x5d:0007", "-O", "tftp", "-O", "bootfile"))
	want := "ip=10.1.0.21 mask=24 router=10.1.0.1 serverid=10.1.0.1 siaddr=10.1.0.1 boot_file=" + uki + " bootfile=" + uki + " tftp=10.1.0.1"
	if got := node.told("bound", "ip", "mask", "router", "serverid", "siaddr", "boot_file", "bootfile", "tftp"); got != want {
		t.Errorf("firmware was told\n%s, want\n%s", got, want)
	}
	kernel := filepath.Join(node.dir, "kernel")
	if said, err := node.run("atftp", "-g", "-r", uki, "-l", kernel, "--option", "blksize 1428", "--option", "windowsize 4", "10.1.0.1"); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	sameFile(t, kernel, filepath.Join(config.Artifacts, uki))
	waitFor(t, func() bool { return strings.Contains(log.String(), "tftp: sent") })

	stop()
	s, stop := run(t, config)

	must(t, node.udhcpc("-V", "slipway-agent", "-O", "bootfile"))
	if got := node.told("bound", "ip", "bootfile"); got != "ip=10.1.0.21 bootfile=http://10.1.0.1:8080" {
		t.Errorf("the agent was told %s", got)
	}
	curl := func(from *host, words ...string) string {
		t.Helper()
		said, err := from.run(append([]string{"curl", "-sS", "--max-time", "20"}, words...)...)
		if err != nil {
			t.Fatalf("curl %s: %v: %s", words, err, said)
		}
		return said
	}
	report := func(event string, uptime int) {
		t.Helper()
		body := fmt.Sprintf(`{"mac":"52:54:00:00:00:21","boot":"b","event":%q,"uptime":%d}`, event, uptime)
		if got := curl(node, "-w", "%{http_code}", "-d", body, s.Base()+"/v1/report"); got != "204" {
			t.Errorf("report of %s: %s", event, got)
		}
	}
	report("agent up", 1)
	var over bootspec.Secure
	must(t, json.Unmarshal([]byte(curl(node, s.Base()+"/v1/secure")), &over))
	secure := func(from *host, route string, words ...string) string {
		t.Helper()
		ca := filepath.Join(from.dir, "ca")
		must(t, os.WriteFile(ca, []byte(over.Authority), 0o600))
		words = append([]string{"--cacert", ca, "--connect-to", "boot.slipway.internal:7446:10.1.0.1:7446"}, words...)
		return curl(from, append(words, "https://boot.slipway.internal:7446"+route)...)
	}
	image := filepath.Join(node.dir, "root")
	before := s.Traffic()
	secure(node, "/artifacts/"+root, "-o", image, "-r", "0-9999")
	secure(node, "/artifacts/"+root, "-o", image, "-C", "-")
	sameFile(t, image, filepath.Join(config.Artifacts, root))
	if after := s.Traffic(); after.HTTPBytes != before.HTTPBytes || after.HTTPSBytes == before.HTTPSBytes {
		t.Errorf("the root image went by plain HTTP: %+v, before %+v", after, before)
	}
	if got := secure(node, "/artifacts/nothing", "-w", "%{http_code}"); !strings.HasSuffix(got, "404") {
		t.Errorf("what isn't there: %s", got)
	}

	if said, err := stranger.run("ip", "address", "add", "10.1.0.99/24", "dev", "eth0"); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	if got := curl(node, "-w", "%{http_code}", s.Base()+"/v1/config?mac=52:54:00:00:00:21"); !strings.HasSuffix(got, "426") || strings.Contains(got, secret) {
		t.Errorf("an image of an earlier version asks for its configuration: %s", got)
	}
	claim := func(from *host, own string) string {
		return secure(from, "/v1/claim", "-w", "%{http_code}", "--cert", own, "--key", own, "-d", `{"version":1,"mac":"52:54:00:00:00:21","uuid":"u","serial":"s"}`)
	}
	own := claimantFile(t)
	if got := claim(stranger, own); !strings.HasSuffix(got, "403") || strings.Contains(got, secret) {
		t.Errorf("a stranger asks for the configuration: %s", got)
	}
	if got := claim(node, own); got != secret+" of worker-1200" {
		t.Errorf("the node asks for its configuration: %s", got)
	}
	report("ready", 2)
	got := ""
	for _, e := range s.Nodes()[1].Boot().Events {
		got += string(e.Event) + ", "
	}
	if len(s.Nodes()[1].Boots) != 1 || got != "offer, kernel sent, agent up, config claimed, ready, " {
		t.Errorf("%d boots, the newest: %s", len(s.Nodes()[1].Boots), got)
	}
	stop()
	states, err := os.ReadFile(filepath.Join(config.StateDir, entriesFile))
	must(t, err)
	if all := log.String() + string(states); strings.Contains(all, secret) {
		t.Errorf("a configuration is in the log or in the states:\n%s", all)
	}
}

func sameFile(t *testing.T, got, want string) {
	t.Helper()
	a, err := os.ReadFile(got)
	must(t, err)
	b, err := os.ReadFile(want)
	must(t, err)
	if string(a) != string(b) {
		t.Errorf("%s: %d bytes that differ from %s, %d bytes", got, len(a), want, len(b))
	}
}

func waitFor(t testing.TB, what func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !what(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never comes")
		}
	}
}

// TestCannotStart: what keeps the server from starting is said with who or what to do.
func TestCannotStart(t *testing.T) {
	fails := func(t *testing.T, c Config, want ...string) {
		t.Helper()
		s, err := New(c)
		if err == nil {
			s.Close()
		}
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("got %v, want: %s", err, w)
			}
		}
	}
	us := fmt.Sprintf("(process %d)", os.Getpid())
	t.Run("DHCP's port is taken", func(t *testing.T) {
		network(t)
		other, err := net.ListenUDP("udp4", &net.UDPAddr{Port: portDHCP})
		must(t, err)
		defer other.Close()
		fails(t, configFor(t, &journal{}), "cannot serve DHCP", us, "udp port 67", "stop it")
	})
	t.Run("DHCP's port is taken for IPv6 too", func(t *testing.T) {
		network(t)
		other, err := net.ListenUDP("udp", &net.UDPAddr{Port: portDHCP})
		must(t, err)
		defer other.Close()
		fails(t, configFor(t, &journal{}), "cannot serve DHCP", us)
	})
	t.Run("HTTP's port is taken", func(t *testing.T) {
		network(t)
		other, err := net.Listen("tcp4", "10.1.0.1:8080")
		must(t, err)
		defer other.Close()
		fails(t, configFor(t, &journal{}), "cannot serve HTTP", us, "tcp port 8080")
	})
	t.Run("a second server", func(t *testing.T) {
		network(t)
		c := configFor(t, &journal{})
		run(t, c)
		fails(t, c, "cannot serve DHCP", us)
	})
	t.Run("no rights", func(t *testing.T) {
		network(t)
		c := configFor(t, &journal{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // never unlocked: this thread has no rights any more
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var none [2]unix.CapUserData
			if err := unix.Capset(&header, &none[0]); err != nil {
				t.Error(err)
				return
			}
			fails(t, c, "cannot serve DHCP on port 67: no right to", "run as root", "CAP_NET_ADMIN")
		}()
		<-done
	})
	t.Run("interface", func(t *testing.T) {
		network(t)
		c := configFor(t, &journal{})
		c.Interfaces = []string{"eno7"}
		fails(t, c, "cannot serve on eno7: there is no such interface", "br0", "lo")
		c.Interfaces = []string{"lo"}
		fails(t, c, "cannot serve on lo: it lacks the server's address", "ip address add 10.1.0.1/24 dev lo")
		c.Interfaces = nil
		s, err := New(c)
		must(t, err)
		s.Close()
		link, err := netlink.LinkByName(serverLink)
		must(t, err)
		must(t, netlink.LinkSetDown(link))
		fails(t, c, "cannot serve on br0: it is down", "ip link set br0 up")
		c.Site.Server = netip.MustParseAddr("10.1.0.3")
		fails(t, c, "no interface has the server's address 10.1.0.3", "ip address add 10.1.0.3/24 dev INTERFACE")
	})
	t.Run("state folder", func(t *testing.T) {
		network(t)
		c := configFor(t, &journal{})
		must(t, os.Mkdir(c.StateDir, 0o700))
		must(t, os.WriteFile(filepath.Join(c.StateDir, nodesFile), []byte("[{"), 0o600))
		fails(t, c, "cannot read "+filepath.Join(c.StateDir, nodesFile), "remove it")
		must(t, os.Remove(filepath.Join(c.StateDir, nodesFile)))
		run(t, c) // nothing of the failed starts is left: ports and lock are free
	})
}

// TestLinkFlaps: a cable pulled and plugged in again doesn't end the server.
func TestLinkFlaps(t *testing.T) {
	network(t)
	config := configFor(t, &journal{})
	run(t, config)
	node := plug(t, "52:54:00:00:00:21")
	link, err := netlink.LinkByName(serverLink)
	must(t, err)
	must(t, netlink.LinkSetDown(link))
	time.Sleep(50 * time.Millisecond)
	must(t, netlink.LinkSetUp(link))
	must(t, node.udhcpc())
	if got := node.told("bound", "ip"); got != "ip=10.1.0.21" {
		t.Error(got)
	}
}
