package rack

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/slipway-os/slipway/profiles/cluster"
)

func lab(t *testing.T) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Parse("lab.yaml", cluster.Lab())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testSpace is a namespace of this run alone, so that tests meet neither a rack that is up nor each other.
func testSpace(t *testing.T) *namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	name := fmt.Sprintf("slipway-test-%d-%s", os.Getpid(), strings.ToLower(t.Name()))
	space, err := newNamespace(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := space.close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(namespaceFolder, name)); err == nil {
			t.Errorf("namespace %s is still there", name)
		}
	})
	return space
}

func TestWireMakesTheDocumentsNetworks(t *testing.T) {
	space := testSpace(t)
	if err := space.wire(lab(t)); err != nil {
		t.Fatal(err)
	}
	err := space.do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		names := map[int]string{}
		for _, l := range links {
			names[l.Attrs().Index] = l.Attrs().Name
		}
		got := map[string]string{}
		for _, l := range links {
			got[l.Attrs().Name] = names[l.Attrs().MasterIndex]
		}
		for tap, bridge := range map[string]string{"tap0.0": "br1", "tap0.1": "br0", "tap1.0": "br1", "tap1.1": "br0"} {
			if got[tap] != bridge {
				t.Errorf("%s is on %q, not on %s", tap, got[tap], bridge)
			}
		}
		forward, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
		if err != nil || strings.TrimSpace(string(forward)) != "0" {
			t.Errorf("the rack forwards: ip_forward is %q (%v)", forward, err)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ip", "-n", space.name, "-o", "-4", "addr", "show", "dev", "br1").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "10.1.0.1/24") {
		t.Errorf("the boot server's address is not on the management bridge: %s (%v)", out, err)
	}
}

func TestLeftoversOfAKilledRunAreRemoved(t *testing.T) {
	space := testSpace(t)
	dir := filepath.Join(t.TempDir(), "lab")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// The rack's folder is in the command line of everything a rack starts.
	p, err := spawn(space, dir, "worker-1", filepath.Join(dir, "worker-1.log"), exec.Command("sh", "-c", "while :; do sleep 1; done; : "+dir))
	if err != nil {
		t.Fatal(err)
	}
	stranger := exec.Command("sleep", "600")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stranger.Process.Kill(); stranger.Wait() }()
	writePID(t, filepath.Join(dir, "cp-1.pid"), stranger.Process.Pid) // its number was used again
	if err := removeLeftovers(dir, "slipway-test-none"); err != nil {
		t.Fatal(err)
	}
	if !p.ends(5 * time.Second) {
		t.Error("the process of the earlier run still runs")
	}
	if !runs(stranger.Process.Pid, "sleep") {
		t.Error("a process that only has the pid of an earlier one was ended")
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the folder of the earlier run is still there")
	}
}

func TestProcessesEndWithTheNamespace(t *testing.T) {
	space := testSpace(t)
	dir := t.TempDir()
	p, err := spawn(space, dir, "stubborn", filepath.Join(dir, "log"), exec.Command("sh", "-c", `trap "" TERM; while :; do sleep 1; done`))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.stop(100 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if p.running() {
		t.Error("a process that does not want to end still runs")
	}
}

// TestNamespaceGoesAlthoughOthersMakeSome: in a /run where no namespace had a name before, somebody else names one while a rack is up.
func TestNamespaceGoesAlthoughOthersMakeSome(t *testing.T) {
	if os.Getenv("SLIPWAY_TEST_OWN_RUN") == "" {
		if os.Geteuid() != 0 {
			t.Skip("network namespaces need root")
		}
		cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-c",
			`mount -t tmpfs none /run && exec "$0" -test.run '^TestNamespaceGoesAlthoughOthersMakeSome$'`, os.Args[0])
		cmd.Env = append(os.Environ(), "SLIPWAY_TEST_OWN_RUN=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	testSpace(t)
	if out, err := exec.CommandContext(t.Context(), "ip", "netns", "add", "other").CombinedOutput(); err != nil {
		t.Fatalf("ip netns add: %v: %s", err, out)
	}
}
