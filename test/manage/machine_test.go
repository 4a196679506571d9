package manage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-os/slipway/agent/manage"
	"github.com/slipway-os/slipway/agent/units"
	"github.com/slipway-os/slipway/images/bootspec"
)

// machine is a control plane that this test binary plays in a network namespace of its own: the agent's management API, the
// guard and etcd as programs of the image, and something that starts and stops them as systemd would.
type machine struct {
	Name, Address, Members string
	Root                   string // its files
	Etcd                   string // the multi-call binary
	Log                    string // what its programs say
}

const machineVariable = "SLIPWAY_TEST_MACHINE"

func TestMain(m *testing.M) {
	if text := os.Getenv(machineVariable); text != "" {
		if err := play(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// play is a machine's life, until it is killed.
func play(text string) error {
	var m machine
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return err
	}
	for _, command := range []string{"link set lo up", "addr add " + m.Address + "/24 dev eth0", "link set eth0 up"} {
		if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %v: %s", command, err, out)
		}
	}
	log, err := os.OpenFile(m.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	s := &supervisor{machine: m, log: log, running: map[string]*exec.Cmd{}}
	for _, unit := range []string{"slipway-etcd-guard.service", "etcd.service"} {
		go s.keep(unit)
	}
	if err := m.apiServer(); err != nil {
		return err
	}
	server := manage.New(manage.Node{
		Name: m.Name, Role: "control-plane", Target: "slipway-control-plane.target", Root: m.Root, Journal: "false",
		Address:     net.JoinHostPort(m.Address, fmt.Sprint(bootspec.ManagePort)),
		EtcdMetrics: "http://127.0.0.1:2381", EtcdClient: "https://127.0.0.1:2379", EtcdTool: []string{m.tool()},
		Log: slog.New(slog.NewTextHandler(log, nil)), Control: s,
	})
	server.Run(context.Background())
	return nil
}

func (m machine) tool() string           { return filepath.Join(m.Root, "slipway-etcd") }
func (m machine) run(name string) string { return filepath.Join(m.Root, "run", name) }
func (m machine) pki(name string) string {
	return filepath.Join(m.Root, bootspec.PKIDirectory, "etcd", name)
}
func (m machine) data(name string) string {
	return filepath.Join(m.Root, bootspec.EtcdDataDirectory, name)
}

// supervisor is systemd.
type supervisor struct {
	machine
	log *os.File

	mu      sync.Mutex
	running map[string]*exec.Cmd
}

// Restart ends a unit; keep starts it again.
func (s *supervisor) Restart(_ context.Context, unit string) error {
	fmt.Fprintln(s.log, "supervisor: restart", unit)
	s.mu.Lock()
	c := s.running[unit]
	s.mu.Unlock()
	if c == nil {
		return nil
	}
	_ = c.Process.Signal(syscall.SIGTERM)
	time.AfterFunc(3*time.Second, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.running[unit] == c {
			_ = c.Process.Kill()
		}
	})
	return nil
}

// RestartAndWait isn't what these machines are for.
func (s *supervisor) RestartAndWait(_ context.Context, unit string) error {
	return errors.New("cannot restart " + unit)
}

// Reboot isn't either.
func (s *supervisor) Reboot(context.Context) error { return errors.New("cannot reboot") }

// Units are not known.
func (s *supervisor) Units(context.Context, string) ([]units.State, error) {
	return nil, errors.New("this machine has no systemd")
}

// keep runs a unit whenever it may start.
func (s *supervisor) keep(unit string) {
	for ; ; time.Sleep(200 * time.Millisecond) {
		s.mu.Lock()
		c := s.command(unit)
		if c == nil {
			s.mu.Unlock()
			continue
		}
		c.Stdout, c.Stderr = s.log, s.log
		err := c.Start()
		if err == nil {
			s.running[unit] = c
			s.processes(unit, c.Process.Pid)
		}
		s.mu.Unlock()
		if err == nil {
			err = c.Wait()
		}
		s.mu.Lock()
		delete(s.running, unit)
		s.processes(unit, 0)
		s.mu.Unlock()
		fmt.Fprintln(s.log, "supervisor:", unit, "ended:", err)
	}
}

// processes is etcd's control group.
func (s *supervisor) processes(unit string, pid int) {
	if unit != "etcd.service" {
		return
	}
	text := ""
	if pid > 0 {
		text = fmt.Sprintln(pid)
	}
	if err := os.WriteFile(s.machine.run("group/cgroup.procs"), []byte(text), 0o644); err != nil {
		fmt.Fprintln(s.log, "supervisor:", err)
	}
}

// command is a unit's, nil while it may not start.
func (s *supervisor) command(unit string) *exec.Cmd {
	m := s.machine
	if unit == "slipway-etcd-guard.service" {
		return exec.Command(m.tool(), "guard", "--name="+m.Name, "--initial-cluster="+m.Members, "--data-dir="+m.data(""),
			"--environment="+m.run("etcd.env"), "--cgroup="+m.run("group"), "--ca="+m.pki("ca.crt"), "--cert="+m.pki("peer.crt"), "--key="+m.pki("peer.key"))
	}
	text, err := os.ReadFile(m.run("etcd.env"))
	if err != nil {
		return nil
	}
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[key] = value
	}
	at := "https://" + m.Address
	return exec.Command(m.Etcd, "--name="+m.Name, "--data-dir="+m.data(""), "--listen-client-urls="+at+":2379,https://127.0.0.1:2379",
		"--advertise-client-urls="+at+":2379", "--listen-peer-urls="+at+":2380", "--initial-advertise-peer-urls="+at+":2380",
		"--initial-cluster="+values["SLIPWAY_ETCD_CLUSTER"], "--initial-cluster-state="+values["SLIPWAY_ETCD_STATE"], "--initial-cluster-token=reference",
		"--listen-metrics-urls=http://127.0.0.1:2381", "--client-cert-auth=true", "--trusted-ca-file="+m.pki("ca.crt"),
		"--cert-file="+m.pki("server.crt"), "--key-file="+m.pki("server.key"), "--peer-client-cert-auth=true",
		"--peer-trusted-ca-file="+m.pki("ca.crt"), "--peer-cert-file="+m.pki("peer.crt"), "--peer-key-file="+m.pki("peer.key"),
		"--tls-min-version=TLS1.3", "--unsafe-no-fsync", "--log-level=warn")
}

// on powers the machine on; the power stays until off.
func (m *machine) on(t *testing.T, number int) (off func()) {
	t.Helper()
	for _, folder := range []string{m.data(""), m.run("group")} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// /run is empty, and no process of before runs.
	_ = os.Remove(m.run("etcd.env"))
	if err := os.WriteFile(m.run("group/cgroup.procs"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var words bytes.Buffer
	start, gate, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// The shell waits for its link.
	c := exec.Command("sh", "-c", `read go && exec "$0"`, os.Args[0])
	c.Stdin, c.Stdout, c.Stderr = start, &words, &words
	c.Env = append(os.Environ(), machineVariable+"="+string(text))
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Setpgid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	start.Close()
	link := fmt.Sprintf("node%d", number)
	ip(t, fmt.Sprintf("link add %s type veth peer name eth0 netns %d", link, c.Process.Pid))
	ip(t, "link set "+link+" master rack up")
	fmt.Fprintln(gate, "go")
	gate.Close()
	var once sync.Once
	off = func() {
		once.Do(func() {
			_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
			_ = c.Wait()
			_ = exec.Command("ip", "link", "del", link).Run() // the namespace takes it along, sooner or later
			if words.Len() > 0 {
				t.Logf("%s: %s", m.Name, words.String())
			}
		})
	}
	t.Cleanup(off)
	return off
}

func ip(t *testing.T, command string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", command, err, out)
	}
}
