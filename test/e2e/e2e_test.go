// Package e2e is the whole chain in one test: what a newcomer types, in virtual machines.
package e2e

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMakeRun is `make run` with ONCE=1: both roles baked, both machines booted from the network to Ready, and the cluster
// tried out. SLIPWAY_TEST_OUT is the folder that `make test-images` has filled; where the mirror no longer had a locked
// package, there is another lock in it.
func TestMakeRun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces and taps need root")
	}
	work := os.Getenv("SLIPWAY_TEST_OUT")
	if work == "" {
		t.Skip("SLIPWAY_TEST_OUT is not set: `make test` runs this")
	}
	make := []string{"make", "--no-print-directory", "run", "ONCE=1", "OUT=" + work}
	if lock := filepath.Join(work, "lock.json"); exists(lock) {
		make = append(make, "LOCK="+lock)
	}
	out, err := run(t, "../..", make...)
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

// nothingLeft wants no namespace and no folder of the rack after it has ended.
func nothingLeft(t *testing.T) {
	t.Helper()
	for _, path := range []string{"/run/netns/slipway-lab", "/run/slipway-rack/lab"} {
		if exists(path) {
			t.Errorf("%s was left behind", path)
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

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
