package media

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/kv/etcdkv"
	"github.com/slipway-os/slipway/builder/kv/etcdkv/etcdtest"
	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

const worker1 = "52:54:00:00:00:21"

// site is the lab with two boot servers, each in a network namespace of its own as on a machine of its own. They share a real etcd on a
// network that the lab's machines aren't on.
type site struct {
	t              *testing.T
	space          string // with the lab's switch
	dir, artifacts string
	etcd           *etcdtest.Server
	servers        [2]*twin
}

// twin is one of the servers.
type twin struct {
	*site
	*wire
	space, address string
	cmd            *exec.Cmd // nil: it is dead
	starts         int
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, space: fmt.Sprintf("slipway-media-%d", os.Getpid()), dir: t.TempDir(), artifacts: filepath.Dir(artifact(t, bootspec.ExtUKI))}
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	run(t, "go", "build", "-o", s.file("slipway"), "../../builder/slipway")
	must(t, os.WriteFile(s.file("lab.yaml"), cluster.Lab(), 0o600))
	run(t, s.file("slipway"), "identity", "--cluster", s.file("lab.yaml"), "--identity", s.file("identity"))
	s.namespace(s.space)
	s.ip("-n " + s.space + " link add br0 up type bridge")
	s.ip("-n " + s.space + " tuntap add tap0 mode tap")
	s.ip("-n " + s.space + " link set tap0 master br0 up")
	backbone, store := fmt.Sprintf("sb%d", os.Getpid()), fmt.Sprintf("198.18.%d.", os.Getpid()%256)
	s.ip("link add " + backbone + " up type bridge")
	t.Cleanup(func() { s.ip("link del " + backbone) })
	s.ip("addr add " + store + "1/24 dev " + backbone)
	s.etcd = etcdtest.StartAt(t, store+"1")
	for i := range s.servers {
		w := &twin{site: s, space: fmt.Sprintf("%s-%d", s.space, i+1), address: fmt.Sprintf("10.1.0.%d", i+1)}
		s.namespace(w.space)
		near, far, own := fmt.Sprintf("wn%d%d", i, os.Getpid()), fmt.Sprintf("wf%d%d", i, os.Getpid()), fmt.Sprintf("sv%d%d", i, os.Getpid())
		w.wire = newWire(t, near, far, worker1)
		s.ip("link set " + near + " netns " + s.space)
		s.ip("-n " + s.space + " link set " + near + " master br0 up")
		s.ip("link set " + far + " netns " + w.space + " name eth0")
		s.ip("-n " + w.space + " addr add " + w.address + "/24 dev eth0")
		s.ip("-n " + w.space + " link set eth0 up")
		s.ip("link add " + own + " master " + backbone + " up type veth peer name store netns " + w.space)
		t.Cleanup(func() { s.ip("link del " + own) }) // a namespace's links go some time after it
		s.ip(fmt.Sprintf("-n %s addr add %s%d/24 dev store", w.space, store, i+2))
		s.ip("-n " + w.space + " link set store up")
		s.servers[i] = w
		w.start()
	}
	t.Cleanup(func() {
		for _, w := range s.servers {
			w.end()
			if text := w.said(); t.Failed() {
				t.Logf("boot server %s:\n%s", w.address, text[max(0, len(text)-6000):])
			}
		}
	})
	return s
}

func (s *site) file(name string) string { return filepath.Join(s.dir, name) }

func (s *site) ip(words string) {
	s.t.Helper()
	run(s.t, "ip", strings.Fields(words)...)
}

// namespace makes a network namespace that goes with the test.
func (s *site) namespace(name string) {
	s.t.Helper()
	s.ip("netns add " + name)
	s.t.Cleanup(func() { s.ip("netns del " + name) })
	s.ip("-n " + name + " link set lo up")
}

// start starts a server (again) and waits until it serves.
func (w *twin) start() {
	w.t.Helper()
	w.release()
	log, err := os.OpenFile(w.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(w.t, err)
	defer log.Close()
	w.cmd = exec.Command("ip", "netns", "exec", w.space, w.file("slipway"), "serve", "--cluster", w.file("lab.yaml"), "--artifacts", w.artifacts,
		"--identity", w.file("identity"), "--interface", "eth0", "--address", w.address, "--state", w.file("states-"+w.address),
		"--store", w.etcd.URL, "--store-ca", w.etcd.CA, "--store-cert", w.etcd.Cert, "--store-key", w.etcd.Key)
	w.cmd.Stdout, w.cmd.Stderr = log, log
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	must(w.t, w.cmd.Start())
	w.starts++
	w.await("msg=serving", w.starts)
}

func (w *twin) log() string { return w.file("serve-" + w.address + ".log") }

func (w *twin) said() string {
	text, _ := os.ReadFile(w.log())
	return string(text)
}

// await waits until the server has said a text that often.
func (w *twin) await(text string, count int) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); strings.Count(w.said(), text) < count; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("server %s doesn't say %q", w.address, text)
		}
	}
}

// kill ends the server at once (SIGKILL). Its machine stays: what the server had sent arrives, and then that nobody is there.
func (w *twin) kill() {
	w.end()
	w.release()
}

// powerOff has the server gone with its machine: nothing is heard of it any more.
func (w *twin) powerOff() {
	w.cut()
	w.end()
}

func (w *twin) end() {
	if w.cmd != nil {
		_ = w.cmd.Process.Kill()
		_ = w.cmd.Wait()
		w.cmd = nil
	}
}

// other is the other server.
func (s *site) other(w *twin) *twin { return s.servers[1-slices.Index(s.servers[:], w)] }

// awaitSaid waits until one of the servers says a text for the first time, and returns it.
func (s *site) awaitSaid(text string) *twin {
	s.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for _, w := range s.servers {
			if strings.Contains(w.said(), text) {
				return w
			}
		}
	}
	s.t.Fatalf("no server says %q", text)
	return nil
}

// trap has the wire held over which the worker is sent so many bytes first, from now on.
func (s *site) trap(protocol byte, bytes int64) *trap {
	t := &trap{protocol: protocol, caught: make(chan *wire, 1)}
	for _, w := range s.servers {
		w.set(t, bytes)
	}
	return t
}

// caught waits for a trap to spring, and returns the server in it.
func (s *site) caught(t *trap, m *machine) *twin {
	s.t.Helper()
	select {
	case wire := <-t.caught:
		return s.servers[slices.IndexFunc(s.servers[:], func(w *twin) bool { return w.wire == wire })]
	case err := <-m.ended:
		m.ended <- err
		s.t.Fatalf("the machine went off: %v", err)
	case <-time.After(firmwarePatience):
		s.t.Fatal("no server sends the machine that much")
	}
	return nil
}

// powerOn powers the lab's worker on, with UEFI, without some of its ways to boot from the network: IPv4PXE, IPv6PXE.
func (s *site) powerOn(without ...string) *machine {
	s.t.Helper()
	args := pc().firmware(s.t, s.file("vars"), "")
	for _, way := range without {
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/"+way+"Support,string=no")
	}
	return launchIn(s.t, s.space, append(args, "-netdev", "tap,id=boot,ifname=tap0,script=no,downscript=no",
		"-device", "virtio-net-pci,netdev=boot,mac="+worker1+",romfile=,bootindex=1",
		"-netdev", "user,id=other,restrict=on", "-device", "virtio-net-pci,netdev=other,mac=52:54:00:00:01:21,romfile=")...)
}

// nodes is what a server says of all machines; nil: it doesn't.
func (w *twin) nodes() (text string, nodes []netboot.NodeStatus) {
	out, err := exec.Command("ip", "netns", "exec", w.space, "curl", "-sf", "-m", "5", "http://"+w.address+":8080"+bootspec.RouteNodes).Output()
	if err != nil || json.Unmarshal(out, &nodes) != nil {
		return "", nil
	}
	return string(out), nodes
}

// worker is what a server says of the worker.
func (w *twin) worker() netboot.NodeStatus {
	_, nodes := w.nodes()
	for _, n := range nodes {
		if n.Name == "worker-1" {
			return n
		}
	}
	return netboot.NodeStatus{}
}

// awaitWorker waits until a server knows that the worker came to an event.
func (w *twin) awaitWorker(event bootspec.Event, m *machine) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Second) {
		n := w.worker()
		if _, came := n.Boot().Find(event); came {
			return
		}
		if strings.Contains(m.console(), lineFailed) {
			break
		}
	}
	w.t.Fatalf("the worker never came to %q", event)
}

// agreed waits until both servers say the same of all machines, and returns what they say of the worker.
func (s *site) agreed() netboot.NodeStatus {
	s.t.Helper()
	var one, two string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		one, _ = s.servers[0].nodes()
		if two, _ = s.servers[1].nodes(); one == two && one != "" {
			return s.servers[0].worker()
		}
	}
	s.t.Fatalf("the servers don't agree:\n%s\n%s", one, two)
	return netboot.NodeStatus{}
}

// claims are the records of claims in the store, by node.
func (s *site) claims() map[string]netboot.ClaimRecord {
	s.t.Helper()
	store, err := etcdkv.Open(context.Background(), s.etcd.Place())
	must(s.t, err)
	defer store.Close()
	entries, err := store.List("claim/")
	must(s.t, err)
	out := map[string]netboot.ClaimRecord{}
	for _, e := range entries {
		var record netboot.ClaimRecord
		must(s.t, json.Unmarshal(e.Value, &record))
		out[strings.TrimPrefix(e.Key, "claim/")] = record
	}
	return out
}
