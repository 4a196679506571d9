package media

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Lines of the agent, up to its claim.
const (
	lineStarting = "slipway: starting (image"
	lineBrokeOff = "transfer of the root image broke off, going on"
	lineRoot     = "root image is in memory, its digest is right"
	lineClaimed  = "configuration claimed over TLS"
)

// How much of the kernel image, and of the root image, a machine has when its server dies.
const (
	someKernel = 8 << 20
	someRoot   = 40 << 20
)

// TestMachineGoesOnWithTheOtherServer: two boot servers serve a real machine, and each that it is with is killed: while the firmware loads the
// kernel image by TFTP, in the middle of the agent's root image, and between the claim and the reports after it.
func TestMachineGoesOnWithTheOtherServer(t *testing.T) { goesOn(t, (*twin).kill) }

// TestMachineGoesOnWhenAServerIsOff: the same where the servers' machines lose their power, so that nobody says that they are gone.
func TestMachineGoesOnWhenAServerIsOff(t *testing.T) { goesOn(t, (*twin).powerOff) }

func goesOn(t *testing.T, die func(*twin)) {
	s := newSite(t)
	trap := s.trap(unix.IPPROTO_UDP, someKernel)
	m := s.powerOn("IPv6PXE")
	dead := s.caught(trap, m)
	t.Logf("the firmware loads from %s, which dies", dead.address)
	die(dead)
	died := time.Now()
	s.other(dead).await("ack 10.1.0.21 for UEFI", 1)
	t.Logf("%.0f s later it loads from the other", time.Since(died).Seconds())
	m.await(lineAgent)
	dead.start() // whether or not it was still heard when the agent asked for the servers
	throughRoot(t, s, m, die)
	throughClaim(t, s, m, die)
	wentOn(t, s, m)
}

// TestMachineWithHTTPBootAlone: firmware that has only HTTP Boot gives up when its server is killed, and does nothing more. Started anew, as by
// `slipway power cycle`, it loads from the other one.
func TestMachineWithHTTPBootAlone(t *testing.T) {
	s := newSite(t)
	trap := s.trap(unix.IPPROTO_TCP, someKernel)
	m := s.powerOn("IPv4PXE", "IPv6PXE")
	other := losesKernel(t, s, m, trap, (*twin).kill)
	m.await("UEFI Interactive Shell")
	if n := other.worker(); n.State != string(bootspec.EventOffer) {
		t.Errorf("the other server says of a worker that is in its shell: %s", n.State)
	}
	m.reset()
	other.await(`msg="http: sent"`, 1)
	m.await(lineStarting)
}

// TestMachineWithIPXEBeginsAnew: iPXE on a machine with legacy BIOS starts the machine anew when its server goes away, and loads from the other.
func TestMachineWithIPXEBeginsAnew(t *testing.T) {
	for name, die := range map[string]func(*twin){"killed": (*twin).kill, "off": (*twin).powerOff} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			trap := s.trap(unix.IPPROTO_TCP, someKernel)
			m := launchIn(t, s.space, "-machine", "smm=on,graphics=off", "-m", "1024", "-netdev", "tap,id=boot,ifname=tap0,script=no,downscript=no",
				"-device", "e1000e,netdev=boot,mac="+worker1+",bootindex=1")
			other := losesKernel(t, s, m, trap, die)
			other.await("part=initrd", 1)
			m.await(lineStarting)
		})
	}
}

// losesKernel has the server die that is caught in a trap, and returns the other one.
func losesKernel(t *testing.T, s *site, m *machine, trap *trap, die func(*twin)) *twin {
	t.Helper()
	dead := s.caught(trap, m)
	t.Logf("the firmware loads from %s, which dies", dead.address)
	die(dead)
	died := time.Now()
	t.Cleanup(func() { t.Logf("all else took %.0f s", time.Since(died).Seconds()) })
	return s.other(dead)
}

// throughRoot has the server die that the agent loads its root image from.
func throughRoot(t *testing.T, s *site, m *machine, die func(*twin)) {
	t.Helper()
	dead := s.caught(s.trap(unix.IPPROTO_TCP, someRoot), m)
	m.never(lineRoot)
	t.Logf("the agent loads from %s, which dies", dead.address)
	die(dead)
	died := time.Now()
	m.await(lineBrokeOff)
	t.Logf("%.0f s later it goes on", time.Since(died).Seconds())
	at := regexp.MustCompile(lineBrokeOff + ` \(at (\d+), of (\d+),`).FindStringSubmatch(m.console())
	if at == nil || len(at[1]) < len("30000000") {
		t.Errorf("it didn't break off in the middle: %q", at)
	}
	m.await(lineRoot)
	dead.start()
}

// throughClaim has the server die that the machine has its configuration from, before anything more is reported to it.
func throughClaim(t *testing.T, s *site, m *machine, die func(*twin)) {
	t.Helper()
	m.await(lineClaimed)
	for _, w := range s.servers {
		w.hold()
	}
	dead := s.awaitSaid("configuration sent")
	other := s.other(dead)
	n := other.worker()
	if _, early := n.Boot().Find(bootspec.EventProvisioned); early || n.Claim == nil {
		t.Fatal("the worker has reported more already: this shows nothing")
	}
	t.Logf("the machine has claimed from %s, which dies", dead.address)
	die(dead)
	died := time.Now()
	other.release()
	other.awaitWorker(bootspec.EventProvisioned, m)
	t.Logf("%.0f s later the other server is told that it is provisioned", time.Since(died).Seconds())
	other.awaitWorker(bootspec.EventNetworkUp, m)
	m.off()
	dead.start()
}

// wentOn checks that it was one boot with one claim, and that the servers agree on that.
func wentOn(t *testing.T, s *site, m *machine) {
	t.Helper()
	m.never(lineFailed)
	if n := strings.Count(m.console(), lineStarting); n != 1 {
		t.Errorf("the agent started %d times", n)
	}
	n := s.agreed()
	var events []string
	for _, e := range n.Boot().Events {
		events = append(events, string(e.Event))
	}
	slices.Sort(events) // a report may come after the claim that it was made before
	if got, want := strings.Join(events, ", "), "agent up, config claimed, kernel sent, network up, offer, provisioned, root loaded"; len(n.Boots) != 1 || got != want {
		t.Errorf("%d boots, the newest came to %s; want %s", len(n.Boots), got, want)
	}
	if n.Claim == nil || n.Claim.Refused != 0 || n.Address != "10.1.0.21" {
		t.Errorf("its claim: %+v, its address: %s", n.Claim, n.Address)
	}
	claims := s.claims()
	if record := claims["worker-1"]; len(claims) != 1 || record.Bound == nil || len(record.Recent) != 1 || record.Recent[0] != *record.Bound {
		t.Errorf("the store has the claims %+v", claims)
	}
	for _, w := range s.servers {
		for _, answer := range regexp.MustCompile(`answer="(?:offer|ack) (\S+)`).FindAllStringSubmatch(w.said(), -1) {
			if answer[1] != "10.1.0.21" {
				t.Errorf("server %s gives the worker %s", w.address, answer[1])
			}
		}
		for _, word := range []string{"CLAIM REFUSED", "ANOTHER DHCP SERVER", "ANOTHER BOOT SERVER", "panic"} {
			if strings.Contains(w.said(), word) {
				t.Errorf("server %s says %s", w.address, word)
			}
		}
	}
}
