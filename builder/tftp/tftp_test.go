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
}

func dial(t *testing.T, server netip.AddrPort) *client {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
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
	buffer := make([]byte, 65536)
	if err := c.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		c.t.Fatal(err)
	}
	n, from, err := c.conn.ReadFromUDPAddrPort(buffer)
	if err != nil {
		return nil
	}
	c.peer = from
	return buffer[:n]
}

func random(size int) []byte {
	data := make([]byte, size)
	rand.New(rand.NewSource(int64(size))).Read(data)
	return data
}

// TestSizes: files at the edges of a block arrive whole, in every window size. 65537 blocks of 8 bytes roll the block
// number over.
func TestSizes(t *testing.T) {
	for _, size := range []int{0, 1, 7, 8, 9, 8 * 31, 8*65537 + 3, 8 * 65536} {
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
	var data []byte
	expect, inWindow := uint16(1), 0
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

// TestLoss: a network that loses one packet in twenty.
func TestLoss(t *testing.T) {
	data := random(200_000)
	server, _ := start(t, map[string][]byte{"f": data}, func(c *Config) { c.Timeout = 50 * time.Millisecond })
	c := dial(t, server)
	c.ask("f", "octet", "blksize", "1024", "windowsize", "8")
	c.next(5 * time.Second)
	c.ack(0)
	dice := rand.New(rand.NewSource(1))
	if got := c.receive(1024, 8, func() bool { return dice.Intn(20) == 0 }); !bytes.Equal(got, data) {
		t.Fatal("content differs")
	}
}

// TestDuplicateAck: acknowledgements that come twice don't make blocks go out twice.
func TestDuplicateAck(t *testing.T) {
	server, _ := start(t, map[string][]byte{"f": random(4 * 512)}, func(c *Config) { c.Timeout = 5 * time.Second })
	c := dial(t, server)
	c.ask("f", "octet")
	packets := 0
	for block := uint16(1); block <= 5; block++ {
		if got := c.next(5 * time.Second); got == nil || binary.BigEndian.Uint16(got[2:]) != block {
			t.Fatalf("got %v, want block %d", got, block)
		}
		packets++
		c.ack(block)
		c.ack(block)
	}
	if extra := c.next(300 * time.Millisecond); extra != nil {
		t.Errorf("after the last block came %v", extra[:4])
	}
}

// TestDoubledPackets: a network that doubles one acknowledgement, and a client that acknowledges every packet it didn't
// expect (as EDK2 does), don't double the rest of the transfer.
func TestDoubledPackets(t *testing.T) {
	const block, window, windows = 512, 8, 40
	server, _ := start(t, map[string][]byte{"f": random(block*window*windows - 1)}, func(c *Config) { c.Timeout = 5 * time.Second })
	c := dial(t, server)
	c.ask("f", "octet", "blksize", fmt.Sprint(block), "windowsize", fmt.Sprint(window))
	c.next(5 * time.Second)
	c.ack(0)
	packets := 0
	for expect := uint16(1); expect <= window*windows; {
		got := c.next(2 * time.Second)
		if got == nil {
			t.Fatalf("nothing comes before block %d", expect)
		}
		packets++
		if number := binary.BigEndian.Uint16(got[2:]); number != expect {
			c.ack(expect - 1)
			continue
		}
		if expect%window == 0 {
			c.ack(expect)
		}
		if expect == 3*window {
			c.ack(expect)
		}
		expect++
	}
	if spare := packets - window*windows; spare > 4*window {
		t.Errorf("%d packets more than there are blocks, want at most some windows", spare)
	}
}

// TestSilentClients: a client that never answers is given up, and one that only repeats its last acknowledgement too.
func TestSilentClients(t *testing.T) {
	for name, repeat := range map[string]bool{"never acknowledges": false, "repeats block 2": true} {
		t.Run(name, func(t *testing.T) {
			server, ended := start(t, map[string][]byte{"f": random(100_000)}, func(c *Config) {
				c.Timeout, c.Retries = 20*time.Millisecond, 2
			})
			c := dial(t, server)
			c.ask("f", "octet", "blksize", "512", "windowsize", "2")
			c.next(time.Second)
			c.ack(0)
			for deadline := time.Now().Add(10 * time.Second); len(ended) == 0; {
				if time.Now().After(deadline) {
					t.Fatal("the transfer never ends")
				}
				if c.next(10*time.Millisecond) != nil && repeat {
					c.ack(2)
				}
			}
			if tr := await(t, ended); tr.Err == nil {
				t.Error("the transfer ended well")
			}
		})
	}
}

// TestRepeatedRequest: a client that asks again from the same port, because our answer was lost, gets that answer again
// and not a second transfer.
func TestRepeatedRequest(t *testing.T) {
	data := random(700)
	server, _ := start(t, map[string][]byte{"f": data}, nil)
	c := dial(t, server)
	peers := map[netip.AddrPort]bool{}
	for range 3 {
		c.ask("f", "octet", "blksize", "512")
		c.next(5 * time.Second)
		peers[c.peer] = true
	}
	if len(peers) != 1 {
		t.Errorf("%d transfers run for one request, want 1", len(peers))
	}
	for c.next(300*time.Millisecond) != nil { // answers that were sent again meanwhile
	}
	c.ack(0)
	if got := c.receive(512, 1, nil); !bytes.Equal(got, data) {
		t.Errorf("received %d bytes with another content, want %d", len(got), len(data))
	}
}

// TestStop: when the server stops, a client in mid-transfer is told at once.
func TestStop(t *testing.T) {
	listen := func() (*net.UDPConn, error) {
		return net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	}
	conn, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open := func(string, netip.Addr) (File, error) { return content{bytes.NewReader(random(5000))}, nil }
	stopped := make(chan error, 1)
	go func() { stopped <- New(Config{Open: open, Timeout: time.Hour}).Serve(ctx, conn, listen) }()
	c := dial(t, conn.LocalAddr().(*net.UDPAddr).AddrPort())
	c.ask("f", "octet")
	if got := c.next(5 * time.Second); got == nil || got[1] != opDATA {
		t.Fatalf("got %q, want a block", got)
	}
	cancel()
	if got := c.next(5 * time.Second); string(got) != "\x00\x05\x00\x00the server stops\x00" {
		t.Errorf("got %q, want the end of the transfer", got)
	}
	select {
	case err := <-stopped:
		if err != nil {
			t.Errorf("the server ends with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the server doesn't end")
	}
}

// TestFileThatShrinks: a file that becomes shorter while it is sent ends the transfer with an error on both sides.
func TestFileThatShrinks(t *testing.T) {
	server, ended := start(t, nil, func(c *Config) {
		c.Open = func(string, netip.Addr) (File, error) { return shrunk{content{bytes.NewReader(random(700))}}, nil }
	})
	c := dial(t, server)
	c.ask("f", "octet")
	c.next(5 * time.Second)
	c.ack(1)
	if got := c.next(5 * time.Second); string(got) != "\x00\x05\x00\x00cannot read the file\x00" {
		t.Errorf("got %q, want an error", got)
	}
	if tr := await(t, ended); tr.Err == nil || !strings.Contains(tr.Err.Error(), "shorter") {
		t.Errorf("the transfer ended with %v", tr.Err)
	}
}

// shrunk is a file that is shorter than it was when it was opened.
type shrunk struct{ content }

func (shrunk) Size() int64 { return 1400 }

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

// TestRefusals: what can't be had is refused with an error packet, and nothing is answered to what is no request.
func TestRefusals(t *testing.T) {
	server, _ := start(t, map[string][]byte{"boot/f": {1}}, nil)
	for _, c := range []struct{ file, want string }{
		{"missing", "\x00\x05\x00\x01no such file: missing\x00"},
		{"../etc/shadow", "\x00\x05\x00\x02a name with .. is refused\x00"},
		{`boot\..\..\shadow`, "\x00\x05\x00\x02a name with .. is refused\x00"},
		{"/", "\x00\x05\x00\x02not a file name\x00"},
		{`\boot\f`, "\x00\x03\x00\x01\x01"},
		{"//boot/f", "\x00\x03\x00\x01\x01"},
	} {
		client := dial(t, server)
		client.ask(c.file, "octet")
		if got := client.next(5 * time.Second); string(got) != c.want {
			t.Errorf("%s: got %q, want %q", c.file, got, c.want)
		}
	}
	client := dial(t, server)
	client.send(server, []byte("\x00\x02boot/f\x00octet\x00"))
	if got := client.next(5 * time.Second); string(got) != "\x00\x05\x00\x02this server is read-only\x00" {
		t.Errorf("write request: got %q", got)
	}
	for _, packet := range []string{"", "\x00", "\x00\x05\x00\x00x\x00", "\x00\x01f", strings.Repeat("x", 5000)} {
		client.send(server, []byte(packet))
	}
	if got := client.next(200 * time.Millisecond); got != nil {
		t.Errorf("malformed packets were answered: %q", got)
	}
}

// TestLimit: one client gets no more than its share of transfers.
func TestLimit(t *testing.T) {
	server, _ := start(t, map[string][]byte{"f": random(5000)}, func(c *Config) { c.MaxPerClient, c.Timeout = 2, time.Minute })
	answered := 0
	for range 4 {
		c := dial(t, server)
		c.ask("f", "octet")
		if c.next(300*time.Millisecond) != nil {
			answered++
		}
	}
	if answered != 2 {
		t.Errorf("%d transfers run, want 2", answered)
	}
}

// TestRealClients: programs that people boot and test with get the same bytes.
func TestRealClients(t *testing.T) {
	data := random(3_000_000)
	server, _ := start(t, map[string][]byte{"boot.efi": data}, func(c *Config) { c.Timeout = time.Second })
	port := fmt.Sprint(server.Port())
	for name, args := range map[string]func(out string) []string{
		"atftp": func(out string) []string {
			return []string{"atftp", "-g", "-r", "boot.efi", "-l", out, "--option", "blksize 1428", "--option", "windowsize 16", "127.0.0.1", port}
		},
		"tftp-hpa": func(out string) []string {
			return []string{"tftp", "-m", "binary", "127.0.0.1", port, "-c", "get", "boot.efi", out}
		},
		"curl": func(out string) []string {
			return []string{"curl", "-sS", "-o", out, "tftp://127.0.0.1:" + port + "/boot.efi"}
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

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte("\x00\x01f\x00octet\x00"))
	f.Add([]byte("\x00\x01\\boot\\f\x00OCTET\x00tsize\x000\x00blksize\x001468\x00windowsize\x004\x00"))
	f.Add([]byte("\x00\x02f\x00netascii\x00timeout\x00300\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, packet []byte) {
		r, err := parseRequest(packet)
		if err != nil {
			return
		}
		o := r.options
		if o.blockSize != 0 && (o.blockSize < 8 || o.blockSize > 65464) || o.windowSize < 0 || o.windowSize > 65535 || o.timeout < 0 || o.timeout > 255 {
			t.Errorf("options out of range: %+v", o)
		}
		if len(o.order) > 4 || len(o.oack(1<<62)) > 256 {
			t.Errorf("option acknowledgement grows: %+v", o)
		}
		if name, err := cleanName(r.file); err == nil && (!fs.ValidPath(name) || strings.Contains(name, "..") && !strings.Contains(strings.ReplaceAll(name, "/", ""), "..")) {
			t.Errorf("%q became %q", r.file, name)
		}
	})
}
