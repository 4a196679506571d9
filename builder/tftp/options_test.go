package tftp

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// TestOptions: what is out of range or not known is left out of the acknowledgement, and without anything to acknowledge the
// first block comes at once (RFC 2347).
func TestOptions(t *testing.T) {
	data := random(600)
	server, _ := start(t, map[string][]byte{"f": data}, nil)
	for _, c := range []struct{ asked, acknowledged string }{
		{"", ""},
		{"blksize 7", ""},
		{"blksize 65465", ""},
		{"blksize -512", ""},
		{"blksize 1e3", ""},
		{"blksize", ""},
		{"windowsize 0", ""},
		{"windowsize 65536", ""},
		{"timeout 0", ""},
		{"timeout 256", ""},
		{"multicast 1", ""},
		{"rollover 1 blksize2 512", ""},
		{"blksize 99999999999999999999", ""},
		{"BLKSIZE 512 blksize 8", "blksize 512"},
		{"blksize 65464", "blksize 1468"},
		{"windowsize 65535", "windowsize 32"},
		{"timeout 255", "timeout 255"},
		{"tsize 5 tsize 6", "tsize 600"},
		{"windowsize 4 nonsense 1 blksize 512 timeout 0", "windowsize 4 blksize 512"},
	} {
		client := dial(t, server)
		client.ask(append([]string{"f", "octet"}, strings.Fields(c.asked)...)...)
		got := client.next(5 * time.Second)
		want := append([]byte{0, opDATA, 0, 1}, data[:512]...)
		if c.acknowledged != "" {
			want = []byte("\x00\x06" + strings.ReplaceAll(c.acknowledged, " ", "\x00") + "\x00")
		}
		if !bytes.Equal(got, want) {
			t.Errorf("asked for %q: got %.60q, want %.60q", c.asked, got, want)
		}
		client.send(client.peer, errorPacket(codeOptions, "done"))
	}
}

// TestOptionsRefused: a client that doesn't like what it is granted ends that and asks without options (RFC 2347 section 3).
func TestOptionsRefused(t *testing.T) {
	data := random(1500)
	for _, single := range []bool{false, true} {
		server, ended := start(t, map[string][]byte{"f": data}, func(c *Config) { c.SinglePort = single })
		c := dial(t, server)
		c.ask("f", "octet", "blksize", "1000")
		if got := c.next(5 * time.Second); got == nil || got[1] != opOACK {
			t.Fatalf("got %q, want an option acknowledgement", got)
		}
		c.send(c.peer, errorPacket(codeOptions, "no"))
		c.ask("f", "octet")
		if got := c.receive(512, 1, nil); !bytes.Equal(got, data) {
			t.Errorf("received %d bytes with another content, want %d", len(got), len(data))
		}
		if tr := await(t, ended); tr.Err != nil {
			t.Errorf("the transfer ended with %v", tr.Err)
		}
	}
}
