// Package console writes the agent's lines for people: "slipway: message (key value, ...)", each one a record of
// /dev/kmsg, from where they get to the machine's console and into the journal. It keeps the last ones for a report.
//
// It is a handler for log/slog, not a log of its own.
package console

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// maxLine bounds a line on /dev/kmsg in bytes: the kernel cuts longer records (LOG_LINE_MAX less its prefix).
const maxLine = 900

// maxKept bounds what is kept for a failure report in bytes.
const maxKept = 64 << 10

// Console is a slog.Handler. Records below slog.LevelInfo are dropped.
type Console struct {
	*shared
	attrs []slog.Attr
}

type shared struct {
	mu   sync.Mutex
	out  io.Writer
	kept []byte
}

// New writes to out, a record a Write (/dev/kmsg takes them so).
func New(out io.Writer) *Console { return &Console{shared: &shared{out: out}} }

// Enabled implements slog.Handler.
func (c *Console) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// WithAttrs implements slog.Handler.
func (c *Console) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Console{c.shared, append(c.attrs[:len(c.attrs):len(c.attrs)], attrs...)}
}

// WithGroup implements slog.Handler; groups are not shown.
func (c *Console) WithGroup(string) slog.Handler { return c }

// Handle implements slog.Handler.
func (c *Console) Handle(_ context.Context, r slog.Record) error {
	var words []string
	add := func(a slog.Attr) bool {
		words = append(words, fmt.Sprintf("%s %v", a.Key, a.Value))
		return true
	}
	for _, a := range c.attrs {
		add(a)
	}
	r.Attrs(add)
	line := "slipway: " + r.Message
	if len(words) > 0 {
		line += " (" + strings.Join(words, ", ") + ")"
	}
	return c.write(priority(r.Level), line)
}

// priority is the syslog level of a record.
func priority(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return 3
	case l >= slog.LevelWarn:
		return 4
	}
	return 5
}

func (c *Console) write(priority int, line string) error {
	line = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, line)
	line = line[:min(len(line), maxLine)]
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = append(append(c.kept, line...), '\n')
	if len(c.kept) > 2*maxKept {
		c.kept = append([]byte(nil), c.kept[len(c.kept)-maxKept:]...)
	}
	_, err := fmt.Fprintf(c.out, "<%d>%s\n", priority, line)
	return err
}

// Last is the last lines, at most 64 KiB.
func (c *Console) Last() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]byte(nil), c.kept[max(0, len(c.kept)-maxKept):]...)
}
