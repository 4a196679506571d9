package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// boots boots a rack with the real program, in a process of its own, and returns what that cost.
func boots(t *testing.T, arguments ...string) result {
	t.Helper()
	var out, words bytes.Buffer
	c := exec.CommandContext(t.Context(), filepath.Join(programs, "thousand"), append([]string{"-slipway", filepath.Join(programs, "slipway")}, arguments...)...)
	c.Stdout, c.Stderr = &out, &words
	if err := c.Run(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, &out, &words)
	}
	var r result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", &out)
	return r
}

// programs is the folder of both.
var programs string

func TestMain(m *testing.M) {
	code, err := withPrograms(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withPrograms(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return m.Run(), nil
	}
	var err error
	if programs, err = os.MkdirTemp("", "slipway-test-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(programs)
	build := exec.Command("go", "build", "-o", programs+"/", ".", "../../builder/slipway")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("go build: %w: %s", err, said)
	}
	return m.Run(), nil
}

// maxMemory is what a boot server may have resident at most, in bytes.
const maxMemory = 150 << 20

// TestBurst: a hundred machines that get their power at the same time are all Ready at the end, with little memory.
func TestBurst(t *testing.T) {
	if programs == "" {
		t.Skip("needs root, for network namespaces")
	}
	if r := boots(t, "-machines", "100"); r.Failed > 0 || r.DHCP.Answers < 400 || r.PeakMemory > maxMemory {
		t.Errorf("got %+v", r)
	}
}

// TestServerKilled: the boot server is killed twice and started again while machines are at every step of their boot. They begin again or go
// on, and all are Ready at the end.
func TestServerKilled(t *testing.T) {
	if programs == "" {
		t.Skip("needs root, for network namespaces")
	}
	r := boots(t, "-machines", "60", "-restarts", "2")
	if r.Failed > 0 {
		t.Errorf("got %+v", r)
	}
	if r.Repeated == 0 {
		t.Error("no machine had to ask again: this shows nothing")
	}
}

// TestLoss: on a network that loses one frame in twenty, each way, all machines are Ready at the end.
func TestLoss(t *testing.T) {
	if programs == "" {
		t.Skip("needs root, for network namespaces")
	}
	r := boots(t, "-machines", "30", "-loss", "5")
	if r.Failed > 0 {
		t.Errorf("got %+v", r)
	}
	if r.Repeated == 0 {
		t.Error("no machine had to ask again: this shows nothing")
	}
}
