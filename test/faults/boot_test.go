package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// boot is what a machine does between its power and systemd, where a real one has firmware, kernel and initramfs: file systems,
// the image's root with the node's files on it, process 1.
type boot struct {
	Image   string // folder of the image's root
	Upper   string // folder with the node's files, which takes what is written to the root
	State   string // folder that is /var, and outlives the power
	Console string // terminal
	Cgroups string // v1 or v2: what the kernel has its controllers on
	Record  bootspec.BootState
}

const bootVariable = "SLIPWAY_TEST_BOOT"

// run never returns but with an error: it becomes the image's systemd. It is process 1 of namespaces of its own, and waits for
// its network.
func run(text string) error {
	runtime.LockOSThread()
	var b boot
	if err := json.Unmarshal([]byte(text), &b); err != nil {
		return err
	}
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("there is no network: %w", err)
	}
	// It is in a group of its own since before this.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("cannot make a namespace of control groups: %w", err)
	}
	for _, step := range []func() error{b.root, b.devices, b.kernel, b.groups, b.record, b.enter, limit} {
		if err := step(); err != nil {
			return err
		}
	}
	// The container variable is how systemd knows that devices, clock and kernel are not its own (systemd's container interface).
	return unix.Exec("/usr/lib/systemd/systemd", append([]string{"systemd"}, b.arguments()...), []string{"container=slipway-test", "TERM=dumb"})
}

// arguments are for systemd: a machine's kernel would have them.
func (b boot) arguments() []string {
	if b.Cgroups == "v1" {
		return []string{"SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"}
	}
	return nil
}

func (b boot) path(name string) string { return filepath.Join(b.Upper, "root", name) }

// mount is mount(2) with the folder made, and an error that says where.
func mount(source, target, kind string, flags uintptr, options string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("cannot mount %s on %s: %w", kind+source, target, err)
	}
	return nil
}

// root lays what may be written over the image, as the initramfs does.
func (b boot) root() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	work := filepath.Join(b.Upper, "overlay")
	if err := errors.Join(os.MkdirAll(work, 0o755), os.MkdirAll(filepath.Join(b.Upper, "work"), 0o755)); err != nil {
		return err
	}
	options := "lowerdir=" + b.Image + ",upperdir=" + filepath.Join(b.Upper, "files") + ",workdir=" + work
	return errors.Join(
		mount("overlay", b.path(""), "overlay", 0, options),
		mount(b.State, b.path("var"), "", unix.MS_BIND, ""),
		mount("tmpfs", b.path("run"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"),
		mount("tmpfs", b.path("tmp"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"))
}

// devices are the few that a machine without hardware has. What is written to the kernel's log is shown on the machine's console
// only: the kernel is the host's.
func (b boot) devices() error {
	err := mount("tmpfs", b.path("dev"), "tmpfs", unix.MS_NOSUID, "mode=755")
	for _, d := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		err = errors.Join(err, b.device("/dev/"+d, d))
	}
	return errors.Join(err, b.device(b.Console, "console"), b.device(b.Console, "kmsg"),
		mount("devpts", b.path("dev/pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"),
		mount("tmpfs", b.path("dev/shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"),
		mount("mqueue", b.path("dev/mqueue"), "mqueue", 0, ""),
		os.Symlink("pts/ptmx", b.path("dev/ptmx")), os.Symlink("/proc/self/fd", b.path("dev/fd")))
}

// device is one of the host's in the machine. Not every host has all.
func (b boot) device(source, name string) error {
	if _, err := os.Stat(source); err != nil {
		return nil
	}
	target := b.path("dev/" + name)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(target, nil, 0o644); err != nil {
		return err
	}
	return unix.Mount(source, target, "", unix.MS_BIND, "")
}

// kernel mounts proc and sys. What is the whole kernel's and not the network namespace's can't be written: that is the host's.
func (b boot) kernel() error {
	proc, sys := b.path("proc"), b.path("proc/sys")
	return errors.Join(
		mount("proc", proc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
		mount(sys, sys, "", unix.MS_BIND, ""),
		mount(sys+"/net", sys+"/net", "", unix.MS_BIND, ""),
		mount("", sys, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""),
		mount("sysfs", b.path("sys"), "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, ""),
		b.sysctls())
}

// sysctls sets the image's that are the network namespace's. In place of those that are the whole kernel's lie files that read
// as they would on a node: programs that insist on them see no difference.
func (b boot) sysctls() error {
	text, err := os.ReadFile(b.path("usr/lib/sysctl.d/90-slipway.conf"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " = ")
		file := b.path("proc/sys/" + strings.ReplaceAll(name, ".", "/"))
		if _, err := os.Stat(file); !ok || err != nil {
			continue
		}
		if strings.HasPrefix(name, "net.") && !strings.HasPrefix(name, "net.netfilter.") {
			err = os.WriteFile(file, []byte(value), 0o644)
		} else {
			prop := filepath.Join(b.Upper, "work", name)
			err = errors.Join(os.WriteFile(prop, []byte(value+"\n"), 0o644), unix.Mount(prop, file, "", unix.MS_BIND, ""))
		}
		if err != nil {
			return fmt.Errorf("cannot set %s: %w", name, err)
		}
	}
	return nil
}

// groups is the machine's own hierarchy of control groups.
func (b boot) groups() error {
	at := b.path("sys/fs/cgroup")
	if b.Cgroups == "v2" {
		return mount("cgroup2", at, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "nsdelegate")
	}
	err := mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755")
	for _, c := range controllersV1() {
		options := c
		if c == "systemd" {
			options = "none,name=systemd"
		}
		err = errors.Join(err, mount("cgroup", filepath.Join(at, c), "cgroup", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options))
	}
	return errors.Join(err, mount("cgroup2", filepath.Join(at, "unified"), "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
}

// record is what the initramfs hands over.
func (b boot) record() error {
	text, err := json.Marshal(b.Record)
	if err != nil {
		return err
	}
	if err := os.Mkdir(b.path(bootspec.RunDirectory), 0o755); err != nil {
		return err
	}
	return os.WriteFile(b.path(bootspec.BootRecord), text, 0o644)
}

// enter makes the root the root.
func (b boot) enter() error {
	if err := os.Chdir(b.path("")); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("cannot enter the root: %w", err)
	}
	// The old root lies on the new one now (pivot_root(2), "pivot_root(".", ".")").
	return unix.Unmount(".", unix.MNT_DETACH)
}

// limit takes from the machine what would reach the host: its clock, its modules, its log.
func limit() error {
	for _, c := range []uintptr{unix.CAP_SYS_TIME, unix.CAP_SYS_MODULE, unix.CAP_SYSLOG, unix.CAP_SYS_RAWIO, unix.CAP_WAKE_ALARM} {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return err
		}
	}
	return nil
}
