// Package media boots baked disk images in QEMU the way people do: from a disk, with the firmware, the boot loader and no
// network. SLIPWAY_ARTIFACTS is the folder of a worker image's artifacts, with disk images.
package media

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

// firmware is OVMF's code and the variables of a machine that was never on.
const (
	firmwareCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	firmwareVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// patience is how long a machine under emulation may need for a step of its boot.
const patience = 6 * time.Minute

// platform is a kind of machine.
type platform struct {
	arch       string // Go's name
	qemu       string
	code, vars string // firmware, and its variables in a machine that was never on
	args       []string
	kernel     string // what such machines' kernels are told besides
	patience   time.Duration
	life       time.Duration // after which a machine is ended whatever it does
}

func pc() platform {
	return platform{
		arch: "amd64", qemu: "qemu-system-x86_64", code: firmwareCode, vars: firmwareVars, kernel: "no_timer_check",
		args: []string{
			"-machine", "q35,smm=off", "-smp", "1", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,-cx16,-svm,-la57,xlevel=0x80000008",
		},
		patience: patience, life: 14 * time.Minute,
	}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// artifact is the path of a worker's artifact, or the test is skipped.
func artifact(t *testing.T, ext string) string {
	t.Helper()
	return pc().artifact(t, ext)
}

func (p platform) artifact(t *testing.T, ext string) string {
	t.Helper()
	dir := os.Getenv("SLIPWAY_ARTIFACTS")
	if dir == "" {
		t.Skip("SLIPWAY_ARTIFACTS doesn't name a folder with a baked worker image")
	}
	for _, need := range []string{p.code, p.vars} {
		if _, err := os.Stat(need); err != nil {
			t.Skip("no firmware: ", err)
		}
	}
	if _, err := exec.LookPath(p.qemu); err != nil {
		t.Skip("no ", p.qemu)
	}
	found, _ := filepath.Glob(filepath.Join(dir, "slipway-worker-*-"+p.arch+ext))
	if len(found) != 1 {
		t.Fatalf("there are %d worker images %s in %s", len(found), ext, dir)
	}
	return found[0]
}

// medium is a copy of a disk image that is larger than it: 2560 MiB.
func medium(t *testing.T, image string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if out, err := exec.Command("cp", "--sparse=always", image, path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, os.Truncate(path, 2560<<20))
	return path
}

// blank is an empty disk of 256 MiB.
func blank(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, nil, 0o600), os.Truncate(path, 256<<20))
	return path
}

// partition finds a partition of a medium.
func partition(t *testing.T, path, label string) disk.Partition {
	t.Helper()
	d, err := disk.Inspect(path)
	must(t, err)
	p, ok := d.Partition(label)
	if !ok {
		t.Fatalf("no partition %s", label)
	}
	return p
}

// change opens a medium for a change.
func change(t *testing.T, path string, do func(f *os.File) error) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	must(t, do(f), f.Close())
}

// configure writes a node's configuration to its place on a medium.
func configure(t *testing.T, path string, document []byte) {
	t.Helper()
	place := partition(t, path, bootspec.LabelConfig)
	change(t, path, func(f *os.File) error {
		return bootspec.WriteConfig(place.Of(f), bootspec.Config{Cluster: "lab", Node: "worker-1", Document: document}, f.Sync)
	})
}

// lone is the configuration of a node that needs nobody: its target is one that systemd always reaches. Each boot writes a
// line to /var/lib/boots.
func lone(t *testing.T, edit func(*bootspec.Node)) []byte {
	t.Helper()
	node := bootspec.Node{
		APIVersion: bootspec.Version, Cluster: "lab", Name: "worker-1", Role: "worker", Target: "timers.target", APIServer: "https://10.1.0.11:6443",
	}
	if edit != nil {
		edit(&node)
	}
	document, err := json.Marshal(node)
	must(t, err)
	file := func(path, content string) map[string]any {
		return map[string]any{"path": path, "mode": 0o644, "contents": map[string]string{"source": "data:," + url.PathEscape(content)}}
	}
	config, err := json.Marshal(map[string]any{
		"ignition": map[string]string{"version": "3.4.0"},
		"storage": map[string]any{"files": []any{
			file(bootspec.NodeDocument, string(document)),
			file("/etc/tmpfiles.d/boots.conf", "f /var/lib/boots 0644 root root -\nw+ /var/lib/boots - - - - booted\\n\n"),
		}},
	})
	must(t, err)
	return config
}

// machine is a virtual machine that is on.
type machine struct {
	t      *testing.T
	serial string
	qmp    string
	cmd    *exec.Cmd
	ended  chan error

	patience time.Duration
}

// boot powers a machine on, with the devices that are given, and without any network.
func boot(t *testing.T, devices ...string) *machine {
	t.Helper()
	return pc().boot(t, devices...)
}

func (p platform) boot(t *testing.T, devices ...string) *machine {
	t.Helper()
	vars := filepath.Join(t.TempDir(), "vars")
	return p.launchIn(t, "", slices.Concat(p.firmware(t, vars, "panic=2"), devices)...)
}

// firmware gives a machine its firmware, with variables in a file of its own, and what the kernel is told besides.
func (p platform) firmware(t *testing.T, vars, kernel string) []string {
	t.Helper()
	data, err := os.ReadFile(p.vars)
	must(t, err, os.WriteFile(vars, data, 0o600))
	return []string{
		"-smbios", "type=11,value=io.systemd.stub.kernel-cmdline-extra=" + strings.TrimSpace(p.kernel+" "+kernel),
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + p.code, "-drive", "if=pflash,unit=1,format=raw,file=" + vars,
	}
}

// launch powers a machine on that has what the arguments say, and no firmware but QEMU's own unless they name one.
func launch(t *testing.T, args ...string) *machine {
	t.Helper()
	return launchIn(t, "", args...)
}

// launchIn is launch in a network namespace; empty: in this one. Of repeated arguments QEMU takes the last.
func launchIn(t *testing.T, space string, args ...string) *machine {
	t.Helper()
	return pc().launchIn(t, space, args...)
}

func (p platform) launchIn(t *testing.T, space string, args ...string) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, serial: filepath.Join(dir, "serial"), qmp: filepath.Join(dir, "qmp"), ended: make(chan error, 1), patience: p.patience}
	// timeout: no machine stays behind when the test is killed.
	all := slices.Concat([]string{
		"timeout", "--kill-after=1", fmt.Sprint(p.life.Seconds()), p.qemu, "-nodefaults", "-no-user-config", "-display", "none", "-m", "1536", "-smp", "2",
		"-device", "virtio-rng-pci", "-serial", "file:" + m.serial, "-qmp", "unix:" + m.qmp + ",server=on,wait=off",
	}, p.args)
	if space != "" {
		all = append([]string{"ip", "netns", "exec", space}, all...)
	}
	all = append(all, args...)
	m.cmd = exec.Command(all[0], all[1:]...)
	var said bytes.Buffer
	m.cmd.Stderr = &said
	must(t, m.cmd.Start())
	go func() { m.ended <- m.cmd.Wait() }()
	t.Cleanup(func() {
		m.off()
		if t.Failed() {
			log := m.console()
			t.Logf("QEMU: %s\nend of the console:\n%s", said.String(), log[max(0, len(log)-6000):])
		}
	})
	return m
}

// off cuts the power.
func (m *machine) off() {
	if m.cmd.ProcessState == nil {
		_ = m.cmd.Process.Signal(syscall.SIGTERM)
		err := <-m.ended
		m.ended <- err
	}
}

func (m *machine) console() string {
	data, _ := os.ReadFile(m.serial)
	return string(data)
}

// await waits until the console says one of the texts, and returns it.
func (m *machine) await(texts ...string) string {
	m.t.Helper()
	for deadline := time.Now().Add(m.patience); time.Now().Before(deadline); {
		log := m.console()
		for _, text := range texts {
			if strings.Contains(log, text) {
				return text
			}
		}
		select {
		case err := <-m.ended:
			m.ended <- err
			m.t.Fatalf("the machine went off: %v", err)
		case <-time.After(300 * time.Millisecond):
		}
	}
	m.t.Fatalf("the console says none of %q", texts)
	return ""
}

// never fails the test if the console said one of the texts.
func (m *machine) never(texts ...string) {
	m.t.Helper()
	for _, text := range texts {
		if strings.Contains(m.console(), text) {
			m.t.Errorf("the console says %q", text)
		}
	}
}

// reset is the reset button.
func (m *machine) reset() {
	m.t.Helper()
	conn, err := net.Dial("unix", m.qmp)
	must(m.t, err)
	defer conn.Close()
	must(m.t, conn.SetDeadline(time.Now().Add(time.Minute)))
	answers := json.NewDecoder(conn)
	var greeting map[string]any
	must(m.t, answers.Decode(&greeting))
	for _, command := range []string{"qmp_capabilities", "system_reset"} {
		_, err := fmt.Fprintf(conn, "{\"execute\":%q}\n", command)
		must(m.t, err)
		var answer map[string]any
		must(m.t, answers.Decode(&answer))
	}
}

// virtioDisk is a disk with sectors of that size.
func virtioDisk(path string, sector int) []string {
	return []string{
		"-drive", "if=none,id=disk,format=raw,cache=unsafe,file=" + path,
		"-device", fmt.Sprintf("virtio-blk-pci,drive=disk,serial=medium,bootindex=1,logical_block_size=%d,physical_block_size=4096", sector),
	}
}

// cut is a file with a partition's bytes.
func cut(t *testing.T, path, label string) string {
	t.Helper()
	p := partition(t, path, label)
	from, err := os.Open(path)
	must(t, err)
	defer from.Close()
	out := filepath.Join(t.TempDir(), label)
	to, err := os.Create(out)
	must(t, err)
	_, err = io.Copy(to, io.NewSectionReader(from, p.Start, p.Size))
	must(t, err, to.Close())
	return out
}

// entries are the boot entries on a medium's ESP, sorted.
func entries(t *testing.T, path string) string {
	t.Helper()
	d, err := disk.Inspect(path)
	must(t, err)
	var names []string
	for _, f := range d.Files {
		if name, ok := strings.CutPrefix(f.Path, bootspec.UKIDirectory+"/"); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
