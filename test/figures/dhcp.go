package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The DHCP servers are measured one after the other, each in a pair of network namespaces of its own and with no leases at first, with
// Kea's perfdhcp: each exchange is DISCOVER, OFFER, REQUEST, ACK of a client that nobody has seen before, as a relay on the same network
// hands it on. All keep their leases on the same file system. Whose leases are on the disk when they are acknowledged, a power cut shows
// (see cut): all but those of Kea's memfile. Only ours asks by ARP before it gives an address: dnsmasq asks by ICMP and is told not to, as
// under any load it must be (it waits for each), Kea doesn't unless it is told to.

// dhcpServer is one that is measured.
type dhcpServer struct {
	name, program string
	start         func(n *namespaces, dir string) (running, error)
	leases        func(n *namespaces, dir string) (int, error) // how many there are in the folder of one that runs no more
}

// namespaces are two, on one cable: srv (10.1.0.1) and cli (10.1.0.2).
type namespaces struct{ server, client string }

const (
	dhcpSeconds = 2
	// How long the others may take before it is an error.
	dhcpWait    = 30 * time.Second // until a server answers
	dhcpMeasure = dhcpSeconds*time.Second + 20*time.Second
	dhcpEnd     = 10 * time.Second // until a server ends
)

// dhcpRates are exchanges a second that are asked for of each; after that as many as it keeps up with are looked for.
var dhcpRates = []int{500, 1000, 2000}

// Bounds of that search.
const (
	dhcpLeast = 50
	dhcpMost  = 20000
)

// dhcp measures our boot server, dnsmasq and Kea.
func dhcp(work, images string) ([]row, error) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "figures: dhcp is left out, it needs root")
		return nil, nil
	}
	const inMemory = 0x01021994 // TMPFS_MAGIC, statfs(2)
	if system := (syscall.Statfs_t{}); syscall.Statfs(work, &system) == nil && system.Type == inMemory {
		fmt.Fprintf(os.Stderr, "figures: dhcp is left out, %s is in memory and leases are to be synced to a disk (TMPDIR names another folder)\n", work)
		return nil, nil
	}
	for _, program := range []string{"perfdhcp", "kea-dhcp4", "dnsmasq", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("dhcp: %w (make deps, with the packages of make bench)", err)
		}
	}
	cluster, identity := filepath.Join(work, "dhcp.yaml"), filepath.Join(work, "dhcp-identity")
	if err := os.WriteFile(cluster, []byte(dhcpCluster), 0o600); err != nil {
		return nil, err
	}
	if _, err := slipway("identity", "--cluster", cluster, "--identity", identity); err != nil {
		return nil, err
	}
	servers := []dhcpServer{
		{"slipway serve, leases synced", "slipway", func(n *namespaces, dir string) (running, error) {
			return n.inServer(dir, "bin/slipway", "serve", "--cluster", cluster, "--identity", identity, "--artifacts", images, "--state", filepath.Join(dir, "state"), "--interface", "srv")
		}, slipwayLeases},
		{"dnsmasq, leases in its file, no-ping", "dnsmasq", startDnsmasq, dnsmasqLeases},
		{"Kea, leases in memfile", "kea", startKea, keaLeases},
	}
	if db, err := findPostgres(); err != nil {
		fmt.Fprintln(os.Stderr, "figures: Kea with PostgreSQL is left out:", err)
	} else {
		servers = append(servers, dhcpServer{"Kea, leases in PostgreSQL", "kea-postgresql", db.startKea, db.leases})
	}
	var rows []row
	tops := map[string]load{}
	at := map[string]load{}
	for i, s := range servers {
		loads, top, err := s.measure(filepath.Join(work, "dhcp-"+s.program), i)
		if err != nil {
			return rows, err
		}
		for _, l := range loads {
			rows = append(rows, row{fmt.Sprintf("DHCP, %d exchanges/s asked of %s: OFFER and ACK mean / median / 99th percentile%s", l.asked, s.name, busy()), l.String(), perfCommand(l.asked)})
			at[fmt.Sprintf("%s %d", s.program, l.asked)] = l
		}
		rows = append(rows, row{fmt.Sprintf("DHCP, the most of %s with at most 1 %% lost%s", s.name, busy()), top.String(), perfCommand(top.asked)})
		tops[s.program] = top
		kept, err := s.cut(filepath.Join(work, "dhcp-cut-"+s.program), len(servers)+i)
		if err != nil {
			return rows, err
		}
		rows = append(rows, row{fmt.Sprintf("DHCP, leases of %s that are on the disk when they are acknowledged, after a power cut", s.name), kept, fmt.Sprintf("perfdhcp -4 -r %d -R 60000 -p %d, the device copied after %s", cutRate, dhcpSeconds, cutAfter)})
	}
	const last = 2000
	ours := at[fmt.Sprintf("slipway %d", last)]
	for _, s := range servers[1:] {
		other := at[fmt.Sprintf("%s %d", s.program, last)]
		rows = append(rows, row{
			"DHCP, ours / " + s.program, fmt.Sprintf("most exchanges/s %.2f; at %d/s: exchanges/s %.2f, mean of OFFER %.2f, of ACK %.2f, processor time %.2f",
				tops["slipway"].rate()/tops[s.program].rate(), last, ours.rate()/other.rate(), ratio(mean(ours.offers), mean(other.offers)),
				ratio(mean(ours.takes), mean(other.takes)), ratio(ours.cpu, other.cpu)), "the same",
		})
	}
	return rows, nil
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(max(1, b)) }

// busy says how much else runs on the machine, if that can be had.
func busy() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	one, _, _ := strings.Cut(string(text), " ")
	return ", load " + one
}

func perfCommand(rate int) string {
	return fmt.Sprintf("perfdhcp -4 -r %d -R 60000 -p %d", rate, dhcpSeconds)
}

// measure measures a server at each of dhcpRates, and at the highest rate that it keeps up with.
func (s dhcpServer) measure(dir string, number int) (loads []load, top load, err error) {
	n, err := newNamespaces(number)
	if err != nil {
		return nil, top, err
	}
	defer n.remove()
	try := func(rate int) (load, error) {
		l, err := n.measure(s, filepath.Join(dir, strconv.Itoa(rate)), rate)
		if err != nil {
			return l, fmt.Errorf("%s at %d exchanges/s: %w", s.name, rate, err)
		}
		fmt.Fprintf(os.Stderr, "figures: %s, %d/s asked%s: %s\n", s.name, rate, busy(), l)
		return l, nil
	}
	good, bad := 0, 0
	note := func(l load) {
		switch {
		case l.holds() && bad == 0:
			good, top = l.asked, l
		case !l.holds() && bad == 0:
			bad = l.asked
		}
	}
	for _, rate := range dhcpRates {
		l, err := try(rate)
		if err != nil {
			return nil, top, err
		}
		loads = append(loads, l)
		note(l)
	}
	for bad == 0 && good < dhcpMost {
		l, err := try(good * 3 / 2)
		if err != nil {
			return nil, top, err
		}
		note(l)
	}
	for tries := 0; bad > 0 && (tries < 2 || good == 0); tries++ {
		rate := (good + bad) / 2
		if good == 0 {
			rate = bad / 2
		}
		if rate < dhcpLeast {
			return nil, top, fmt.Errorf("%s keeps up with nothing", s.name)
		}
		l, err := try(rate)
		if err != nil {
			return nil, top, err
		}
		if l.holds() {
			good, top = rate, l
		} else {
			bad = rate
		}
	}
	return loads, top, nil
}

// measure starts a server with no leases, and asks it.
func (n *namespaces) measure(s dhcpServer, dir string, rate int) (l load, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return l, err
	}
	server, err := s.start(n, dir)
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, server.end()) }()
	if err := n.answers(dir, server[0].ended); err != nil {
		return l, err
	}
	before, err := server.processor()
	if err != nil {
		return l, err
	}
	deafBefore, err := n.deaf()
	if err != nil {
		return l, err
	}
	said, err := n.perf(dhcpMeasure, "-r", strconv.Itoa(rate), "-R", "60000", "-p", strconv.Itoa(dhcpSeconds), "-W", "1000000", "-x", "t")
	if err != nil {
		return l, err
	}
	after, err := server.processor()
	if err != nil {
		return l, err
	}
	l, err = readPerf(said)
	if err != nil {
		return l, fmt.Errorf("%w:\n%.2000s", err, said)
	}
	deaf, err := n.deaf()
	l.asked, l.cpu, l.deaf = rate, (after-before)/time.Duration(max(1, l.acks)), deaf-deafBefore
	return l, err
}

// deaf is how many packets there was no room for in sockets of the client's namespace, so far (RFC 4113 has it among udpInErrors).
func (n *namespaces) deaf() (int, error) {
	text, err := exec.Command("ip", "netns", "exec", n.client, "cat", "/proc/net/snmp").Output()
	if err != nil {
		return 0, fmt.Errorf("cannot read the counters of %s: %w", n.client, err)
	}
	return roomless(string(text))
}

// perf runs perfdhcp against the server, as a relay at 10.1.0.2. It goes before all else, since an answer that it is late to take counts as
// lost.
func (n *namespaces) perf(limit time.Duration, words ...string) (said string, err error) {
	ctx, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	var out bytes.Buffer
	perf := exec.CommandContext(ctx, "ip", slices.Concat([]string{"netns", "exec", n.client, "nice", "-n", "-10", "perfdhcp", "-4", "-l", "cli"}, words, []string{"10.1.0.1"})...)
	perf.Stdout, perf.Stderr, perf.WaitDelay = &out, &out, time.Second
	err = perf.Run()
	var exit *exec.ExitError
	if ctx.Err() != nil {
		return "", fmt.Errorf("perfdhcp doesn't end within %s:\n%s", limit, out.String())
	}
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 3) { // 3: some were lost
		return "", fmt.Errorf("perfdhcp: %w\n%s", err, out.String())
	}
	return out.String(), nil
}

// offered says, in perfdhcp's words, that an OFFER came. With -n 1 it doesn't wait for the ACK.
var offered = regexp.MustCompile(`received packets: [1-9]`)

// answers waits until the server answers.
func (n *namespaces) answers(dir string, ended <-chan struct{}) error {
	for deadline := time.Now().Add(dhcpWait); time.Now().Before(deadline); {
		said, err := n.perf(5*time.Second, "-n", "1", "-r", "10", "-R", "1", "-b", "mac=02:00:00:ff:ff:ff", "-W", "500000")
		if err != nil {
			return err
		}
		if offered.MatchString(said) {
			return nil
		}
		select {
		case <-ended:
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			return fmt.Errorf("it has ended:\n%s", text)
		case <-time.After(200 * time.Millisecond):
		}
	}
	text, _ := os.ReadFile(filepath.Join(dir, "log"))
	return fmt.Errorf("it doesn't answer within %s:\n%s", dhcpWait, text)
}

func newNamespaces(number int) (*namespaces, error) {
	n := &namespaces{fmt.Sprintf("slipway-dhcp-s%d-%d", os.Getpid(), number), fmt.Sprintf("slipway-dhcp-c%d-%d", os.Getpid(), number)}
	for _, words := range []string{
		"netns add " + n.server, "netns add " + n.client,
		"-n " + n.server + " link add srv type veth peer name cli netns " + n.client,
		"-n " + n.server + " address add 10.1.0.1/16 dev srv", "-n " + n.client + " address add 10.1.0.2/16 dev cli",
		"-n " + n.server + " link set srv up", "-n " + n.client + " link set cli up",
		"-n " + n.server + " link set lo up", "-n " + n.client + " link set lo up",
	} {
		if out, err := exec.Command("ip", strings.Fields(words)...).CombinedOutput(); err != nil {
			n.remove()
			return nil, fmt.Errorf("ip %s: %w: %s", words, err, out)
		}
	}
	return n, nil
}

func (n *namespaces) remove() {
	for _, name := range []string{n.server, n.client} {
		_ = exec.Command("ip", "netns", "delete", name).Run()
	}
}

// inServer starts a program in the server's namespace; what it says goes into a file.
func (n *namespaces) inServer(dir string, words ...string) (running, error) {
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("ip", append([]string{"netns", "exec", n.server}, words...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "KEA_LOCKFILE_DIR=none", "KEA_PIDFILE_DIR="+dir)
	return begin(cmd)
}

func startDnsmasq(n *namespaces, dir string) (running, error) {
	return n.inServer(dir, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=srv", "--bind-interfaces", "--user=root", "--pid-file=",
		"--dhcp-leasefile="+filepath.Join(dir, "leases"), "--dhcp-authoritative", "--no-ping", "--quiet-dhcp", "--dhcp-lease-max=70000",
		"--dhcp-range=10.1.16.0,10.1.255.254,255.255.0.0,1h")
}

// startKea gives Kea as many threads as the machine has processors.
func startKea(n *namespaces, dir string) (running, error) {
	return n.startKea(dir, fmt.Sprintf(`{"type": "memfile", "persist": true, "name": %q, "lfc-interval": 0}`, filepath.Join(dir, "leases.csv")), 2)
}

// startKea gives Kea a queue in which requests survive that they wait for a thread: with its own of 64 it loses some of 2,000 a second on a
// busy machine.
func (n *namespaces) startKea(dir, database string, threads int) (running, error) {
	config := filepath.Join(dir, "kea.json")
	text := fmt.Sprintf(`{"Dhcp4": {
	"interfaces-config": {"interfaces": ["srv"], "dhcp-socket-type": "udp"},
	"lease-database": %s,
	"multi-threading": {"enable-multi-threading": true, "thread-pool-size": %d, "packet-queue-size": 1024},
	"valid-lifetime": 3600,
	"subnet4": [{"subnet": "10.1.0.0/16", "pools": [{"pool": "10.1.16.0-10.1.255.254"}], "option-data": [{"name": "routers", "data": "10.1.0.1"}]}],
	"loggers": [{"name": "kea-dhcp4", "severity": "WARN", "output_options": [{"output": "stdout"}]}]
}}`, database, threads)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return n.inServer(dir, "kea-dhcp4", "-c", config)
}

// dhcpCluster is a document of one node, whose pool has room for all that perfdhcp makes up.
const dhcpCluster = `apiVersion: slipway.dev/v1alpha1
kind: Cluster
metadata: {name: dhcp}
provisioning: {subnet: 10.1.0.0/16, server: 10.1.0.1, pool: 10.1.16.0-10.1.255.254, unknownMachines: offer}
networks:
  mgmt: {cidr: 10.1.0.0/16, gateway: 10.1.0.1}
nodes:
  - name: cp-1
    role: control-plane
    links: [{name: eth0, mac: "52:54:00:00:00:11", network: mgmt, address: 10.1.0.11}]
`
