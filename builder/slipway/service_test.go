package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// asProgram has this test's binary be slipway itself.
const asProgram = "SLIPWAY_TEST_AS_PROGRAM"

// TestService: systemd takes the example of docs, and finds little that it could do.
func TestService(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	text, err := os.ReadFile("../../docs/slipway.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "slipway.service")
	if err := os.WriteFile(unit, bytes.Replace(text, []byte("/usr/local/bin/slipway"), []byte("/bin/true"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, words := range [][]string{{"verify", "--man=no", unit}, {"security", "--offline=true", "--threshold=30", "--no-pager", unit}} {
		out, err := exec.Command("systemd-analyze", words...).CombinedOutput()
		if err != nil || words[0] == "verify" && len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", words[0], err, out)
		}
	}
}

// TestServeWithoutRoot: the boot server runs as an ordinary user with the capabilities that the service has and no others, and takes a
// changed document at SIGHUP.
func TestServeWithoutRoot(t *testing.T) {
	if os.Getenv(inside) == "" {
		t.Skip("a network namespace needs root")
	}
	dir, err := os.MkdirTemp("", "slipway-service-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := func(name string) string { return filepath.Join(dir, name) }
	for _, words := range []string{"ip link set lo up", "ip link add br1 type bridge", "ip addr add 10.1.0.1/24 dev br1", "ip link set br1 up", fmt.Sprintf("cp /proc/%d/exe %s", os.Getpid(), file("slipway"))} {
		fields := strings.Fields(words)
		if out, err := exec.Command(fields[0], fields[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", words, err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "br1").Run() })
	const nobody = 65534
	if err := errors.Join(os.WriteFile(file("cluster.yaml"), cluster.Lab(), 0o644), os.Mkdir(file("images"), 0o755), os.Mkdir(file("state"), 0o700),
		served(file("images"), "control-plane"), served(file("images"), "worker"), os.Chown(file("state"), nobody, nobody), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	command := func(words ...string) *exec.Cmd {
		c := exec.Command(file("slipway"), words...)
		c.Env = append(os.Environ(), asProgram+"=1", "HOME="+dir)
		c.SysProcAttr = &syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: nobody, Gid: nobody},
			AmbientCaps: []uintptr{unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}, Pdeathsig: syscall.SIGKILL,
		}
		return c
	}
	if out, err := command("identity", "--cluster", file("cluster.yaml"), "--identity", file("state/identity")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var log written
	serve := command("serve", "--cluster", file("cluster.yaml"), "--artifacts", file("images"), "--identity", file("state/identity"), "--state", file("state/lab"), "--interface", "br1")
	serve.Stdout, serve.Stderr = &log, &log
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = serve.Process.Kill(); _ = serve.Wait() })
	await := func(text string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !strings.Contains(log.String(), text); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("it doesn't say %q:\n%s", text, log.String())
			}
		}
	}
	await("msg=serving")
	if answer, err := http.Get("http://10.1.0.1:8080/healthz"); err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("%v", err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", serve.Process.Pid))
	if err != nil || !strings.Contains(string(status), "CapEff:\t0000000000003400\n") || !strings.Contains(string(status), "Uid:\t65534\t65534\t65534\t65534\n") {
		t.Errorf("it runs as somebody else: %v\n%s", err, status)
	}
	if strings.Contains(log.String(), "CAP_NET_RAW") {
		t.Errorf("it misses a capability:\n%s", log.String())
	}

	changed := strings.Replace(string(cluster.Lab()), "name: worker-1", "name: worker-9", 1)
	reload := func(document string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file("cluster.yaml"), []byte(document), 0o644), serve.Process.Signal(syscall.SIGHUP)); err != nil {
			t.Fatal(err)
		}
	}
	reload(strings.Replace(changed, "role: worker", "role: wrker", 1))
	await("the changed cluster document or identity is not served")
	reload(changed)
	await("the cluster document has changed and is served")
	if err := serve.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := serve.Wait(); err != nil && serve.ProcessState.ExitCode() != exitInterrupted {
		t.Errorf("it ended with %v:\n%s", err, log.String())
	}
}

// TestLogForTheJournal: a line has its level as the journal reads it, and no time.
func TestLogForTheJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	info, err := out.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	env := func(string) string { return fmt.Sprintf("%d:%d", st.Dev, st.Ino) }
	log := newLog(out, env, slog.LevelInfo)
	log.Debug("not told")
	log.Info("one", "a", "b c")
	log.With("node", "cp-1").Warn("two")
	log.Error("three\nlines")
	text, err := os.ReadFile(path)
	if want := "<6>msg=one a=\"b c\"\n<4>msg=two node=cp-1\n<3>msg=\"three\\nlines\"\n"; err != nil || string(text) != want {
		t.Errorf("%v: got\n%swant\n%s", err, text, want)
	}
	if toJournal(out, func(string) string { return "1:2" }) || toJournal(&bytes.Buffer{}, env) || toJournal(out, func(string) string { return "" }) {
		t.Error("what isn't the journal is taken for it")
	}
}
