package console

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestLines(t *testing.T) {
	var out bytes.Buffer
	c := New(&out)
	log := slog.New(c).With("link", "eth0")
	log.Info("up\nand\x1b[1m running", "mtu", 1500)
	log.Debug("not shown")
	log.Error(strings.Repeat("x", 5000))
	lines := strings.Split(out.String(), "\n")
	if want := "<5>slipway: up and [1m running (link eth0, mtu 1500)"; lines[0] != want {
		t.Errorf("line is %q, want %q", lines[0], want)
	}
	if len(lines) != 3 || !strings.HasPrefix(lines[1], "<3>slipway: xxx") || len(lines[1]) > 1000 {
		t.Errorf("%d lines, the second has %d bytes", len(lines), len(lines[1]))
	}
	for range 1000 {
		log.Info(strings.Repeat("y", 800))
	}
	log.Info("the end")
	if kept := c.Last(); len(kept) > 64<<10 || !strings.HasSuffix(string(kept), "the end (link eth0)\n") {
		t.Errorf("%d bytes are kept", len(kept))
	}
}
