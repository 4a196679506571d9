// Package e2e is the whole chain in one test: what a newcomer types, in virtual machines.
package e2e

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// movedOn is slipway's exit code for a mirror that no longer has a locked file.
const movedOn = 4

// TestMakeRun is `make run` with ONCE=1: both roles baked from the committed lock, both machines booted from the network
// to Ready, and the cluster tried out. Where the mirror no longer has a locked package it locks again into a scratch
// folder, says so, and goes on: a mirror that moves must not turn the tests red.
func TestMakeRun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces and taps need root")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	images := filepath.Join(root, "images")
	bake := []string{filepath.Join(root, "bin", "slipway"), "bake", "--role", "control-plane,worker", "--out", filepath.Join(work, "images")}
	if _, err := run(t, root, append(bake, "--images", images)...); exitCode(err) == movedOn {
		images = lockAgain(t, root, images)
	} else if err != nil {
		t.Fatalf("cannot bake: %v", err)
	}

	out, err := run(t, root, "make", "--no-print-directory", "run", "ONCE=1", "IMAGES="+images, "OUT="+work)
	if err != nil {
		t.Fatalf("make run: %v", err)
	}
	for _, want := range []string{
		"Cluster lab is up: every node is Ready.",
		"CoreDNS answers for a Service name",
		"a pod on another node reaches it through its Service",
		"it mounts a Secret",
		"a failing liveness probe restarts a container",
		"$ kubectl get nodes,pods -A -o wide",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("make run does not print %q", want)
		}
	}
	if strings.Contains(out, "FAILED") {
		t.Error("a check failed, although make run says it did not")
	}
	nothingLeft(t)
}

// lockAgain makes a copy of the images folder with a lock of what the mirror has today.
func lockAgain(t *testing.T, root, images string) string {
	t.Helper()
	scratch := filepath.Join(t.TempDir(), "images")
	t.Logf("the mirror no longer has what the committed lock names: locking again into %s for this run", scratch)
	if err := os.CopyFS(scratch, os.DirFS(images)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(scratch, "lock.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, root, filepath.Join(root, "bin", "slipway"), "lock", "--images", scratch); err != nil {
		t.Fatalf("cannot lock again: %v", err)
	}
	return scratch
}

// nothingLeft wants no namespace and no folder of the rack after it has ended.
func nothingLeft(t *testing.T) {
	t.Helper()
	for _, path := range []string{"/run/netns/slipway-lab", "/run/slipway-rack/lab"} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was left behind (%v)", path, err)
		}
	}
}

// run runs a command; its output is shown as it comes, and returned.
func run(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	t.Logf("$ %s", strings.Join(args, " "))
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout = io.MultiWriter(os.Stdout, &out)
	cmd.Stderr = os.Stderr
	err := cmd.Run()
	return out.String(), err
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}
