// Package faults tries what the reference cluster survives. Its nodes are the baked images with the systemd, units and programs in
// them and the configuration that builder/nodeconfig makes, each in namespaces of its own (mounts, processes, network), at the
// speed of this machine: what QEMU without KVM takes half an hour for takes a minute. Instead of firmware, kernel and initramfs
// there is a little of this package (boot_test.go); builder/rack has those.
//
// What the machines share is the kernel and with it the clock: nothing here can set one machine's clock.
package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const hallVariable = "SLIPWAY_TEST_HALL"

func TestMain(m *testing.M) {
	if text := os.Getenv(bootVariable); text != "" {
		fmt.Fprintln(os.Stderr, "cannot boot:", run(text))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestInNamespaces runs the tests whose names begin with TestCluster where the machines' hall is: namespaces in which nothing
// outlives this program, however it ends.
func TestInNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may make namespaces")
	}
	if testing.Short() {
		t.Skip("it starts whole clusters")
	}
	if os.Getenv("SLIPWAY_ARTIFACTS") == "" {
		t.Skip("SLIPWAY_ARTIFACTS names the folder with the baked images (`make test-faults`)")
	}
	runtime.LockOSThread() // whose end would be the child's
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+pattern(), "-test.v", "-test.timeout=0")
	child.Env = append(os.Environ(), hallVariable+"=1")
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer removeGroups(t, "slipway-test-"+namespaceID(t, child.Process.Pid)+"-*")
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
}

// pattern chooses the tests: all, or those that SLIPWAY_TEST_FAULTS names.
func pattern() string {
	if chosen := os.Getenv("SLIPWAY_TEST_FAULTS"); chosen != "" {
		return "^TestCluster(" + chosen + ")$"
	}
	return "^TestCluster"
}

// hall skips outside of the namespaces; inside it makes them a place for machines.
func hall(t *testing.T) {
	t.Helper()
	if os.Getenv(hallVariable) == "" {
		t.Skip("TestInNamespaces runs it")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		t.Fatal(err)
	}
	command(t, "ip", "link set lo up")
}

// command runs a program with arguments that have no spaces in them.
func command(t *testing.T, name, arguments string) {
	t.Helper()
	if out, err := exec.Command(name, strings.Fields(arguments)...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, arguments, err, out)
	}
}

// image mounts the root of a role's image and returns its folder.
func image(t *testing.T, role string) string {
	t.Helper()
	pattern := filepath.Join(os.Getenv("SLIPWAY_ARTIFACTS"), "slipway-"+role+"-*.root")
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("there is no one image %s (slipway bake --role %s): %q %v", pattern, role, found, err)
	}
	folder := t.TempDir()
	command(t, "mount", "-t squashfs -o loop,ro "+found[0]+" "+folder)
	t.Cleanup(func() { command(t, "umount", "-l "+folder) })
	return folder
}
