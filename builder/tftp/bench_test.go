package tftp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkTransfer measures a 40 MB file through this server and through others, with atftp as the client of all. It runs
// in a network namespace of its own, because some servers know no port but 69. Not every server knows windows: those are
// measured with window 1 only.
func BenchmarkTransfer(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root, for a network namespace")
	}
	if _, err := exec.LookPath("atftp"); err != nil {
		b.Skip("atftp is not installed (make deps)")
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Fatal(err)
	}
	if text, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, text)
	}
	dir := b.TempDir()
	data := random(40_000_000)
	if err := os.Chmod(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), data, 0o644); err != nil {
		b.Fatal(err)
	}
	servers := []struct {
		name    string
		most    int      // blocks in a window that it knows
		command []string // empty: this package
	}{
		{"slipway", 16, nil},
		{"tftpd-hpa", 1, []string{"in.tftpd", "-L", "-u", "root", "-a", "127.0.0.1:69", "-s", dir}},
		{"dnsmasq", 1, []string{"dnsmasq", "-d", "-q", "-C", "/dev/null", "-u", "root", "-p", "0", "--enable-tftp", "--tftp-root", dir}},
		{"slipway-single-port", 16, nil},
	}
	for _, window := range []int{1, 4, 16} {
		for _, server := range servers {
			if window > server.most {
				continue
			}
			b.Run(fmt.Sprintf("window=%d/%s", window, server.name), func(b *testing.B) {
				serveOurs(b, filepath.Join(dir, "f"), server.command == nil, server.name != "slipway")
				servePeer(b, server.command)
				get(b, 1)
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					get(b, window)
				}
			})
		}
	}
}

// get fetches the file once.
func get(b *testing.B, window int) {
	b.Helper()
	command := exec.Command("atftp", "-g", "-r", "f", "-l", "/dev/null",
		"--option", "blksize 1428", "--option", fmt.Sprintf("windowsize %d", window), "127.0.0.1", "69")
	if text, err := command.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, text)
	}
}

// onDisk is a file as the boot server has it.
type onDisk struct {
	*os.File
	size int64
}

func (f onDisk) Size() int64 { return f.size }

func serveOurs(b *testing.B, file string, ours, single bool) {
	if !ours {
		return
	}
	listen := func() (*net.UDPConn, error) { return net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}) }
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 69})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	stopped := make(chan error, 1)
	open := func(string, netip.Addr) (File, error) {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		info, err := f.Stat()
		return onDisk{f, info.Size()}, err
	}
	server := New(Config{Open: open, SinglePort: single})
	go func() { stopped <- server.Serve(ctx, conn, listen) }()
	b.Cleanup(func() { cancel(); <-stopped; conn.Close() })
}

// servePeer runs another server for as long as the benchmark.
func servePeer(b *testing.B, command []string) {
	if len(command) == 0 {
		return
	}
	if _, err := exec.LookPath(command[0]); err != nil {
		b.Skipf("%s is not installed", command[0])
	}
	server := exec.Command(command[0], command[1:]...)
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { server.Process.Kill(); server.Wait() })
	time.Sleep(300 * time.Millisecond) // neither says when it is ready; the first transfer isn't measured and tries again
}
