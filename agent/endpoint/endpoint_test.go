package endpoint

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var machines = []string{"1", "2", "3"}

func others(machine string) []string {
	return slices.DeleteFunc(slices.Clone(machines), func(m string) bool { return m == machine })
}

// TestLossOfAnyServer: with three servers and three balancers, clients on all machines that try a broken request once more
// see no error when any one server is killed.
func TestLossOfAnyServer(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	servers, nodes := r.three()
	var clients []*process
	for _, m := range machines {
		clients = append(clients, r.helper(m, setting{Kind: "client", Ask: "127.0.0.1:7443"}))
	}
	for _, victim := range machines {
		marks := map[string]int{}
		for m, n := range nodes {
			marks[m] = len(n.output())
		}
		servers[victim].kill()
		for m, n := range nodes {
			marks[m] = n.await("the loss of a server", marks[m], func(l string) bool { return l == "STATUS=2 of 3 API servers ready" })
		}
		for _, c := range clients {
			c.await("an answer of another server", len(c.output()), func(l string) bool { return l != victim && slices.Contains(machines, l) })
		}
		servers[victim] = r.server(victim)
		for m, n := range nodes {
			n.await("the server's return", marks[m], func(l string) bool { return l == "STATUS=3 of 3 API servers ready" })
		}
	}
	for i, c := range clients {
		if list := c.errors(); len(list) > 0 {
			t.Errorf("client on machine %s saw %d errors: %s", machines[i], len(list), list[0])
		}
	}
}

// TestVirtualAddress kills, stops and unplugs holders: another one answers, and in the end there is always one.
func TestVirtualAddress(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	_, nodes := r.three()
	client := r.outside()
	first := r.holder(machines...)
	client.await("an answer of the holder", 0, func(l string) bool { return l == first })

	t.Run("network configured again", func(t *testing.T) {
		r.helper(first, setting{Kind: "network", Name: first}).await("success", 0, func(l string) bool { return l == "configured" })
		if !r.holds(first) {
			t.Error("the agent has taken the virtual address for one that the network document doesn't want")
		}
	})
	t.Run("killed", func(t *testing.T) {
		begin := time.Now()
		nodes[first].kill()
		client.await("an answer of another holder", len(client.output()), func(l string) bool { return slices.Contains(others(first), l) })
		t.Logf("from kill -9 of the holder to an answered request: %v", time.Since(begin).Round(time.Millisecond))
		if !r.holds(first) {
			t.Error("the killed process has left no address behind, so this shows nothing")
		}
		second := r.holder(others(first)...)
		nodes[first] = r.node(first)
		nodes[first].await("standing by", 0, func(l string) bool { return strings.Contains(l, "this node stands by") })
		if r.holds(first) {
			t.Error("what the killed process has left is still there")
		}
		if got := r.holder(machines...); got != second {
			t.Errorf("the address went from %s to %s when %s came back", second, got, first)
		}
	})
	t.Run("own server not ready", func(t *testing.T) {
		holder := r.holder(machines...)
		file := filepath.Join(r.folder, holder+".unready")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		client.await("an answer of another holder", len(client.output()), func(l string) bool { return slices.Contains(others(holder), l) })
		until(t, "the end of it at the node without a ready server", func() bool { return !r.holds(holder) })
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		holder := r.holder(machines...)
		begin := time.Now()
		nodes[holder].signal(syscall.SIGTERM)
		if r.holds(holder) {
			t.Error("it has ended and left the address behind")
		}
		client.await("an answer of another holder", len(client.output()), func(l string) bool { return slices.Contains(others(holder), l) })
		t.Logf("from SIGTERM of the holder to an answered request: %v", time.Since(begin).Round(time.Millisecond))
		nodes[holder] = r.node(holder)
		nodes[holder].await("standing by", 0, func(l string) bool { return strings.Contains(l, "this node stands by") })
	})
	t.Run("split", func(t *testing.T) {
		holder := r.holder(machines...)
		r.in("sw", "link", "set", "port"+holder, "master", "br1")
		r.holder(others(holder)...)
		if !r.holds(holder) {
			t.Error("who is alone has given the address up, so this shows nothing")
		}
		r.in("sw", "link", "set", "port"+holder, "master", "br0")
		last := r.holder(machines...)
		client.await("an answer of the one that is left", len(client.output()), func(l string) bool { return l == last })
	})
}

// TestUnpluggedMachine: connections to a machine that is gone without a word are closed, so that clients go on with another.
func TestUnpluggedMachine(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	_, nodes := r.three()
	var client *process
	victim := "3"
	for victim == "3" { // connections are spread: the second one leads to another machine at the latest
		client = r.helper("3", setting{Kind: "client", Ask: "127.0.0.1:7443"})
		at := client.await("an answer", 0, func(l string) bool { return slices.Contains(machines, l) })
		victim = client.output()[at]
	}
	mark := len(nodes["3"].output())
	r.in("sw", "link", "set", "port"+victim, "down")
	nodes["3"].await("the loss", mark, func(l string) bool { return l == "STATUS=2 of 3 API servers ready" })
	client.await("an answer of another server", len(client.output()), func(l string) bool { return l != victim && slices.Contains(machines, l) })
	if list := client.errors(); len(list) > 0 {
		t.Errorf("a client that tries once more saw %q", list)
	}
}

// TestLinkMadeAnew: a node takes part again after its link was replaced by another of the same name, and puts an address back that
// someone has taken off.
func TestLinkMadeAnew(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	r.server("1")
	r.node("1")
	r.holder("1")
	r.in("1", "addr", "del", virtual+"/32", "dev", "eth0")
	r.holder("1")
	r.in("1", "link", "del", "eth0")
	r.plug("1")
	client := r.outside()
	client.await("an answer", 0, func(l string) bool { return l == "1" })
}

// TestKeepalived: we and Debian's keepalived understand each other.
func TestKeepalived(t *testing.T) {
	if _, err := exec.LookPath("keepalived"); err != nil {
		t.Skip("keepalived is missing (Debian package keepalived)")
	}
	t.Parallel()
	r := newRack(t)
	config := filepath.Join(r.folder, "keepalived.conf")
	if err := os.WriteFile(config, []byte(`
global_defs {
  vrrp_version 3
  vrrp_garp_master_repeat 1
}
vrrp_instance api {
  interface eth0
  state BACKUP
  nopreempt
  virtual_router_id 5
  priority 100
  advert_int 0.3
  virtual_ipaddress { 10.1.0.5/32 dev eth0 }
}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	keepalived := func() *process {
		return r.start("2", nil, "keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file="+config,
			"--pid="+filepath.Join(r.folder, "k.pid"), "--vrrp_pid="+filepath.Join(r.folder, "v.pid"))
	}
	k := keepalived()
	if got := r.holder("1", "2"); got != "2" {
		t.Fatalf("machine %s holds the address", got)
	}
	r.server("1")
	n := r.node("1")
	n.await("standing by", 0, func(l string) bool { return strings.Contains(l, "this node stands by") })
	stays(t, r, "2", "we have not understood keepalived")

	k.signal(syscall.SIGTERM)
	if got := r.holder("1", "2"); got != "1" {
		t.Fatalf("machine %s holds the address after keepalived's end", got)
	}
	k = keepalived()
	k.await("its start", 0, func(l string) bool { return strings.Contains(l, "Entering BACKUP STATE") })
	defer func() {
		if t.Failed() {
			t.Log(strings.Join(k.output(), "\n"))
		}
	}()
	stays(t, r, "1", "keepalived has not understood us")
	for _, l := range k.output() {
		if strings.Contains(strings.ToLower(l), "checksum") || strings.Contains(strings.ToLower(l), "invalid") {
			t.Errorf("keepalived says: %s", l)
		}
	}
	n.signal(syscall.SIGTERM)
	if got := r.holder("1", "2"); got != "2" {
		t.Fatalf("machine %s holds the address after our end", got)
	}
	k.signal(syscall.SIGTERM)
}

// stays looks for longer than a backup waits.
func stays(t *testing.T, r *rack, machine, otherwise string) {
	t.Helper()
	for end := time.Now().Add(5 * AdvertisementInterval); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if !r.holds(machine) {
			t.Fatal("machine ", machine, " has lost the address: ", otherwise)
		}
		if r.holds(map[string]string{"1": "2", "2": "1"}[machine]) {
			t.Fatal("both hold the address: ", otherwise)
		}
	}
}
