package netboot

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
	"github.com/slipway-os/slipway/test/tap"
)

// plugBadly makes a machine whose cable loses one frame in twenty, each way, and lets one in ten arrive after its successor. It is two
// TAP devices with this program between them: not every kernel has netem, and this one sees frames as they would be on a wire.
func plugBadly(t *testing.T, mac string) *host {
	t.Helper()
	c := &host{t: t, dir: t.TempDir()}
	space, err := newSpace()
	must(t, err)
	c.space = space
	t.Cleanup(func() { c.space.Close() })
	near, err := tap.Open("bad0")
	must(t, err)
	var far *os.File
	must(t, c.in(func() (err error) { far, err = tap.Open("eth0"); return err }))
	bridge, err := netlink.LinkByName(serverLink)
	must(t, err)
	port, err := netlink.LinkByName("bad0")
	must(t, err)
	must(t, netlink.LinkSetMaster(port, bridge))
	must(t, netlink.LinkSetUp(port))
	there, err := netlink.NewHandleAt(c.space)
	must(t, err)
	defer there.Close()
	hardware, err := net.ParseMAC(mac)
	must(t, err)
	link, err := there.LinkByName("eth0")
	must(t, err)
	must(t, there.LinkSetHardwareAddr(link, hardware))
	must(t, there.LinkSetUp(link))
	ended := make(chan struct{}, 2)
	for i, way := range [][2]*os.File{{near, far}, {far, near}} {
		go func() { badly(way[0], way[1], rand.New(rand.NewSource(int64(i)))); ended <- struct{}{} }()
	}
	t.Cleanup(func() { near.Close(); far.Close(); <-ended; <-ended })
	return c
}

// newSpace makes a network namespace.
func newSpace() (space netns.NsHandle, err error) {
	c := &host{}
	if c.space, err = netns.Get(); err != nil {
		return space, err
	}
	defer c.space.Close()
	err = c.in(func() (err error) { space, err = netns.New(); return err })
	return space, err
}

// badly carries frames until it can't any more.
func badly(from, to *os.File, dice *rand.Rand) {
	var late []byte
	frame := make([]byte, 4096)
	for {
		wait := time.Time{}
		if late != nil {
			wait = time.Now().Add(20 * time.Millisecond)
		}
		if from.SetReadDeadline(wait) != nil {
			return
		}
		n, err := from.Read(frame)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			n = 0 // there is no successor
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			time.Sleep(time.Millisecond) // the device is down
			continue
		case dice.Intn(100) < 5:
			continue
		case late == nil && dice.Intn(100) < 10:
			late = bytes.Clone(frame[:n])
			continue
		}
		for _, f := range [][]byte{frame[:n], late} {
			if len(f) > 0 {
				_, _ = to.Write(f)
			}
		}
		late = nil
	}
}

// TestBadWire: DHCP, TFTP in single blocks and in windows, from a port of its own and from the shared one, and HTTP over a cable that
// loses and reorders frames.
func TestBadWire(t *testing.T) {
	for _, single := range []bool{false, true} {
		t.Run(fmt.Sprintf("single port %v", single), func(t *testing.T) {
			network(t)
			config := configFor(t, &journal{})
			enlarge(t, config.Artifacts, 100_000)
			config.TFTPSinglePort = single
			run(t, config)
			node := plugBadly(t, worker1)
			for range 5 {
				must(t, node.udhcpc("-t", "10"))
				if got := node.told("bound", "ip"); got != "ip=10.1.0.21" {
					t.Fatalf("the client was told %s", got)
				}
			}
			file, got := filepath.Join(config.Artifacts, workerUKI), filepath.Join(node.dir, "got")
			for name, command := range map[string]string{
				"tftp-hpa":                     "tftp -m binary 10.1.0.1 -c get " + workerUKI + " " + got,
				"atftp, 16 blocks in a window": "atftp -g -r " + workerUKI + " -l " + got + " --option blksize\x001428 --option windowsize\x0016 10.1.0.1",
				"curl":                         "curl -sS --max-time 60 -o " + got + " " + serverBase + bootspec.RouteArtifacts + workerUKI,
			} {
				if single && name == "tftp-hpa" {
					continue // the same, and it takes longest
				}
				words := strings.Fields(command)
				for i := range words {
					words[i] = strings.ReplaceAll(words[i], "\x00", " ")
				}
				started := time.Now()
				if said, err := node.run(words...); err != nil {
					t.Errorf("%s: %v: %s", name, err, said)
					continue
				}
				sameFile(t, got, file)
				t.Logf("%s: %.1f s", name, time.Since(started).Seconds())
				must(t, os.Remove(got))
			}
		})
	}
}

// enlarge gives a worker's image a UKI of a size.
func enlarge(t *testing.T, images string, size int) {
	t.Helper()
	content := make([]byte, size)
	rand.New(rand.NewSource(int64(size))).Read(content)
	bake(t, images, "worker", "0.1.0", "amd64", func(m *manifest.Manifest) {
		m.Artifacts[0].Size, m.Artifacts[0].SHA256 = int64(size), fmt.Sprintf("%x", sha256.Sum256(content))
		write(t, filepath.Join(images, m.Artifacts[0].Name), string(content))
	})
}

// TestRestartInMidFile: a client whose server goes in the middle of a file, and comes again, has the file whole at the end.
func TestRestartInMidFile(t *testing.T) {
	network(t)
	config := configFor(t, &journal{})
	enlarge(t, config.Artifacts, 12<<20)
	_, stop := run(t, config)
	node := plug(t, worker1)
	must(t, node.udhcpc())
	got := filepath.Join(node.dir, "got")
	end := node.start("wget", "-q", "--tries=20", "--waitretry=1", "--retry-connrefused", "--limit-rate=3m", "-O", got,
		serverBase+bootspec.RouteArtifacts+workerUKI)
	arrived := func(least int64) func() bool {
		return func() bool {
			info, err := os.Stat(got)
			return err == nil && info.Size() >= least
		}
	}
	waitFor(t, arrived(1))
	stop()
	if arrived(12 << 20)() {
		t.Fatal("the file was there before the server ended: this shows nothing")
	}
	run(t, config)
	waitFor(t, arrived(12<<20))
	end()
	sameFile(t, got, filepath.Join(config.Artifacts, workerUKI))
}

// TestLinkFlapsInMidFile: a cable that is pulled and plugged in again doesn't end a transfer.
func TestLinkFlapsInMidFile(t *testing.T) {
	t.Run("own ports", func(t *testing.T) { linkFlaps(t, false) })
	t.Run("single port", func(t *testing.T) { linkFlaps(t, true) })
}

func linkFlaps(t *testing.T, single bool) {
	network(t)
	config := configFor(t, &journal{})
	const size = 8 << 20
	enlarge(t, config.Artifacts, size)
	config.TFTPSinglePort = single
	run(t, config)
	node := plug(t, worker1)
	must(t, node.udhcpc())
	got := filepath.Join(node.dir, "got")
	end := node.start("atftp", "-g", "-r", workerUKI, "-l", got, "10.1.0.1")
	arrived := func() int64 {
		info, err := os.Stat(got)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	waitFor(t, func() bool { return arrived() > 0 })
	link, err := netlink.LinkByName(serverLink)
	must(t, err)
	must(t, netlink.LinkSetDown(link))
	if arrived() >= size {
		t.Fatal("the file was there before the link went down: this shows nothing")
	}
	time.Sleep(50 * time.Millisecond)
	must(t, netlink.LinkSetUp(link))
	waitFor(t, func() bool { return arrived() == size })
	end()
	sameFile(t, got, filepath.Join(config.Artifacts, workerUKI))
}
