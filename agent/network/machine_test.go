package network

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// modules are those that the tests need, in the order of their dependencies.
var testModules = []string{"llc", "stp", "bridge", "mrp", "garp", "8021q", "tls", "bonding", "veth"}

// TestMachineNetwork runs this package's tests once more as /init of a virtual machine with the images' own kernel, which
// has bonds, VLANs and bridges, whatever this machine's kernel has. SLIPWAY_ARTIFACTS is the folder of the artifacts.
func TestMachineNetwork(t *testing.T) {
	dir := os.Getenv("SLIPWAY_ARTIFACTS")
	if dir == "" {
		t.Skip("SLIPWAY_ARTIFACTS doesn't name a folder with a baked worker image")
	}
	found, _ := filepath.Glob(filepath.Join(dir, "slipway-worker-*-amd64.root"))
	if len(found) == 0 {
		t.Fatalf("there is no worker image in %s", dir)
	}
	base := strings.TrimSuffix(found[0], bootspec.ExtRoot)
	serial, initrd := filepath.Join(t.TempDir(), "serial"), testInitrd(t, base+bootspec.ExtRoot)
	cmd := exec.Command("timeout", "--kill-after=1", "8m", "qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,-cx16", "-m", "512", "-smp", "1",
		"-display", "none", "-no-user-config", "-nodefaults", "-no-reboot", "-serial", "file:"+serial, "-device", "virtio-rng-pci",
		"-kernel", base+bootspec.ExtKernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1 no_timer_check rdinit=/init -- -test.v -test.timeout=7m -test.skip=^TestMachine")
	cmd.Stderr = os.Stderr
	_ = cmd.Run() // it ends with the kernel's panic about its init, whatever that said
	console, err := os.ReadFile(serial)
	if err != nil {
		t.Fatal(err)
	}
	console, _, _ = bytes.Cut(console, []byte("Kernel panic"))
	lines := strings.Split(strings.ReplaceAll(string(console), "\r", ""), "\n")
	count := func(prefix string) int {
		return len(slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.HasPrefix(l, prefix) }))
	}
	if !slices.Contains(lines, "PASS") || count("--- PASS") < 20 || count("--- SKIP") > 0 || count("--- FAIL") > 0 {
		t.Errorf("%d passed, %d skipped, %d failed; the console says:\n%s", count("--- PASS"), count("--- SKIP"), count("--- FAIL"), console[max(0, len(console)-20000):])
	}
}

// testInitrd is an initrd with this package's tests, static, and the modules they need from a root image.
func testInitrd(t *testing.T, root string) string {
	t.Helper()
	tree := t.TempDir()
	run := func(dir, program string, args ...string) {
		t.Helper()
		cmd := exec.Command(program, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
		}
	}
	run(".", "go", "test", "-c", "-trimpath", "-o", filepath.Join(tree, "init"), ".")
	unpacked := filepath.Join(t.TempDir(), "root")
	run(".", "unsquashfs", "-q", "-n", "-d", unpacked, root, "usr/lib/modules")
	for _, m := range testModules {
		var file string
		err := filepath.WalkDir(unpacked, func(path string, e os.DirEntry, err error) error {
			if name, _, _ := strings.Cut(filepath.Base(path), "."); name == m && strings.Contains(path, m+".ko") {
				file = path
			}
			return err
		})
		if err != nil || file == "" {
			t.Fatalf("module %s: it is not in the image: %v", m, err)
		}
		if strings.HasSuffix(file, ".xz") {
			run(".", "xz", "--decompress", file)
			file = strings.TrimSuffix(file, ".xz")
		}
		run(".", "mv", file, filepath.Join(tree, m+".ko"))
	}
	archive := filepath.Join(t.TempDir(), "initrd")
	run(tree, "sh", "-c", "mkdir proc sys tmp dev && find . | cpio --quiet -o -H newc >"+archive)
	return archive
}

// asInit makes this process fit to be the first one of a machine: mounts and modules. What goes wrong shows on the console.
func asInit() {
	err := errors.Join(
		unix.Mount("proc", "/proc", "proc", 0, ""), unix.Mount("sysfs", "/sys", "sysfs", 0, ""),
		unix.Mount("tmpfs", "/tmp", "tmpfs", 0, ""), unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""))
	for _, m := range testModules {
		data, readErr := os.ReadFile("/" + m + ".ko")
		if readErr == nil {
			readErr = unix.InitModule(data, "")
		}
		if readErr != nil && !errors.Is(readErr, unix.EEXIST) {
			err = errors.Join(err, fmt.Errorf("module %s: %w", m, readErr))
		}
	}
	if err != nil {
		fmt.Println("cannot prepare the machine:", err)
		time.Sleep(time.Second)
		os.Exit(1)
	}
	// The boot's messages end here: what follows begins at the beginning of a line.
	fmt.Print(string(bytes.Repeat([]byte("\n"), 2)))
}
