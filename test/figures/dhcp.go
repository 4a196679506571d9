package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The DHCP servers are measured one after the other in the same pair of network namespaces, with Kea's perfdhcp: each exchange is
// DISCOVER, OFFER, REQUEST, ACK of a client that nobody has seen before. All keep their leases in files of the same file system;
// only ours are synced to the disk before they are acknowledged.

// dhcpServer is one that is measured.
type dhcpServer struct {
	name, command string
	start         func(n *namespaces, dir string) (*exec.Cmd, error)
}

// namespaces are two, on one cable: srv (10.1.0.1) and cli (10.1.0.2).
type namespaces struct{ server, client string }

const (
	dhcpRounds  = 3
	dhcpSeconds = 8
)

// dhcpRates are exchanges a second that are asked for.
var dhcpRates = []int{2000, 4000, 6000}

// dhcp measures our boot server, dnsmasq and Kea.
func dhcp(work, images string) ([]row, error) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "figures: dhcp is left out, it needs root")
		return nil, nil
	}
	for _, program := range []string{"perfdhcp", "kea-dhcp4", "dnsmasq", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("dhcp: %w (make deps, with the packages of make bench)", err)
		}
	}
	n, err := newNamespaces()
	if err != nil {
		return nil, err
	}
	defer n.remove()
	cluster, identity := filepath.Join(work, "dhcp.yaml"), filepath.Join(work, "dhcp-identity")
	if err := os.WriteFile(cluster, []byte(dhcpCluster), 0o600); err != nil {
		return nil, err
	}
	if _, err := slipway("identity", "--cluster", cluster, "--identity", identity); err != nil {
		return nil, err
	}
	servers := []dhcpServer{
		{"slipway serve, leases synced", "slipway serve", func(n *namespaces, dir string) (*exec.Cmd, error) {
			return n.inServer(dir, "bin/slipway", "serve", "--cluster", cluster, "--identity", identity, "--artifacts", images, "--state", filepath.Join(dir, "state"), "--interface", "srv")
		}},
		{"dnsmasq, leases in its file", "dnsmasq", startDnsmasq},
		{"Kea, leases in memfile", "kea-dhcp4", startKea},
	}
	best := map[string][]load{}
	for round := range dhcpRounds {
		for _, s := range servers {
			for _, rate := range dhcpRates {
				dir := filepath.Join(work, fmt.Sprintf("dhcp-%d-%s-%d", round, s.command, rate))
				l, err := n.measure(s, dir, rate)
				if err != nil {
					return nil, fmt.Errorf("%s at %d exchanges/s: %w", s.name, rate, err)
				}
				fmt.Fprintf(os.Stderr, "figures: %s: %s\n", s.name, l)
				key := fmt.Sprintf("%s %d", s.name, rate)
				best[key] = append(best[key], l)
			}
		}
	}
	var rows []row
	for _, rate := range dhcpRates {
		for _, s := range servers {
			var words []string
			for _, l := range best[fmt.Sprintf("%s %d", s.name, rate)] {
				words = append(words, l.String())
			}
			rows = append(rows, row{
				fmt.Sprintf("DHCP, %d exchanges/s asked of %s, %d rounds", rate, s.name, dhcpRounds), strings.Join(words, "; "),
				fmt.Sprintf("perfdhcp -4 -r %d -R 60000 -p %d", rate, dhcpSeconds),
			})
		}
	}
	return rows, nil
}

// load is what perfdhcp tells.
type load struct {
	rate         float64 // exchanges a second that were finished
	sent         int     // DISCOVER
	acks         int     // ACK
	dropped      int     // OFFER and ACK that never came
	offer, ack   float64 // mean, ms
	offer2, ack2 float64 // the longest, ms
	cpu          float64 // processor time of the server for each exchange, µs
}

func (l load) String() string {
	return fmt.Sprintf("%.0f/s, %d of %d lost, OFFER %.1f ms (longest %.0f), ACK %.1f ms (longest %.0f), %.0f µs of a processor each", l.rate, l.dropped, l.sent, l.offer, l.offer2, l.ack, l.ack2, l.cpu)
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
	defer func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
	}()
	if err := n.answers(dir); err != nil {
		return l, err
	}
	before, err := processor(server.Process.Pid)
	if err != nil {
		return l, err
	}
	var said bytes.Buffer
	perf := n.command(n.client, "perfdhcp", "-4", "-l", "cli", "-r", strconv.Itoa(rate), "-R", "60000", "-p", strconv.Itoa(dhcpSeconds), "-W", "1000000", "10.1.0.1")
	perf.Stdout, perf.Stderr = &said, &said
	var exit *exec.ExitError
	if err := perf.Run(); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 3) { // 3: some were lost
		return l, fmt.Errorf("perfdhcp: %w\n%s", err, said.String())
	}
	if l, err = readPerf(said.String()); err != nil {
		return l, fmt.Errorf("%w:\n%s", err, said.String())
	}
	after, err := processor(server.Process.Pid)
	l.cpu = (after - before).Seconds() * 1e6 / float64(max(1, l.acks))
	return l, err
}

// processor is the time that a process has had of processors (proc_pid_stat(5), fields 14 and 15, in hundredths of a second).
func processor(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("process %d has no times", pid)
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / 100, errors.Join(err1, err2)
}

// answers waits until the server answers.
func (n *namespaces) answers(dir string) error {
	for range 60 {
		said, _ := n.command(n.client, "perfdhcp", "-4", "-l", "cli", "-n", "1", "-r", "10", "-R", "1", "-b", "mac=02:00:00:ff:ff:ff", "-W", "500000", "10.1.0.1").CombinedOutput()
		if l, err := readPerf(string(said)); err == nil && l.acks > 0 {
			return nil
		}
		time.Sleep(200 * time.Millisecond)
	}
	text, _ := os.ReadFile(filepath.Join(dir, "log"))
	return fmt.Errorf("it never answers:\n%s", text)
}

var perfNumber = regexp.MustCompile(`(?m)^(sent packets|drops|avg delay|max delay|Rate|received packets): *([0-9.]+)`)

// readPerf reads perfdhcp's words: a rate, then the same numbers for OFFER and for ACK.
func readPerf(text string) (l load, err error) {
	seen := map[string]int{}
	for _, m := range perfNumber.FindAllStringSubmatch(text, -1) {
		value, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return l, fmt.Errorf("perfdhcp says %q", m[0])
		}
		seen[m[1]]++
		first := seen[m[1]] == 1
		switch m[1] {
		case "Rate":
			l.rate = value
		case "sent packets":
			if first {
				l.sent = int(value)
			}
		case "received packets":
			l.acks = int(value)
		case "drops":
			l.dropped += int(value)
		case "avg delay":
			if first {
				l.offer = value
			} else {
				l.ack = value
			}
		case "max delay":
			if first {
				l.offer2 = value
			} else {
				l.ack2 = value
			}
		}
	}
	if l.sent == 0 || seen["drops"] != 2 {
		return l, errors.New("perfdhcp tells no numbers")
	}
	return l, nil
}

func newNamespaces() (*namespaces, error) {
	n := &namespaces{fmt.Sprintf("slipway-dhcp-s%d", os.Getpid()), fmt.Sprintf("slipway-dhcp-c%d", os.Getpid())}
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

func (n *namespaces) command(space string, words ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", space}, words...)...)
}

// inServer starts a program in the server's namespace; what it says goes into a file.
func (n *namespaces) inServer(dir string, words ...string) (*exec.Cmd, error) {
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := n.command(n.server, words...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "KEA_LOCKFILE_DIR=none", "KEA_PIDFILE_DIR="+dir)
	return cmd, cmd.Start()
}

func startDnsmasq(n *namespaces, dir string) (*exec.Cmd, error) {
	return n.inServer(dir, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=srv", "--bind-interfaces", "--user=root", "--pid-file=",
		"--dhcp-leasefile="+filepath.Join(dir, "leases"), "--dhcp-authoritative", "--no-ping", "--quiet-dhcp", "--dhcp-lease-max=70000",
		"--dhcp-range=10.1.16.0,10.1.255.254,255.255.0.0,1h")
}

func startKea(n *namespaces, dir string) (*exec.Cmd, error) {
	config := filepath.Join(dir, "kea.json")
	text := fmt.Sprintf(`{"Dhcp4": {
	"interfaces-config": {"interfaces": ["srv"], "dhcp-socket-type": "udp"},
	"lease-database": {"type": "memfile", "persist": true, "name": %q, "lfc-interval": 0},
	"multi-threading": {"enable-multi-threading": true, "thread-pool-size": 2, "packet-queue-size": 64},
	"valid-lifetime": 3600,
	"subnet4": [{"subnet": "10.1.0.0/16", "pools": [{"pool": "10.1.16.0-10.1.255.254"}], "option-data": [{"name": "routers", "data": "10.1.0.1"}]}],
	"loggers": [{"name": "kea-dhcp4", "severity": "WARN", "output_options": [{"output": "stdout"}]}]
}}`, filepath.Join(dir, "leases.csv"))
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
