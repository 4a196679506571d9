package initramfs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/securetest"
)

// The tests in this file boot a baked worker image in QEMU, with a boot server that misbehaves. SLIPWAY_ARTIFACTS is the
// folder of the artifacts.

const nodeMAC = "52:54:00:00:00:21"

// machine is a virtual machine and its boot server.
type machine struct {
	t       *testing.T
	base    string // artifact path without extension
	cmdline string
	options []string         // more of QEMU's
	root    http.HandlerFunc // serves the root image
	config  []byte           // Ignition

	serial  string // file
	monitor string // socket
	mu      sync.Mutex
	reports []bootspec.Report
	news    chan struct{}
}

// prepare finds the artifacts. The machine runs from start on.
func prepare(t *testing.T) *machine {
	t.Helper()
	dir := os.Getenv("SLIPWAY_ARTIFACTS")
	if dir == "" {
		t.Skip("SLIPWAY_ARTIFACTS doesn't name a folder with a baked worker image")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("no qemu-system-x86_64")
	}
	found, _ := filepath.Glob(filepath.Join(dir, "slipway-worker-*-amd64.root"))
	if len(found) == 0 {
		t.Fatalf("there is no worker image in %s", dir)
	}
	m := &machine{t: t, base: strings.TrimSuffix(found[0], bootspec.ExtRoot), news: make(chan struct{}, 100), config: nodeConfig(t)}
	cmdline, err := os.ReadFile(m.base + bootspec.ExtCmdline)
	must(t, err)
	m.cmdline = strings.TrimSpace(string(cmdline))
	m.root = func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, m.base+bootspec.ExtRoot) }
	return m
}

// nodeConfig is a configuration for a node that has nothing of a cluster.
func nodeConfig(t *testing.T, more ...map[string]any) []byte {
	t.Helper()
	return configOf(t, bootspec.Network{Links: []bootspec.Link{{Name: "eth0", Kind: bootspec.KindPhysical, Match: &bootspec.Match{MAC: nodeMAC}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.21/24")}}}}, more...)
}

func configOf(t *testing.T, network bootspec.Network, more ...map[string]any) []byte {
	t.Helper()
	node, err := json.Marshal(bootspec.Node{
		APIVersion: bootspec.Version, Cluster: "lab", Name: "worker-1", Role: "worker", Target: "slipway-worker.target", APIServer: "https://10.1.0.11:6443",
		Network: network,
	})
	must(t, err)
	files := []map[string]any{{"path": bootspec.NodeDocument, "mode": 0o644, "contents": map[string]string{"source": "data:," + url.PathEscape(string(node))}}}
	config, err := json.Marshal(map[string]any{"ignition": map[string]string{"version": "3.4.0"}, "storage": map[string]any{"files": append(files, more...)}})
	must(t, err)
	return config
}

func (m *machine) start() {
	t := m.t
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc(bootspec.RouteArtifacts, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"root"`)
		m.root(w, r)
	})
	mux.HandleFunc(bootspec.RouteHealth, func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc(bootspec.RouteClaim, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(m.config) })
	securetest.Serve(t, mux, "10.1.0.1")
	mux.HandleFunc(bootspec.RouteReport, func(w http.ResponseWriter, r *http.Request) {
		var report bootspec.Report
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, bootspec.MaxReport)).Decode(&report); err != nil {
			t.Errorf("a report can't be read: %v", err)
		}
		m.mu.Lock()
		m.reports = append(m.reports, report)
		m.mu.Unlock()
		m.news <- struct{}{}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	must(t, err)
	dir := t.TempDir()
	m.serial, m.monitor = filepath.Join(dir, "serial"), filepath.Join(dir, "monitor")
	// timeout: no machine stays behind when the test is killed.
	cmd := exec.Command("timeout", "--kill-after=1", "12m", "qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,-cx16", "-m", "1024", "-smp", "1",
		"-display", "none", "-no-user-config", "-nodefaults", "-serial", "file:"+m.serial, "-monitor", "unix:"+m.monitor+",server=on,wait=off",
		"-device", "virtio-rng-pci", "-device", "virtio-net-pci,netdev=n,romfile=,mac="+nodeMAC,
		"-netdev", "user,id=n,net=10.1.0.0/24,host=10.1.0.1,dhcpstart=10.1.0.21,bootfile=http://10.1.0.1:"+port,
		"-kernel", m.base+bootspec.ExtKernel, "-initrd", m.base+bootspec.ExtInitrd, "-append", m.cmdline)
	cmd.Args = append(cmd.Args, m.options...)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			log := m.console()
			t.Logf("end of the console:\n%s", log[max(0, len(log)-4000):])
		}
	})
}

func (m *machine) console() string {
	data, _ := os.ReadFile(m.serial)
	return string(data)
}

// await waits for an event, the nth of its kind.
func (m *machine) await(event bootspec.Event, nth int) bootspec.Report {
	m.t.Helper()
	deadline := time.After(5 * time.Minute)
	for {
		seen := 0
		m.mu.Lock()
		for _, r := range m.reports {
			if r.Event != event {
				continue
			}
			if seen++; seen == nth {
				m.mu.Unlock()
				return r
			}
		}
		m.mu.Unlock()
		select {
		case <-m.news:
		case <-deadline:
			m.t.Fatalf("no %q number %d", event, nth)
		}
	}
}

// awaitConsole waits for a text.
func (m *machine) awaitConsole(text string) {
	m.t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if strings.Contains(m.console(), text) {
			return
		}
	}
	m.t.Fatalf("the console doesn't say %q", text)
}

// TestMachineBootsOverABond asks for its boot server over a bond of two cards, one of which leads nowhere, and has the same
// bond in the running system.
func TestMachineBootsOverABond(t *testing.T) {
	m := prepare(t)
	m.options = []string{"-netdev", "hubport,hubid=7,id=nowhere", "-device", "virtio-net-pci,netdev=nowhere,romfile=,mac=52:54:00:00:00:22"}
	network := bootspec.Network{Links: []bootspec.Link{
		{Name: "lan0", Kind: bootspec.KindPhysical, Match: &bootspec.Match{MAC: nodeMAC}},
		{Name: "lan1", Kind: bootspec.KindPhysical, Match: &bootspec.Match{MAC: "52:54:00:00:00:22"}},
		{Name: "bond0", Kind: bootspec.KindBond, Members: []string{"lan0", "lan1"}, Bond: &bootspec.Bond{Mode: "active-backup"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.21/24")}},
	}}
	m.config = configOf(t, network)
	value, err := network.Argument()
	must(t, err)
	m.cmdline += " " + bootspec.ArgNetwork + "=" + value
	m.start()
	if up := m.await(bootspec.EventAgentUp, 1); !strings.HasPrefix(up.Detail, "bond0 10.1.0.21") {
		t.Errorf("the server was found over %q", up.Detail)
	}
	m.await(bootspec.EventNetworkUp, 1)
	if strings.Contains(m.console(), "taking the change back") {
		t.Error("the running system has another network")
	}
}

func TestMachineSurvivesCutsAndARebootInTheMiddleOfItsFirstBoot(t *testing.T) {
	m := prepare(t)
	m.options = []string{"-rtc", "base=2021-01-01"} // years off: no certificate of today would be valid
	times := 0
	whole := m.root
	m.root = func(w http.ResponseWriter, r *http.Request) {
		if times++; times < 3 {
			whole(&cutter{w, 20 << 20}, r)
			return
		}
		whole(w, r)
	}
	m.start()
	first := m.await(bootspec.EventProvisioned, 1)
	if n := strings.Count(m.console(), "transfer of the root image broke off, going on"); n != 2 {
		t.Errorf("the console tells of %d cuts", n)
	}
	// systemd has hardly started.
	conn, err := net.Dial("unix", m.monitor)
	must(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("system_reset\n"))
	must(t, err)
	again := m.await(bootspec.EventProvisioned, 2)
	up := m.await(bootspec.EventNetworkUp, 1)
	if first.Boot == again.Boot || up.Boot != again.Boot || up.MAC != nodeMAC {
		t.Errorf("reports are of the boots %s, %s and %s of %s", first.Boot, again.Boot, up.Boot, up.MAC)
	}
	if !strings.Contains(m.console(), "clock set by the boot server") {
		t.Error("the clock was not set")
	}
	// There is no cluster: units can't start, and their own words say why.
	failed := m.await(bootspec.EventFailed, 1)
	if !strings.HasSuffix(failed.Unit, ".service") || !strings.Contains(failed.Log, failed.Unit) || !strings.Contains(m.console(), "unit fails (unit "+failed.Unit) {
		t.Errorf("the report is %+v", failed)
	}
}

func TestMachineStopsAtAFlippedByte(t *testing.T) {
	m := prepare(t)
	data, err := os.ReadFile(m.base + bootspec.ExtRoot)
	must(t, err)
	data[len(data)/2] ^= 0x40
	m.root = func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
	m.start()
	report := m.await(bootspec.EventFailed, 1)
	root, err := bootspec.ParseRoot(m.cmdline)
	must(t, err)
	if !strings.Contains(report.Detail, "corrupted") || !strings.Contains(report.Detail, root.Digest) || !strings.Contains(report.Log, "fetching it once more") {
		t.Errorf("the report is %+v", report)
	}
	if c := m.console(); !strings.Contains(c, "BOOT FAILED") || strings.Contains(c, "dm-verity (device") || strings.Contains(c, "systemd[1]") {
		t.Error("the console doesn't say that the boot stopped before the image was used")
	}
}

// TestMachineStopsWhereVerityFindsAFlippedByte gives an image whose digest is right (memory that fails later, say): the
// kernel must find the block.
func TestMachineStopsWhereVerityFindsAFlippedByte(t *testing.T) {
	m := prepare(t)
	root, err := bootspec.ParseRoot(m.cmdline)
	must(t, err)
	data, err := os.ReadFile(m.base + bootspec.ExtRoot)
	must(t, err)
	data[40] ^= 1 // in the squashfs superblock, which is read first
	m.cmdline = strings.ReplaceAll(m.cmdline, root.Digest, digest(data))
	m.root = func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
	m.start()
	m.awaitConsole("Kernel panic - not syncing: dm-verity device corrupted")
	if !strings.Contains(m.console(), "verity: 7:0: data block 0 is corrupted") {
		t.Error("the console doesn't name the block")
	}
}

// TestMachineKeepsARefusedConfigurationPrivate gives Ignition what it refuses, and fails at, with a secret in it.
func TestMachineKeepsARefusedConfigurationPrivate(t *testing.T) {
	const secret = "s3cr3t-KEY-material-0123456789"
	m := prepare(t)
	m.config = nodeConfig(t,
		map[string]any{"path": "/etc/kubernetes/pki/ca.key", "contents": map[string]string{"source": "data:," + secret}},
		map[string]any{"path": "/usr/bin/x", "contents": map[string]string{"source": "data:," + secret}}, // read-only
	)
	m.start()
	report := m.await(bootspec.EventFailed, 1)
	for where, text := range map[string]string{"report": fmt.Sprintf("%+v", report), "console": m.console()} {
		if strings.Contains(text, secret[:12]) {
			t.Errorf("the secret is in the %s", where)
		}
	}
	if !strings.Contains(report.Detail, "Ignition failed to apply the configuration") || !strings.Contains(report.Detail, "/usr/bin/x") {
		t.Errorf("the report says %q", report.Detail)
	}
}
