package netboot

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// TestDiscovery follows a machine that nobody knows, with programs anyone has: it gets an address and a kernel, tells its hardware over
// TLS, is adopted while the server runs, and is a node at its next boot. The server is started again in the middle.
func TestDiscovery(t *testing.T) {
	network(t)
	log := &journal{}
	config := configFor(t, log)
	config.Site.ServeUnknown, config.Site.Discover = true, true
	next := lab(t)
	next.ServeUnknown, next.Discover = true, true
	next.Machines = append(next.Machines, Machine{Name: "worker-2", Role: "worker", MAC: mustMAC(t, strangerMAC), Address: netip.MustParseAddr("10.1.0.22")})
	config.Reload = func(ctx context.Context, s *Server) error {
		return s.Change(ctx, Change{Site: next, NodeConfig: func(node string) ([]byte, error) { return []byte(secret + " of " + node), nil }})
	}
	_, stop := run(t, config)
	const uki = "slipway-worker-0.1.0-amd64.efi"
	stranger := plug(t, strangerMAC)
	firmware := func(want string) {
		t.Helper()
		must(t, stranger.udhcpc("-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "0x5d:0007"))
		if got := stranger.told("bound", "ip", "boot_file"); got != want {
			t.Errorf("firmware was told %s, want %s", got, want)
		}
	}
	firmware("ip=10.1.0.100 boot_file=" + uki)
	kernel := filepath.Join(stranger.dir, "kernel")
	if said, err := stranger.run("atftp", "-g", "-r", uki, "-l", kernel, "10.1.0.1"); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	waitFor(t, func() bool { return strings.Contains(log.String(), "tftp: sent") })
	must(t, stranger.udhcpc("-V", "slipway-agent", "-O", "bootfile"))
	if got := stranger.told("bound", "ip", "bootfile"); got != "ip=10.1.0.100 bootfile=http://10.1.0.1:8080" {
		t.Errorf("the agent was told %s", got)
	}
	curl := func(words ...string) string {
		t.Helper()
		said, err := stranger.run(append([]string{"curl", "-sS", "--max-time", "20"}, words...)...)
		if err != nil {
			t.Fatalf("curl %s: %v: %s", words, err, said)
		}
		return said
	}
	var over bootspec.Secure
	must(t, json.Unmarshal([]byte(curl("http://10.1.0.1:8080/v1/secure")), &over))
	if !over.Discover {
		t.Fatal("the machine isn't told that it is discovered")
	}
	ca, own := filepath.Join(stranger.dir, "ca"), claimantFile(t)
	must(t, os.WriteFile(ca, []byte(over.Authority), 0o600))
	post := func(route, body string) string {
		t.Helper()
		return curl("-w", "%{http_code}", "--cacert", ca, "--connect-to", "boot.slipway.internal:7446:10.1.0.1:7446", "--cert", own, "--key", own, "-d", body, "https://boot.slipway.internal:7446"+route)
	}
	told := asJSON(t, hardwareOf(strangerMAC))
	if got := post("/v1/hardware", told); got != "{\"seconds\":10}\n200" {
		t.Errorf("hardware: %s", got)
	}
	if got := post("/v1/claim", `{"version":1,"mac":"`+strangerMAC+`"}`); !strings.HasSuffix(got, "403") || strings.Contains(got, secret) {
		t.Errorf("a machine that isn't a node gets a configuration: %s", got)
	}
	stop()

	s, _ := run(t, config)
	n := s.Nodes()[2]
	var events []string
	for _, e := range n.Boot().Events {
		events = append(events, string(e.Event))
	}
	if n.Word() != "discovered" || strings.Join(events, ", ") != "offer, kernel sent, discovered" {
		t.Errorf("after a restart it is %s, %s", n.State, events)
	}
	if got := post("/v1/hardware", told); got != "{\"seconds\":10}\n200" {
		t.Errorf("after a restart: %s", got)
	}
	list, err := Machines(t.Context(), config.StateDir)
	if err != nil || len(list) != 1 || list[0].Hardware.System.Serial != "SERIAL-OF-THE-MACHINE" {
		t.Errorf("%+v, %v", list, err)
	}
	if h, ok := s.Hardware(strangerMAC); !ok || h.System.Serial != "" || h.Memory == 0 {
		t.Errorf("what anyone may see: %+v", h)
	}
	must(t, Reload(t.Context(), config.StateDir))
	if got := post("/v1/hardware", told); got != "{\"node\":\"worker-2\",\"seconds\":10}\n200" {
		t.Errorf("adopted: %s", got)
	}
	firmware("ip=10.1.0.22 boot_file=" + uki)
	must(t, stranger.udhcpc("-V", "slipway-agent"))
	over = bootspec.Secure{}
	must(t, json.Unmarshal([]byte(curl("http://10.1.0.1:8080/v1/secure")), &over))
	if over.Discover {
		t.Error("a node is told that it is discovered")
	}
	if got := post("/v1/claim", `{"version":1,"mac":"`+strangerMAC+`","uuid":"u","serial":"s"}`); got != secret+" of worker-2200" {
		t.Errorf("the node asks for its configuration: %s", got)
	}
}
