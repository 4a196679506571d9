package rack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

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
	monitor *monitor
	started time.Time
	player  // only turns asks
}

// spec is what a machine is made of.
type spec struct {
	Name   string
	Boot   string // MAC address of the interface it boots from
	Taps   []tap
	Memory int // MiB
	CPUs   int
	KVM    bool
	Paused bool // it waits for its turn
	Vars   string
	Serial string
	QMP    string
}

// emulated are the kernel's arguments on an emulated machine. It would check at boot that the timer ticks in step with the
// processor, and panic where it does not: on a busy host emulation is not in step. Nor are the clocks of a machine that takes turns:
// the kernel would give the TSC up for the HPET, which costs an exit to QEMU each time anybody asks for the time. And
// the processor's faults that its mitigations are against are not emulated.
const emulated = "no_timer_check tsc=reliable mitigations=off"

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
			// systemd-stub takes more arguments for the kernel from here (systemd-stub(7)).
			"-smbios", "type=11,value=io.systemd.stub.kernel-cmdline-extra="+emulated)
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
	if s.Paused {
		args = append(args, "-S")
	}
	return append(args,
		"-serial", "file:"+s.Serial,
		"-qmp", "unix:"+s.QMP+",server=on,wait=off",
	)
}

// powerOn starts all machines.
func (r *rack) powerOn(ctx context.Context) error {
	r.started = time.Now()
	if crowded(r.Cluster) {
		fmt.Fprintf(r.Out, "%d machines take turns on %d processors: their clocks stand still meanwhile.\n", len(r.Cluster.Nodes), runtime.NumCPU())
		r.turns = r.takeTurns()
	}
	for i := range r.Cluster.Nodes {
		n := &r.Cluster.Nodes[i]
		if err := r.startMachine(ctx, n, tapsOf(r.Cluster, n.Name)); err != nil {
			return err
		}
	}
	return nil
}

// startMachine powers one on; where machines take turns it waits for its own.
func (r *rack) startMachine(ctx context.Context, node *cluster.Node, nics []tap) error {
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
		Name: node.Name, Boot: m.mac, Taps: nics, Memory: r.Memory[node.Role], CPUs: r.CPUs, KVM: haveKVM(), Paused: crowded(r.Cluster),
		Vars: m.vars, Serial: m.serial, QMP: m.qmp,
	}
	m.started = time.Now()
	m.process, err = spawn(r.space, r.dir, node.Name, filepath.Join(r.dir, node.Name+".qemu.log"), exec.Command(qemu, arguments(s)...))
	if err != nil {
		return fmt.Errorf("cannot power on %s: %w", node.Name, err)
	}
	if m.monitor, err = openMonitor(ctx, m.qmp); err != nil {
		return errors.Join(fmt.Errorf("cannot power on %s: %w", node.Name, err), m.stop(0))
	}
	m.goes, m.uses = !s.Paused, 1
	r.power.Lock()
	r.machines = append(r.machines, m)
	r.power.Unlock()
	return nil
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
