package media

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/securetest"
	"github.com/slipway-os/slipway/images/disk"
)

// bootServer gives out artifacts and one configuration, and takes reports.
type bootServer struct {
	url string

	mu      sync.Mutex
	config  []byte
	reports []bootspec.Report
}

func newBootServer(t *testing.T) *bootServer {
	t.Helper()
	s := &bootServer{}
	mux := http.NewServeMux()
	mux.Handle(bootspec.RouteArtifacts, http.StripPrefix(bootspec.RouteArtifacts, http.FileServer(http.Dir(os.Getenv("SLIPWAY_ARTIFACTS")))))
	mux.HandleFunc(bootspec.RouteHealth, func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc(bootspec.RouteClaim, func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, _ = w.Write(s.config)
	})
	mux.HandleFunc(bootspec.RouteReport, func(w http.ResponseWriter, r *http.Request) {
		var report bootspec.Report
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, bootspec.MaxReport)).Decode(&report); err != nil {
			t.Errorf("a report can't be read: %v", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reports = append(s.reports, report)
	})
	securetest.Serve(t, mux, "10.1.0.1")
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	must(t, err)
	s.url = "http://10.1.0.1:" + port
	return s
}

// serve has the server give out the configuration of a node that installs itself.
func (s *bootServer) serve(t *testing.T, install bootspec.Install) {
	config := lone(t, func(n *bootspec.Node) {
		n.Install, n.Server = &install, s.url
		n.Network.Links = []bootspec.Link{{Name: "eth0", Kind: bootspec.KindPhysical, Match: &bootspec.Match{MAC: "52:54:00:00:00:21"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.21/24")}}}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = config
}

// said is the details of all reports of an event.
func (s *bootServer) said(event bootspec.Event) (details []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.reports {
		if r.Event == event {
			details = append(details, r.Detail)
		}
	}
	return details
}

// fromNetwork are the arguments of a machine that got kernel and initrd from the network, without its firmware's detours.
func (s *bootServer) fromNetwork(t *testing.T, disks ...string) []string {
	t.Helper()
	base := strings.TrimSuffix(artifact(t, bootspec.ExtRoot), bootspec.ExtRoot)
	cmdline, err := os.ReadFile(base + bootspec.ExtCmdline)
	must(t, err)
	args := append(s.network(), "-kernel", base+bootspec.ExtKernel, "-initrd", base+bootspec.ExtInitrd,
		"-append", strings.TrimSpace(string(cmdline))+" no_timer_check panic=2 "+bootspec.ArgSource+"="+bootspec.SourceNetwork)
	for i, path := range disks {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=d%d,format=raw,cache=unsafe,file=%s", i, path),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=d%d,serial=disk-%d", i, i))
	}
	return args
}

func (s *bootServer) network() []string {
	return []string{
		"-device", "virtio-net-pci,netdev=n,romfile=,mac=52:54:00:00:00:21",
		"-netdev", "user,id=n,net=10.1.0.0/24,host=10.1.0.1,dhcpstart=10.1.0.21,bootfile=" + s.url,
	}
}

// emptyDisk is a file of 3 GiB of zeros.
func emptyDisk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(path, nil, 0o600), os.Truncate(path, 3<<30))
	return path
}

// Lines of an installation.
const (
	lineInstalling = "slipway: installing (disk /dev/vda"
	lineInstalled  = "slipway: installed on /dev/vda"
	lineAlready    = "slipway: this node is installed there already"
)

// TestMachineInstalls: a machine that booted from the network refuses what it must refuse, installs itself in spite of power
// cuts at ten moments, and then boots its disk without the network.
func TestMachineInstalls(t *testing.T) {
	server := newBootServer(t)
	path, other := emptyDisk(t), emptyDisk(t)
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", path).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}

	server.serve(t, bootspec.Install{Disk: bootspec.DiskMatch{MinSize: 1 << 30}})
	m := launch(t, server.fromNetwork(t, path, other)...)
	m.await(lineFailed + "step install: cannot install: more than one drive fits (at least 1.1 GB): say its serial or wwn")
	m.off()

	target := bootspec.Install{Disk: bootspec.DiskMatch{Serial: "disk-0"}}
	server.serve(t, target)
	m = launch(t, server.fromNetwork(t, path, other)...)
	m.await(lineFailed)
	found := regexp.MustCompile(`step install: cannot install on /dev/vda: it holds data that this node has not installed: disk: ext2/3/4 [0-9a-f]{32} \(to destroy all of it, write overwrite: "([0-9a-f]{12})"`).FindStringSubmatch(m.console())
	if found == nil {
		t.Fatal("the console doesn't say what is on the disk")
	}
	m.off()
	if out, err := exec.Command("e2fsck", "-f", "-n", path).CombinedOutput(); err != nil {
		t.Fatalf("the refused disk: %v: %s", err, out)
	}

	target.Overwrite = found[1]
	server.serve(t, target)
	for i, after := range []time.Duration{0, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 3 * time.Second, 5 * time.Second, 8 * time.Second, 11 * time.Second} {
		m = launch(t, server.fromNetwork(t, path, other)...)
		if m.await(lineInstalling, lineAlready, lineFailed) != lineInstalling {
			t.Fatalf("after %d cuts the installation does not begin again", i)
		}
		time.Sleep(after)
		m.off()
		found := state(t, path)
		t.Logf("cut %v after its beginning: %s", after, found)
		if found == "whole" { // a fast machine: there is nothing left to cut
			must(t, os.Truncate(path, 0), os.Truncate(path, 3<<30))
		}
	}
	m = launch(t, server.fromNetwork(t, path, other)...)
	m.await(lineInstalled)
	m.off() // the tenth, before it restarts
	if got := state(t, path); got != "whole" {
		t.Fatalf("the disk is %s", got)
	}
	for _, line := range regexp.MustCompile(`slipway: (DRIVE|/dev/vd|installed on).*`).FindAllString(m.console(), -1) {
		t.Log(line)
	}

	// From the network once more: it stays as it is.
	m = launch(t, server.fromNetwork(t, path, other)...)
	m.await(lineAlready)
	m.off()
	if got := server.said(bootspec.EventInstalled); len(got) == 0 || !strings.HasPrefix(got[len(got)-1], "was installed already, on /dev/vda") {
		t.Errorf("reported as installed: %q", got)
	}

	// By itself, but it is no longer called what the document calls it.
	m = boot(t, append(server.network(), numbered(virtioDisk(path, 512), "moved")...)...)
	m.await(lineBlessed, lineFailed)
	m.never(lineFailed, lineInstalling)
	if line := "no disk to install on, the node goes on from the one it booted from"; !strings.Contains(m.console(), line) {
		t.Errorf("the console doesn't say %q", line)
	}
	m.off()
	began := len(server.said(bootspec.EventUnitsStarted))

	// By itself, with firmware that was told nothing.
	m = boot(t, append(server.network(), numbered(virtioDisk(path, 512), "disk-0")...)...)
	m.await(lineUncounted, lineFailed)
	for deadline := time.Now().Add(patience); len(server.said(bootspec.EventUnitsStarted)) == began && time.Now().Before(deadline); {
		time.Sleep(time.Second)
	}
	m.never(lineFailed, lineInstalling)
	m.off()
	if got := server.said(bootspec.EventUnitsStarted); len(got) != began+1 {
		t.Errorf("the installed node reports started units %d times, before %d times", len(got), began)
	}
	if got := kept(t, path); got != "booted\nbooted\n" {
		t.Errorf("what it wrote: %q", got)
	}
}

// numbered is a medium's arguments with another serial number.
func numbered(medium []string, serial string) []string {
	var args []string
	for _, a := range medium {
		args = append(args, strings.ReplaceAll(a, "serial=medium", "serial="+serial))
	}
	return args
}

// state says what firmware finds on the disk: "nothing to boot", or an installation that is "whole". Half of one fails the
// test.
func state(t *testing.T, path string) string {
	t.Helper()
	d, err := disk.Inspect(path)
	if err != nil {
		return "nothing to boot"
	}
	base := strings.TrimSuffix(artifact(t, bootspec.ExtRoot), bootspec.ExtRoot)
	cmdline, err := os.ReadFile(base + bootspec.ExtCmdline)
	must(t, err)
	root, err := bootspec.ParseRoot(string(cmdline))
	must(t, err)
	f := open(t, path)
	data, _ := d.Partition(bootspec.LabelRootA)
	tree, _ := d.Partition(bootspec.LabelVerityA)
	h := sha256.New()
	_, err = io.Copy(h, io.MultiReader(io.NewSectionReader(f, data.Start, root.Data), io.NewSectionReader(f, tree.Start, root.Size-root.Data)))
	must(t, err)
	if got := hex.EncodeToString(h.Sum(nil)); got != root.Digest {
		t.Fatalf("there is a partition table, but the root image has SHA-256 %s, not %s", got, root.Digest)
	}
	place, _ := d.Partition(bootspec.LabelConfig)
	if c, err := bootspec.ReadConfig(place.Of(f)); err != nil || c.Node != "worker-1" {
		t.Fatalf("there is a partition table, but no configuration: %v", err)
	}
	esp, _ := d.Partition(bootspec.LabelESP)
	kernel, err := os.ReadFile(base + bootspec.ExtUKI)
	must(t, err)
	content, _, err := disk.OpenBootFile(f, esp, bootspec.UKIDirectory+"/"+bootspec.BootEntry(root.Image, bootspec.BootTries))
	must(t, err)
	if got, err := io.ReadAll(content); err != nil || !bytes.Equal(got, kernel) {
		t.Fatalf("there is a partition table, but the ESP has another kernel image: %v", err)
	}
	return "whole"
}

// TestMachineInstallsFromAStick: without any network, from the ISO on a stick that stays plugged in and comes first in the
// firmware's order: it installs once, and each time goes on to the disk.
func TestMachineInstallsFromAStick(t *testing.T) {
	stick, path := medium(t, artifact(t, bootspec.ExtISO)), emptyDisk(t)
	configure(t, stick, lone(t, func(n *bootspec.Node) {
		n.Install = &bootspec.Install{Disk: bootspec.DiskMatch{MinSize: 2 << 30, Smallest: true}} // the stick would fit, too
	}))
	m := boot(t, append(usbStick(stick), "-drive", "if=none,id=target,format=raw,cache=unsafe,file="+path,
		"-device", "virtio-blk-pci,drive=target,serial=target,logical_block_size=4096,physical_block_size=4096,bootindex=2")...)
	m.awaitCount(lineInstalled, 1)
	m.awaitCount("slipway: units are started", 1)
	m.reset()
	m.awaitCount(lineAlready, 1)
	m.awaitCount("slipway: units are started", 2)
	m.off()
	for text, want := range map[string]int{
		"no: the machine booted from it": 2, "slipway: medium found (drive /dev/sda": 2, "slipway: medium found (drive /dev/vda": 2, lineInstalling: 1, lineStateMade: 1,
	} {
		if got := strings.Count(m.console(), text); got != want && (want == 1 || got == 0) {
			t.Errorf("the console says %q %d times", text, got)
		}
	}
	if got := kept(t, path); !strings.HasSuffix(got, "booted\n") { // what the first one wrote was in memory when the reset button was pressed
		t.Errorf("what its boots wrote: %q", got)
	}
}
