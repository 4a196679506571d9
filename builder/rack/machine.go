package rack

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// QEMU and its firmware, as Debian's qemu-system-x86 and ovmf have them.
const (
	qemu         = "qemu-system-x86_64"
	firmwareCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	firmwareVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// machine is one node's QEMU.
type machine struct {
	node   *cluster.Node
	mac    string // it boots from this interface
	serial string // log file of its serial console
	vars   string // its own copy of the firmware's variables
	qmp    string // socket
	*process
	started time.Time
	yields  bool // since its node is Ready
}

// spec is what a machine is made of.
type spec struct {
	Name   string
	Boot   string // MAC address of the interface it boots from
	Taps   []tap
	Memory int // MiB
	CPUs   int
	KVM    bool
	Vars   string
	Serial string
	QMP    string
}

// arguments is QEMU's command line: a UEFI machine with network interfaces and nothing to boot from but them.
func arguments(s spec) []string {
	args := []string{
		"-name", s.Name, "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35,smm=off", "-m", fmt.Sprint(s.Memory), "-smp", fmt.Sprint(s.CPUs),
	}
	if s.KVM {
		args = append(args, "-accel", "kvm", "-cpu", "host")
	} else {
		// Without cx16 emulated guests take another path for 16-byte atomics, which TCG gets right. Kubernetes is so much
		// code that with a small translation buffer (tb-size, MiB) QEMU spends over half its time on translating the same
		// code again; what isn't used of it costs no memory. Without svm nobody loads KVM, which would only cost time; but
		// without it QEMU also leaves out the CPUID leaf with the address sizes unless told (xlevel), and Linux then takes
		// its own addresses for foreign: every path in /proc reads xxxx. Without la57 page walks are one level shorter.
		args = append(args, "-accel", "tcg,thread=multi,tb-size=2047", "-cpu", "max,-cx16,-svm,-la57,xlevel=0x80000008",
			// Linux checks at boot that the timer ticks in step with the processor, and panics where it does not: on a
			// busy host emulation is not in step. systemd-stub takes the argument from here (systemd-stub(7)).
			"-smbios", "type=11,value=io.systemd.stub.kernel-cmdline-extra=no_timer_check")
	}
	args = append(args,
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+firmwareCode,
		"-drive", "if=pflash,unit=1,format=raw,file="+s.Vars,
		// Firmware offers no network boot, and Go waits for entropy, without a source of it.
		"-device", "virtio-rng-pci",
	)
	for i, t := range s.Taps {
		id := fmt.Sprintf("net%d", i)
		// romfile= keeps QEMU's iPXE out: the firmware's own PXE is what is rehearsed.
		device := "virtio-net-pci,netdev=" + id + ",mac=" + t.MAC + ",romfile="
		if t.MAC == s.Boot {
			device += ",bootindex=1"
		}
		args = append(args, "-netdev", "tap,id="+id+",ifname="+t.Name+",script=no,downscript=no", "-device", device)
	}
	return append(args,
		"-serial", "file:"+s.Serial,
		"-qmp", "unix:"+s.QMP+",server=on,wait=off",
	)
}

// powerOn starts all machines.
func (r *rack) powerOn() error {
	r.started = time.Now()
	for i := range r.Cluster.Nodes {
		n := &r.Cluster.Nodes[i]
		if err := r.startMachine(n, tapsOf(r.Cluster, n.Name)); err != nil {
			return err
		}
	}
	return nil
}

func (r *rack) startMachine(node *cluster.Node, nics []tap) error {
	m := &machine{
		node: node, mac: string(r.Cluster.BootMAC(node)), serial: r.logFile(node.Name),
		vars: filepath.Join(r.dir, node.Name+".vars"), qmp: filepath.Join(r.dir, node.Name+".qmp"),
	}
	vars, err := os.ReadFile(firmwareVars)
	if err == nil {
		err = os.WriteFile(m.vars, vars, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot power on %s: %w", node.Name, err)
	}
	// Serial logs are for the user, from now on and not from a run before.
	if err := os.WriteFile(m.serial, nil, 0o600); err != nil {
		return fmt.Errorf("cannot power on %s: %w", node.Name, err)
	}
	s := spec{
		Name: node.Name, Boot: m.mac, Taps: nics, Memory: r.Memory[node.Role], CPUs: r.CPUs, KVM: haveKVM(),
		Vars: m.vars, Serial: m.serial, QMP: m.qmp,
	}
	m.started = time.Now()
	m.process, err = spawn(r.space, r.dir, node.Name, filepath.Join(r.dir, node.Name+".qemu.log"), exec.Command(qemu, arguments(s)...))
	if err != nil {
		return fmt.Errorf("cannot power on %s: %w", node.Name, err)
	}
	r.machines = append(r.machines, m)
	m.yield(r.share(node))
	return nil
}

// crowded tells whether a cluster's machines are emulated and more than this machine's processors.
func crowded(c *cluster.Cluster) bool { return !haveKVM() && len(c.Nodes) > runtime.NumCPU() }

// share is the nice value of a machine. Where there are more emulated machines than processors, the first control plane goes
// before the others and those before workers: an API server that has less than half a processor while it starts for the
// first time exceeds limits of its own (one minute to check the Services' addresses), ends and begins again, and with all of
// them at the same time none gets through.
func (r *rack) share(node *cluster.Node) int {
	switch {
	case !crowded(r.Cluster):
		return 0
	case node.Role == cluster.RoleWorker:
		return 8
	case node.Name != r.Cluster.ControlPlanes()[0].Name:
		return 4
	}
	return 0
}

// readyShare is the nice value of every machine of a crowded rack whose node is Ready: those that still start go before it.
const readyShare = 10

// yield sets the nice value of a machine, of each of its threads: those that QEMU starts later have their parent's. It runs
// as well without.
func (m *machine) yield(nice int) {
	if nice == 0 {
		return
	}
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", m.cmd.Process.Pid))
	for _, t := range threads {
		if id, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, id, nice)
		}
	}
}

// ended describes a machine that is off although nobody powered it off.
func (r *rack) ended(m *machine) error {
	words, _ := os.ReadFile(filepath.Join(r.dir, m.node.Name+".qemu.log"))
	return fmt.Errorf("%s: the machine went off by itself (%v): %s", m.node.Name, m.err, strings.TrimSpace(string(words)))
}

// haveKVM tells whether the processor's virtualisation is really there: /dev/kvm alone may be of no use.
func haveKVM() bool {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !hasVirtualisation(string(info)) {
		return false
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

func hasVirtualisation(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		name, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for _, f := range strings.Fields(flags) {
			if f == "vmx" || f == "svm" {
				return true
			}
		}
	}
	return false
}
