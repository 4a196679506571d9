package netboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// inside marks the process that runs in its own network namespace.
const inside = "SLIPWAY_TEST_NAMESPACE"

// TestMain runs the tests in a process with a network namespace of its own: the server uses many threads. It ends with
// this one, however this one ends.
func TestMain(m *testing.M) {
	if config := os.Getenv(childServer); config != "" {
		serveChild(config)
	}
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	if os.Getenv(inside) != "" {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "cannot set up the network namespace:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // for Pdeathsig
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot run the tests in a network namespace:", err)
		os.Exit(1)
	}
}

// serverLink is the bridge that the tests' server serves on.
const serverLink = "br0"

// network gives this process' namespace a bridge with the server's address.
func network(t testing.TB) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("network namespaces need root")
	}
	addBridge(t, serverLink, "10.1.0.1/24")
	t.Cleanup(func() { removeBridge(t, serverLink) })
}

// addBridge makes a network of its own with an address of the server.
func addBridge(t testing.TB, name, address string) {
	t.Helper()
	ip, _, err := net.ParseCIDR(address)
	must(t, err)
	// With a hardware address of its own: else it takes one of its ports', and another when that goes.
	hardware := append(net.HardwareAddr{2, 1}, ip.To4()...)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: hardware}}
	must(t, netlink.LinkAdd(bridge))
	setAddress(t, bridge, address)
	must(t, netlink.LinkSetUp(bridge))
}

func removeBridge(t testing.TB, name string) {
	t.Helper()
	bridge, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkDel(bridge))
}

func setAddress(t testing.TB, link netlink.Link, prefix string) {
	t.Helper()
	ip, network, err := net.ParseCIDR(prefix)
	must(t, err)
	network.IP = ip
	must(t, netlink.AddrAdd(link, &netlink.Addr{IPNet: network}))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is a machine on the server's network: a namespace with the link eth0.
type host struct {
	t     testing.TB
	space netns.NsHandle
	dir   string
}

// plug makes a machine with a MAC address on the server's network, plugInto on another one.
func plug(t testing.TB, mac string) *host {
	t.Helper()
	return plugInto(t, serverLink, mac)
}

func plugInto(t testing.TB, network, mac string) *host {
	t.Helper()
	c := &host{t: t, dir: t.TempDir()}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, the namespace stays as long as its handle
		var err error
		c.space, err = netns.New()
		made <- err
	}()
	must(t, <-made)
	t.Cleanup(func() { c.space.Close() })
	hardware, err := net.ParseMAC(mac)
	must(t, err)
	bridge, err := netlink.LinkByName(network)
	must(t, err)
	port := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "p" + strings.ReplaceAll(mac, ":", "")}, PeerName: "eth0",
		PeerHardwareAddr: hardware, PeerNamespace: netlink.NsFd(c.space),
	}
	must(t, netlink.LinkAdd(port))
	t.Cleanup(func() { must(t, netlink.LinkDel(port)) })
	must(t, netlink.LinkSetMaster(port, bridge))
	must(t, netlink.LinkSetUp(port))
	there, err := netlink.NewHandleAt(c.space)
	must(t, err)
	defer there.Close()
	for _, name := range []string{"lo", "eth0"} {
		link, err := there.LinkByName(name)
		must(t, err)
		must(t, there.LinkSetUp(link))
	}
	return c
}

// in runs a function in the machine's namespace, on a thread of its own.
func (c *host) in(work func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread must not come back
		err := netns.Set(c.space)
		if err == nil {
			err = work()
		}
		done <- err
	}()
	return <-done
}

// start starts a command in the machine; stop ends it and waits.
func (c *host) start(command ...string) (stop func()) {
	c.t.Helper()
	return c.startWith(nil, command...)
}

// startWith is start for a command that gets files from descriptor 3 on.
func (c *host) startWith(files []*os.File, command ...string) (stop func()) {
	c.t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.ExtraFiles = files
	cmd.Env = append(os.Environ(), "RESULT="+c.dir)
	must(c.t, c.in(cmd.Start))
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	c.t.Cleanup(stop)
	return stop
}

// run runs a command in the machine and returns what it says.
func (c *host) run(command ...string) (string, error) {
	c.t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		c.t.Skipf("%s is not installed (make deps)", command[0])
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "RESULT="+c.dir)
	var said []byte
	err := c.in(func() (err error) {
		said, err = cmd.CombinedOutput()
		return err
	})
	return string(said), err
}

// hookScript is what DHCP clients call: it sets the address and keeps what they were told.
const hookScript = `#!/bin/sh
event=${1:-$reason}
case $event in
bound|renew) ip address replace $ip/$mask dev $interface ;;
BOUND|REBOOT) ip address replace $new_ip_address/$new_subnet_mask dev $interface ;;
deconfig) ip address flush dev $interface ;;
esac
env | sort >$RESULT/$event.new && mv $RESULT/$event.new $RESULT/$event
`

// hook writes the script and returns its file.
func (c *host) hook() string {
	c.t.Helper()
	file := filepath.Join(c.dir, "hook")
	must(c.t, os.WriteFile(file, []byte(hookScript), 0o700))
	return file
}

// told is what a DHCP client told its script in an event: the values of names, in words. It waits for the event.
func (c *host) told(event string, names ...string) string {
	c.t.Helper()
	file := filepath.Join(c.dir, event)
	var text []byte
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var err error
		if text, err = os.ReadFile(file); err == nil {
			break
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the client never came to %q", event)
		}
	}
	must(c.t, os.Remove(file))
	var words []string
	for _, name := range names {
		for line := range strings.Lines(string(text)) {
			if value, found := strings.CutPrefix(line, name+"="); found {
				words = append(words, name+"="+strings.TrimSpace(value))
			}
		}
	}
	return strings.Join(words, " ")
}

// udhcpc asks once; the words are more arguments.
func (c *host) udhcpc(words ...string) error {
	c.t.Helper()
	said, err := c.run(append([]string{"udhcpc", "-i", "eth0", "-f", "-n", "-q", "-t", "3", "-T", "1", "-s", c.hook()}, words...)...)
	if err != nil {
		return fmt.Errorf("%w: %s", err, said)
	}
	return nil
}
