package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// newLog is a log of lines: for people with time and level; for systemd's journal, which has its own, with the level as it reads it
// (sd-daemon(3): <4> before the line).
func newLog(out io.Writer, env func(string) string, level slog.Level) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if !toJournal(out, env) {
		return slog.New(slog.NewTextHandler(out, options))
	}
	options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	w := &journal{out: out}
	return slog.New(journalHandler{slog.NewTextHandler(w, options), w})
}

// toJournal says whether a stream is the journal's (systemd.exec(5), $JOURNAL_STREAM: device and inode).
func toJournal(out io.Writer, env func(string) string) bool {
	f, ok := out.(*os.File)
	device, inode, said := strings.Cut(env("JOURNAL_STREAM"), ":")
	if !ok || !said {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && strconv.FormatUint(uint64(st.Dev), 10) == device && strconv.FormatUint(st.Ino, 10) == inode
}

// journal puts a level before each line.
type journal struct {
	mu    sync.Mutex
	out   io.Writer
	level int // of the line that is being written, by syslog's numbers
}

func (j *journal) Write(line []byte) (int, error) {
	if _, err := fmt.Fprintf(j.out, "<%d>%s", j.level, line); err != nil {
		return 0, err
	}
	return len(line), nil
}

type journalHandler struct {
	slog.Handler
	to *journal
}

func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.to.mu.Lock()
	defer h.to.mu.Unlock()
	switch {
	case r.Level >= slog.LevelError:
		h.to.level = 3
	case r.Level >= slog.LevelWarn:
		h.to.level = 4
	case r.Level >= slog.LevelInfo:
		h.to.level = 6
	default:
		h.to.level = 7
	}
	return h.Handler.Handle(ctx, r)
}

func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return journalHandler{h.Handler.WithAttrs(attrs), h.to}
}

func (h journalHandler) WithGroup(name string) slog.Handler {
	return journalHandler{h.Handler.WithGroup(name), h.to}
}
