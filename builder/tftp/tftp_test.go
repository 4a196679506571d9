package tftp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type content struct{ *bytes.Reader }

func (content) Close() error { return nil }

// start serves files on loopback and returns the server's address and the transfers that ended.
func start(t *testing.T, files map[string][]byte, edit func(*Config)) (netip.AddrPort, chan Transfer) {
	t.Helper()
	ended := make(chan Transfer, 64)
	config := Config{
		Open: func(name string, _ netip.Addr) (File, error) {
			data, ok := files[name]
			if !ok {
				return nil, fs.ErrNotExist
			}
			return content{bytes.NewReader(data)}, nil
		},
		Done:    func(tr Transfer) { ended <- tr },
		Timeout: 200 * time.Millisecond,
	}
	if edit != nil {
		edit(&config)
	}
	listen := func() (*net.UDPConn, error) {
		return net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	}
	conn, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- New(config).Serve(ctx, conn, listen) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("server: %v", err)
		}
		conn.Close()
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort(), ended
}

// await is the next transfer that ends.
func await(t *testing.T, ended chan Transfer) Transfer {
	t.Helper()
	select {
	case tr := <-ended:
		return tr
	case <-time.After(20 * time.Second):
		t.Fatal("no transfer ends")
		return Transfer{}
	}
}

// client is a small TFTP client of this test, so that packets can be lost, doubled and ignored on purpose.
type client struct {
	t      *testing.T
	conn   *net.UDPConn
	server netip.AddrPort
	peer   netip.AddrPort // the transfer's port, once known
	buffer [65536]byte
}

func dial(t *testing.T, server netip.AddrPort) *client {
	t.Helper()
	return dialFrom(t, server, net.IPv4(127, 0, 0, 1))
}

func dialFrom(t *testing.T, server netip.AddrPort, host net.IP) *client {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: host})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t: t, conn: conn, server: server}
}

func (c *client) ask(fields ...string) {
	c.send(c.server, append([]byte{0, opRRQ}, strings.Join(fields, "\x00")+"\x00"...))
}

func (c *client) ack(block uint16) {
	c.send(c.peer, binary.BigEndian.AppendUint16([]byte{0, opACK}, block))
}

func (c *client) send(to netip.AddrPort, packet []byte) {
	c.t.Helper()
	if _, err := c.conn.WriteToUDPAddrPort(packet, to); err != nil {
		c.t.Fatal(err)
	}
}

// next is the next packet, or nil when nothing comes within the wait.
func (c *client) next(wait time.Duration) []byte {
	c.t.Helper()
	buffer := c.buffer[:]
	if err := c.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		c.t.Fatal(err)
	}
	n, from, err := c.conn.ReadFromUDPAddrPort(buffer)
	if err != nil {
		return nil
	}
	c.peer = from
	return bytes.Clone(buffer[:n])
}

func random(size int) []byte {
	data := make([]byte, size)
	rand.New(rand.NewSource(int64(size))).Read(data)
	return data
}

// TestSizes: files at the edges of a block arrive whole, in every window size. 65537 blocks of 8 bytes roll the block
// number over.
func TestSizes(t *testing.T) {
	for _, size := range []int{0, 1, 7, 8, 9, 8 * 31, 8*65537 + 3, 8 * 65536, 8*65536*3 + 5} {
		for _, window := range []int{1, 4, 16} {
			if size > 8*65535 && window < 16 {
				continue // the same roll-over, only slower
			}
			t.Run(fmt.Sprintf("%d bytes, window %d", size, window), func(t *testing.T) {
				data := random(size)
				server, ended := start(t, map[string][]byte{"f": data}, nil)
				c := dial(t, server)
				c.ask("f", "octet", "blksize", "8", "WindowSize", fmt.Sprint(window), "tsize", "0")
				want := fmt.Sprintf("\x00\x06blksize\x008\x00windowsize\x00%d\x00tsize\x00%d\x00", window, size)
				if got := c.next(5 * time.Second); string(got) != want {
					t.Fatalf("option acknowledgement %q, want %q", got, want)
				}
				c.ack(0)
				if got := c.receive(8, window, nil); !bytes.Equal(got, data) {
					t.Fatalf("received %d bytes with another content, want %d", len(got), len(data))
				}
				if tr := await(t, ended); tr.Err != nil || tr.Size != int64(size) {
					t.Errorf("transfer ended with %+v", tr)
				}
			})
		}
	}
}

// receive takes blocks in order and acknowledges each full window; drop says which packets are lost on the way.
func (c *client) receive(block, window int, drop func() bool) []byte {
	c.t.Helper()
	return c.receiveFrom(1, block, window, drop)
}

func (c *client) receiveFrom(expect uint16, block, window int, drop func() bool) []byte {
	c.t.Helper()
	var data []byte
	inWindow := 0
	for {
		packet := c.next(5 * time.Second)
		if packet == nil {
			c.t.Fatalf("nothing comes after block %d", expect-1)
		}
		if packet[1] != opDATA {
			c.t.Fatalf("got %q", packet)
		}
		if drop != nil && drop() {
			continue
		}
		if binary.BigEndian.Uint16(packet[2:]) != expect {
			c.ack(expect - 1)
			inWindow = 0
			continue
		}
		data = append(data, packet[4:]...)
		inWindow++
		last := len(packet)-4 < block
		if inWindow == window || last {
			c.ack(expect)
			inWindow = 0
		}
		if last {
			return data
		}
		expect++
	}
}

// TestProbe: firmware asks for the size and then ends the transfer; that's not a failed transfer.
func TestProbe(t *testing.T) {
	server, ended := start(t, map[string][]byte{"f": random(1000)}, nil)
	c := dial(t, server)
	c.ask("f", "octet", "tsize", "0", "blksize", "1468", "windowsize", "4")
	if got := c.next(5 * time.Second); !bytes.Contains(got, []byte("tsize\x001000\x00")) {
		t.Fatalf("got %q", got)
	}
	c.send(c.peer, errorPacket(8, "User aborted the transfer"))
	c.ask("f", "octet")
	c.next(5 * time.Second)
	c.ack(1)
	c.next(5 * time.Second)
	c.ack(2)
	if tr := await(t, ended); tr.Err != nil || len(ended) != 0 {
		t.Errorf("first ended transfer: %+v, %d more", tr, len(ended))
	}
}

// TestRealClients: programs that people boot and test with get the same bytes.
func TestRealClients(t *testing.T) {
	data := random(3_000_000)
	for _, single := range []bool{false, true} {
		t.Run(fmt.Sprintf("single port %v", single), func(t *testing.T) {
			server, _ := start(t, map[string][]byte{"boot.efi": data}, func(c *Config) { c.Timeout, c.SinglePort = time.Second, single })
			realClients(t, fmt.Sprint(server.Port()), data)
		})
	}
}

func realClients(t *testing.T, port string, data []byte) {
	for name, args := range map[string]func(out string) []string{
		"atftp, one block at a time": func(out string) []string {
			return []string{"atftp", "-g", "-r", "boot.efi", "-l", out, "127.0.0.1", port}
		},
		"atftp": func(out string) []string {
			return []string{"atftp", "-g", "-r", "boot.efi", "-l", out, "--option", "blksize 1428", "--option", "windowsize 16", "127.0.0.1", port}
		},
		"tftp-hpa": func(out string) []string {
			return []string{"tftp", "-m", "binary", "127.0.0.1", port, "-c", "get", "boot.efi", out}
		},
		"curl": func(out string) []string {
			return []string{"curl", "-sS", "-o", out, "tftp://127.0.0.1:" + port + "/boot.efi"}
		},
		"curl, its own block size": func(out string) []string {
			return []string{"curl", "-sS", "--tftp-blksize", "1400", "-o", out, "tftp://127.0.0.1:" + port + "/boot.efi"}
		},
		"curl, without options": func(out string) []string {
			return []string{"curl", "-sS", "--tftp-no-options", "-o", out, "tftp://127.0.0.1:" + port + "//boot.efi"}
		},
		"busybox, large blocks": func(out string) []string {
			return []string{"busybox", "tftp", "-g", "-b", "1400", "-r", "boot.efi", "-l", out, "127.0.0.1", port}
		},
		"busybox": func(out string) []string {
			return []string{"busybox", "tftp", "-g", "-r", "boot.efi", "-l", out, "127.0.0.1", port}
		},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "got")
			command := args(out)
			if _, err := exec.LookPath(command[0]); err != nil {
				t.Skipf("%s is not installed (make deps)", command[0])
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if text, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			got, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if sha256.Sum256(got) != sha256.Sum256(data) {
				t.Errorf("got %d bytes with another content, want %d", len(got), len(data))
			}
		})
	}
}
