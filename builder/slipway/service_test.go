package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// asProgram has this test's binary be slipway itself.
const asProgram = "SLIPWAY_TEST_AS_PROGRAM"

// TestService: systemd takes the examples of docs, and finds little that it could do.
func TestService(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	dir := t.TempDir()
	unit := filepath.Join(dir, "slipway.service")
	check := []string{"verify", "--man=no"}
	for _, name := range []string{"slipway.service", "slipway.socket", "slipway-http.socket"} {
		text, err := os.ReadFile("../../docs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		check = append(check, filepath.Join(dir, name))
		// What is only for some stands in comments.
		all := bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("/usr/local/bin/slipway"), []byte("/bin/true")), []byte("\n#Listen"), []byte("\nListen"))
		if err := os.WriteFile(filepath.Join(dir, name), all, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, words := range [][]string{{"verify", "--man=no", unit}, check, {"security", "--offline=true", "--threshold=30", "--no-pager", unit}} {
		out, err := exec.Command("systemd-analyze", words...).CombinedOutput()
		if err != nil || words[0] == "verify" && len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", words[0], err, out)
		}
	}
}

// site is a folder with what a boot server of the lab needs, and the program, for somebody who isn't root; and the network br1.
type site struct {
	t   *testing.T
	dir string
}

const nobody = 65534

func newSite(t *testing.T, document string) *site {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("a network namespace needs root")
	}
	dir, err := os.MkdirTemp("", "slipway-service-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &site{t, dir}
	for _, words := range []string{"ip link set lo up", "ip link add br1 type bridge", "ip addr add 10.1.0.1/24 dev br1", "ip link set br1 up", fmt.Sprintf("cp /proc/%d/exe %s", os.Getpid(), s.file("slipway"))} {
		fields := strings.Fields(words)
		if out, err := exec.Command(fields[0], fields[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", words, err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "br1").Run() })
	if err := errors.Join(os.WriteFile(s.file("cluster.yaml"), []byte(document), 0o644), os.Mkdir(s.file("images"), 0o755), os.Mkdir(s.file("state"), 0o700),
		served(s.file("images"), "control-plane"), served(s.file("images"), "worker"), os.Chown(s.file("state"), nobody, nobody), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	if out, err := s.command(nil, "identity", "--cluster", s.file("cluster.yaml"), "--identity", s.file("state/identity")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return s
}

func (s *site) file(name string) string { return filepath.Join(s.dir, name) }

// command is the program as nobody, with capabilities.
func (s *site) command(capabilities []uintptr, words ...string) *exec.Cmd {
	c := exec.Command(s.file("slipway"), words...)
	c.Env = append(os.Environ(), asProgram+"=1", "HOME="+s.dir)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: capabilities, Pdeathsig: syscall.SIGKILL}
	return c
}

// serve is a boot server with capabilities, and what it says.
func (s *site) serve(capabilities ...uintptr) (*exec.Cmd, *written) {
	c := s.command(capabilities, "serve", "--cluster", s.file("cluster.yaml"), "--artifacts", s.file("images"), "--identity", s.file("state/identity"), "--state", s.file("state/lab"), "--interface", "br1")
	log := &written{}
	c.Stdout, c.Stderr = log, log
	return c, log
}

func (s *site) start(c *exec.Cmd) {
	s.t.Helper()
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
}

// await waits until a text is said.
func (s *site) await(log *written, text string) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(log.String(), text); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("it doesn't say %q:\n%s", text, log.String())
		}
	}
}

// capabilities wants a process to have these.
func (s *site) capabilities(c *exec.Cmd, want string) {
	s.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Process.Pid))
	if err != nil || !strings.Contains(string(status), "CapEff:\t"+want+"\n") || !strings.Contains(string(status), "Uid:\t65534\t65534\t65534\t65534\n") {
		s.t.Errorf("it runs as somebody else: %v\n%s", err, status)
	}
}

// ended ends a server as systemd does, and wants it to go in peace.
func (s *site) ended(c *exec.Cmd, log *written) {
	s.t.Helper()
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	if err := c.Wait(); err != nil && c.ProcessState.ExitCode() != exitInterrupted {
		s.t.Errorf("it ended with %v:\n%s", err, log)
	}
}

// TestServeWithoutRoot: the boot server runs as an ordinary user with the capabilities that the service has and no others, and takes a
// changed document at SIGHUP.
func TestServeWithoutRoot(t *testing.T) {
	s := newSite(t, string(cluster.Lab()))
	serve, log := s.serve(unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW)
	s.start(serve)
	s.await(log, "msg=serving")
	if answer, err := http.Get("http://10.1.0.1:8080/healthz"); err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("%v", err)
	}
	s.capabilities(serve, "0000000000003400")
	if strings.Contains(log.String(), "CAP_NET_RAW") {
		t.Errorf("it misses a capability:\n%s", log.String())
	}

	changed := strings.Replace(string(cluster.Lab()), "name: worker-1", "name: worker-9", 1)
	reload := func(document string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(s.file("cluster.yaml"), []byte(document), 0o644), serve.Process.Signal(syscall.SIGHUP)); err != nil {
			t.Fatal(err)
		}
	}
	reload(strings.Replace(changed, "role: worker", "role: wrker", 1))
	s.await(log, "the changed cluster document or identity is not served")
	reload(strings.Replace(changed, "  server: 10.1.0.1", "  tftpSinglePort: true\n  server: 10.1.0.1", 1))
	s.await(log, "provisioning.tftpSinglePort has changed: this takes a restart")
	reload(changed)
	s.await(log, "the cluster document has changed and is served")
	s.ended(serve, log)
}

// TestServeOnSocketsOfSystemd: a server without the right to ports below 1024 serves on what it is handed, that of the depot too; what comes
// while none runs waits for the next one; and the document's word on TFTP's ports counts, and the flag's more.
func TestServeOnSocketsOfSystemd(t *testing.T) {
	const key = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
	s := newSite(t, strings.Replace(string(cluster.Lab()), "  server: 10.1.0.1", "  tftpSinglePort: true\n  server: 10.1.0.1", 1)+
		"\netcd: {backup: {recipients: ["+key+"], to: [{server: true}]}}\n")
	var files []*os.File
	bind := func(network, at, link string) {
		t.Helper()
		f, err := bound(network, at, link)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
	}
	bind("udp4", "0.0.0.0:67", "br1")
	for _, port := range []string{"8080", "7446", "7445"} {
		bind("tcp4", "10.1.0.1:"+port, "")
	}
	bind("udp4", "10.1.0.1:69", "br1")
	node := s.plug()
	launch := func(words ...string) (*exec.Cmd, *written) {
		t.Helper()
		serve, log := s.serve(unix.CAP_NET_ADMIN, unix.CAP_NET_RAW)
		serve.ExtraFiles = files
		serve.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, serve.Path}, append(serve.Args[1:], words...)...)
		serve.Path = "/bin/sh"
		serve.Env = append(serve.Env, fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES=slipway.socket"+strings.Repeat(":slipway.socket", len(files)-1))
		s.start(serve)
		return serve, log
	}
	for _, round := range []struct {
		words  []string
		shared bool
	}{{nil, true}, {[]string{"--tftp-single-port=false"}, false}, {[]string{"--tftp-single-port"}, true}} {
		web, err := net.Dial("tcp4", "10.1.0.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		snapshots, err := net.Dial("tcp4", "10.1.0.1:7445")
		if err != nil {
			t.Fatal(err)
		}
		asks := s.asks(node, "slipway-worker-0.1.0-amd64.efi")
		deadline := time.Now().Add(time.Minute)
		_ = errors.Join(web.SetDeadline(deadline), snapshots.SetDeadline(deadline), asks.SetDeadline(deadline))
		_, _ = web.Write([]byte("GET /healthz HTTP/1.0\r\n\r\n"))
		serve, log := launch(round.words...)
		if answer, err := http.ReadResponse(bufio.NewReader(web), nil); err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%v: %v\n%s", round.words, err, log)
		}
		// It wants a certificate, so the handshake comes as far as the server's own.
		var shown *tls.Certificate
		over := tls.Client(snapshots, &tls.Config{InsecureSkipVerify: true, VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			shown = &tls.Certificate{Certificate: raw}
			return nil
		}})
		if err := over.Handshake(); err != nil || shown == nil {
			t.Errorf("%v: the depot: %v\n%s", round.words, err, log)
		}
		s.await(log, "msg=serving")
		s.capabilities(serve, "0000000000003000")
		packet := make([]byte, 1000)
		if n, from, err := asks.ReadFromUDPAddrPort(packet); err != nil || n != 516 || packet[1] != 3 || (from.Port() == 69) != round.shared {
			t.Errorf("%v: TFTP: %v: %d bytes from %s\n%s", round.words, err, n, from, log)
		}
		asks.Close()
		web.Close()
		over.Close()
		s.ended(serve, log)
	}

	bind("udp4", "10.1.0.1:70", "br1")
	serve, log := launch()
	if err := serve.Wait(); err == nil || !strings.Contains(log.String(), "cannot use a socket that systemd hands over (slipway.socket, UDP 10.1.0.1:70 on br1): nothing is served on that port here") {
		t.Errorf("%v\n%s", err, log)
	}
}

// plug makes a machine on the network, worker-1 by its address: a process in a network namespace.
func (s *site) plug() *os.Process {
	s.t.Helper()
	machine := exec.Command("sleep", "infinity")
	machine.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // for Pdeathsig
	s.t.Cleanup(runtime.UnlockOSThread)
	if err := machine.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = machine.Process.Kill(); _ = machine.Wait() })
	in := fmt.Sprintf("nsenter --net=/proc/%d/ns/net ip ", machine.Process.Pid)
	for _, words := range []string{fmt.Sprintf("ip link add port1 type veth peer name eth0 netns %d", machine.Process.Pid), "ip link set port1 master br1 up", in + "addr add 10.1.0.21/24 dev eth0", in + "link set eth0 up"} {
		fields := strings.Fields(words)
		if out, err := exec.Command(fields[0], fields[1:]...).CombinedOutput(); err != nil {
			s.t.Fatalf("%s: %v: %s", words, err, out)
		}
	}
	return machine.Process
}

// asks has a machine ask for a file by TFTP, in blocks of 512 bytes.
func (s *site) asks(machine *os.Process, file string) *net.UDPConn {
	s.t.Helper()
	type opened struct {
		conn *net.UDPConn
		err  error
	}
	made := make(chan opened)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread must not come back
		space, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", machine.Pid))
		if err == nil {
			err = unix.Setns(int(space.Fd()), unix.CLONE_NEWNET)
			space.Close()
		}
		var conn *net.UDPConn
		if err == nil {
			conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 1, 0, 21)})
		}
		made <- opened{conn, err}
	}()
	o := <-made
	if o.err == nil {
		_, o.err = o.conn.WriteToUDPAddrPort([]byte("\x00\x01"+file+"\x00octet\x00"), netip.MustParseAddrPort("10.1.0.1:69"))
	}
	if o.err != nil {
		s.t.Fatal(o.err)
	}
	return o.conn
}

// bound is a socket as systemd would hand it over.
func bound(network, at, link string) (*os.File, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if outer := raw.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, link) }); outer != nil {
			return outer
		}
		return err
	}}
	if network == "udp4" {
		conn, err := config.ListenPacket(context.Background(), network, at)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		return conn.(*net.UDPConn).File()
	}
	listener, err := config.Listen(context.Background(), network, at)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	return listener.(*net.TCPListener).File()
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
