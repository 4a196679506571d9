package endpoint

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// limit bounds every wait of these tests.
const limit = 30 * time.Second

const virtual = "10.1.0.5"

// rack is a switch and three machines on it, each a network namespace.
type rack struct {
	t      *testing.T
	prefix string // of the namespaces' names
	folder string
}

func newRack(t *testing.T) *rack {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("ip is missing (Debian package iproute2)")
	}
	r := &rack{
		t: t, prefix: fmt.Sprintf("slipway-%s-%d-", t.Name(), os.Getpid()),
		folder: authority(t, "127.0.0.1", virtual, "10.1.0.11", "10.1.0.12", "10.1.0.13"),
	}
	for _, n := range []string{"sw", "1", "2", "3"} {
		r.ip("netns", "add", r.prefix+n)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", r.prefix+n).Run() })
	}
	for _, bridge := range []string{"br0", "br1"} { // br1 is the other half of a split network
		r.in("sw", "link", "add", bridge, "type", "bridge")
		r.in("sw", "link", "set", bridge, "up")
	}
	r.in("sw", "addr", "add", "10.1.0.1/24", "dev", "br0")
	for _, n := range []string{"1", "2", "3"} {
		r.in(n, "link", "set", "lo", "up")
		r.plug(n)
	}
	return r
}

// plug connects a machine with the switch.
func (r *rack) plug(machine string) {
	r.t.Helper()
	r.ip("link", "add", "eth0", "netns", r.prefix+machine, "type", "veth", "peer", "name", "port"+machine, "netns", r.prefix+"sw")
	r.in("sw", "link", "set", "port"+machine, "master", "br0", "up")
	r.in(machine, "addr", "add", "10.1.0.1"+machine+"/24", "dev", "eth0")
	r.in(machine, "link", "set", "eth0", "up")
}

func (r *rack) ip(args ...string) string {
	r.t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (r *rack) in(machine string, args ...string) string {
	r.t.Helper()
	return r.ip(append([]string{"-n", r.prefix + machine}, args...)...)
}

// deaf is a machine that no frame reaches any more; what it sends arrives.
func (r *rack) deaf(machine string) { r.cut(machine, "egress") }

// mute is a machine of which no frame arrives any more; what others send reaches it.
func (r *rack) mute(machine string) { r.cut(machine, "ingress") }

// cut drops frames at the switch's end of a machine's wire.
func (r *rack) cut(machine, hook string) {
	r.t.Helper()
	r.nft(fmt.Sprintf("add table netdev cut%[1]s; add chain netdev cut%[1]s c { type filter hook %[2]s device port%[1]s priority 0 ; policy drop ; }", machine, hook))
}

// mend takes a cut away.
func (r *rack) mend(machine string) {
	r.t.Helper()
	r.nft("delete table netdev cut" + machine)
}

func (r *rack) nft(rules string) {
	r.t.Helper()
	if out, err := exec.Command("ip", "netns", "exec", r.prefix+"sw", "nft", rules).CombinedOutput(); err != nil {
		r.t.Fatalf("nft %s: %v: %s", rules, err, out)
	}
}

// holds says whether a machine has the virtual address.
func (r *rack) holds(machine string) bool {
	r.t.Helper()
	return strings.Contains(r.in(machine, "-4", "addr", "show", "dev", "eth0"), "inet "+virtual+"/32")
}

// holder waits until exactly one of the machines has the address and says which.
func (r *rack) holder(machines ...string) string {
	r.t.Helper()
	var found []string
	until(r.t, "one holder", func() bool {
		found = nil
		for _, m := range machines {
			if r.holds(m) {
				found = append(found, m)
			}
		}
		return len(found) == 1
	})
	return found[0]
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never came: ", what)
		}
	}
}

// process is a program in a machine.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}

	mu    sync.Mutex
	lines []string
}

// start runs a program in a machine; its output is kept by lines.
func (r *rack) start(machine string, env []string, program ...string) *process {
	r.t.Helper()
	p := &process{t: r.t, done: make(chan struct{})}
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", r.prefix + machine}, program...)...)
	p.cmd.Env = append(os.Environ(), env...)
	out, w, err := os.Pipe()
	if err != nil {
		r.t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	w.Close()
	go func() {
		defer out.Close()
		for s := bufio.NewScanner(out); s.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, s.Text())
			p.mu.Unlock()
		}
	}()
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the tests kill it
	}()
	r.t.Cleanup(p.kill)
	return p
}

func (r *rack) helper(machine string, s setting) *process {
	r.t.Helper()
	s.Folder = r.folder
	text, err := json.Marshal(s)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.start(machine, []string{helper + "=" + string(text)}, os.Args[0])
}

func (p *process) signal(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // it may have ended
	<-p.done
}

func (p *process) kill() { p.signal(syscall.SIGKILL) }

// output is all lines so far.
func (p *process) output() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// await waits for a line after the first skip ones, and says how many there are then.
func (p *process) await(what string, skip int, ok func(line string) bool) int {
	p.t.Helper()
	n := skip
	until(p.t, what+" in "+strings.Join(p.cmd.Args, " "), func() bool {
		for lines := p.output(); n < len(lines); n++ {
			if ok(lines[n]) {
				return true
			}
		}
		return false
	})
	return n
}

// errors are the lines that tell of one.
func (p *process) errors() []string {
	var list []string
	for _, l := range p.output() {
		if strings.HasPrefix(l, "error") {
			list = append(list, l)
		}
	}
	return list
}

func (r *rack) server(machine string) *process {
	return r.helper(machine, setting{Kind: "server", Name: machine})
}

// node runs slipway-api in a machine; earlier machines have higher priorities.
func (r *rack) node(machine string) *process {
	own := "10.1.0.1" + machine + ":6443"
	return r.helper(machine, setting{Kind: "node", Name: machine, API: &bootspec.API{
		Servers: []string{"10.1.0.11:6443", "10.1.0.12:6443", "10.1.0.13:6443"},
		VirtualAddress: &bootspec.VirtualAddress{
			Address: netip.MustParseAddr(virtual), Link: "eth0", Server: own, Router: 5, Priority: 250 - 35*int(machine[0]-'1'),
		},
	}})
}

// outside is a client on the network that asks the virtual address.
func (r *rack) outside() *process {
	return r.helper("sw", setting{Kind: "client", Ask: virtual + ":6443", Fresh: true})
}

// three starts a server and slipway-api on each machine, and waits until all are ready.
func (r *rack) three() (servers, nodes map[string]*process) {
	r.t.Helper()
	servers, nodes = map[string]*process{}, map[string]*process{}
	for _, m := range []string{"1", "2", "3"} {
		servers[m], nodes[m] = r.server(m), r.node(m)
	}
	for _, n := range nodes {
		n.await("three ready servers", 0, func(l string) bool { return l == "STATUS=3 of 3 API servers ready" })
	}
	return servers, nodes
}
