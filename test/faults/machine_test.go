package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/builder/nodeconfig"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// machine is one node's.
type machine struct {
	rack   *rack
	node   *cluster.Node
	number int
	state  string // folder that is its /var
	log    string // what its console shows

	process *exec.Cmd // nil: it has no power
	off     func()
}

// nic is the kernel's name of the hall's end of a machine's network interface: 0 is the management network's.
func (m *machine) nic(number int) string { return fmt.Sprintf("nic%d.%d", m.number, number) }

// on powers the machine on.
func (m *machine) on(t *testing.T) {
	t.Helper()
	upper := filepath.Join(m.rack.folder, m.node.Name+".root")
	terminal, console := m.console(t)
	g := newGroup(t, m.node.Name)
	m.configure(t, filepath.Join(upper, "files"), g.version)
	text, err := json.Marshal(boot{
		Image: m.rack.images[m.node.Role], Upper: upper, State: m.state, Console: console, Cgroups: g.version,
		Record: bootspec.BootState{MAC: string(m.rack.cluster.BootMAC(m.node)), Server: m.rack.server()},
	})
	if err != nil {
		t.Fatal(err)
	}
	gate, power, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), bootVariable+"="+string(text))
	c.Stdin, c.Stdout, c.Stderr = gate, terminal, terminal
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC, Setsid: true,
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	gate.Close()
	m.process = c
	m.off = func() {
		_ = c.Process.Kill() // and all in its namespace
		_ = c.Wait()
		terminal.Close()
		for i := range m.node.Links {
			_ = exec.Command("ip", "link", "del", m.nic(i)).Run() // the namespace takes it along, sooner or later
		}
		g.remove(t)
		_ = os.RemoveAll(upper)
		m.process, m.off = nil, nil
	}
	g.join(t, strconv.Itoa(c.Process.Pid))
	m.plug(t, c.Process.Pid)
	fmt.Fprint(power, "1")
	power.Close()
}

// plug gives the machine its network interfaces.
func (m *machine) plug(t *testing.T, pid int) {
	t.Helper()
	for i, l := range m.node.Links {
		if m.rack.badWires {
			m.badWire(t, i, pid, l)
			continue
		}
		command(t, "ip", fmt.Sprintf("link add %s type veth peer name eth%d address %s netns %d", m.nic(i), i, l.MAC, pid))
		command(t, "ip", fmt.Sprintf("link set %s master %s up", m.nic(i), l.Network))
	}
}

// configure writes the node's own files, new at each boot, as the boot server hands them out and Ignition writes them.
func (m *machine) configure(t *testing.T, folder, groups string) {
	t.Helper()
	files, err := nodeconfig.Files(m.rack.cluster, m.node, m.rack.identity, nodeconfig.Environment{Environment: environment(), Server: m.rack.server()})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		write(t, filepath.Join(folder, f.Path), f.Data, os.FileMode(f.Mode))
	}
	if groups == "v1" {
		m.oldGroups(t, folder)
	}
	// Not everybody who is root may lower this (containers).
	if may, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0); err != nil || may == 0 {
		text := "version = 4\n[plugins.\"io.containerd.cri.v1.runtime\"]\n  restrict_oom_score_adj = true\n"
		write(t, filepath.Join(folder, "etc/containerd/conf.d/test.toml"), []byte(text), 0o644)
	}
	for _, unit := range m.rack.without {
		at := filepath.Join(folder, "etc/systemd/system", unit)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/dev/null", at); err != nil {
			t.Fatal(err)
		}
	}
}

// oldGroups has the kubelet run on a host with control groups of version 1, also after its configuration was renewed.
func (m *machine) oldGroups(t *testing.T, folder string) {
	t.Helper()
	unit, err := os.ReadFile(filepath.Join(m.rack.images[m.node.Role], "usr/lib/systemd/system/kubelet.service"))
	if err != nil {
		t.Fatal(err)
	}
	start := regexp.MustCompile(`(?m)^ExecStart=(?:.*\\\n)*.*`).FindString(string(unit))
	if start == "" {
		t.Fatal("kubelet.service starts nothing")
	}
	text := "[Service]\nExecStart=\n" + start + " --fail-cgroupv1=false\n"
	write(t, filepath.Join(folder, "etc/systemd/system/kubelet.service.d/test.conf"), []byte(text), 0o644)
}

func write(t *testing.T, file string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, mode); err != nil {
		t.Fatal(err)
	}
}

// console is a terminal whose other end goes into the machine's log.
func (m *machine) console(t *testing.T) (end *os.File, name string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	name = fmt.Sprintf("/dev/pts/%d", number)
	if end, err = os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(m.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer master.Close()
		defer log.Close()
		_, _ = log.ReadFrom(master) // until its last end is closed
	}()
	return end, name
}

// command runs a program of the image on the machine.
func (m *machine) command(ctx context.Context, arguments ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	enter := []string{"--target", strconv.Itoa(m.process.Process.Pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--root", "--wd"}
	out, err := exec.CommandContext(ctx, "nsenter", append(enter, arguments...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// must is command, where it must succeed.
func (m *machine) must(t *testing.T, arguments ...string) string {
	t.Helper()
	out, err := m.command(t.Context(), arguments...)
	if err != nil {
		t.Fatalf("%s: %q: %v: %s", m.node.Name, arguments, err, out)
	}
	return out
}

// explain says how the machine is, for a test that has failed.
func (m *machine) explain(t *testing.T) {
	if m.process == nil {
		t.Logf("%s: no power", m.node.Name)
		return
	}
	for _, c := range [][]string{
		{"systemctl", "--no-pager", "list-units", "--all", "--state=activating,failed,auto-restart"},
		{"journalctl", "--no-pager", "-n", "60", "-o", "short-precise"},
		{"ip", "-4", "-o", "address"},
	} {
		out, err := m.command(context.Background(), c...)
		t.Logf("%s: %s: %v\n%s", m.node.Name, strings.Join(c, " "), err, out)
	}
	out, err := os.ReadFile(m.log)
	t.Logf("%s: console: %v\n%s", m.node.Name, err, out)
}
