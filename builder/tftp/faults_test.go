package tftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

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

// TestRefusals: what can't be had is refused with an error packet, and nothing is answered to what is no request.
func TestRefusals(t *testing.T) {
	server, _ := start(t, map[string][]byte{"boot/f": {1}}, nil)
	for _, c := range []struct{ file, want string }{
		{"missing", "\x00\x05\x00\x01no such file: missing\x00"},
		{"../etc/shadow", "\x00\x05\x00\x02a name with .. is refused\x00"},
		{`boot\..\..\shadow`, "\x00\x05\x00\x02a name with .. is refused\x00"},
		{"/", "\x00\x05\x00\x02not a file name\x00"},
		{"boot/..", "\x00\x05\x00\x02a name with .. is refused\x00"},
		{"/etc/passwd", "\x00\x05\x00\x01no such file: etc/passwd\x00"},
		{`C:\f`, "\x00\x05\x00\x01no such file: C:/f\x00"},
		{"%2e%2e/f", "\x00\x05\x00\x01no such file: %2e%2e/f\x00"},
		{"boot/f\x00/etc/passwd", "\x00\x03\x00\x01\x01"}, // the name ends at the zero
		{"boot\n/f", "\x00\x05\x00\x02not a file name\x00"},
		{"boot\xff/f", "\x00\x05\x00\x02not a file name\x00"},
		{strings.Repeat("f", 300), "\x00\x05\x00\x02not a file name\x00"},
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

// TestLimits: one client gets no more than its share of transfers, and all together no more than there may be. A client
// that finds no room isn't refused: it asks again and is served when there's room.
func TestLimits(t *testing.T) {
	server, ended := start(t, map[string][]byte{"f": random(100)}, func(c *Config) {
		c.MaxPerClient, c.MaxTransfers, c.Timeout = 2, 5, time.Minute
	})
	var running []*client
	var late *client
	for i, host := range []byte{1, 1, 1, 2, 2, 2, 3, 3} {
		c := dialFrom(t, server, net.IPv4(127, 0, 0, host))
		c.ask("f", "octet", "blksize", "64")
		got := c.next(300 * time.Millisecond)
		if want := i != 2 && i != 5 && i != 7; (got != nil) != want {
			t.Fatalf("request %d, from 127.0.0.%d: answered %v, want %v", i, host, got != nil, want)
		}
		if got != nil {
			c.ack(0)
			c.next(5 * time.Second)
			running = append(running, c)
		}
		late = c
	}
	running[0].ack(1)
	running[0].next(5 * time.Second)
	running[0].ack(2)
	await(t, ended)
	for range 20 {
		late.ask("f", "octet")
		if late.next(100*time.Millisecond) != nil {
			return
		}
	}
	t.Error("a client that had no room is never served")
}

// TestStranger: packets from elsewhere, with the right block numbers, neither move a transfer on nor end it.
func TestStranger(t *testing.T) {
	data := random(1200)
	server, _ := start(t, map[string][]byte{"f": data}, func(c *Config) { c.Timeout = time.Minute })
	c := dial(t, server)
	c.ask("f", "octet")
	first := c.next(5 * time.Second)
	stranger := dialFrom(t, server, net.IPv4(127, 0, 0, 9))
	stranger.peer = c.peer
	stranger.ack(1)
	stranger.send(c.peer, errorPacket(codeUndefined, "stop"))
	if got := c.next(200 * time.Millisecond); got != nil {
		t.Errorf("a stranger's acknowledgement made the server send %q", got[:4])
	}
	c.ack(1)
	if got := append(first[4:], c.receiveFrom(2, 512, 1, nil)...); !bytes.Equal(got, data) {
		t.Errorf("received %d bytes with another content, want %d", len(got), len(data))
	}
}
