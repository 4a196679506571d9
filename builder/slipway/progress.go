package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/builder/bake"
	"github.com/slipway-os/slipway/builder/component"
)

// progress shows on a terminal what long work is at, in one line that is written over. In a pipe it is silent.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	live  bool
	width int
	last  time.Time
	shown bool
}

// frame is how often the line is drawn at most.
const frame = 100 * time.Millisecond

func newProgress(a *app) *progress {
	p := &progress{out: a.words, live: terminal(a.words), width: 80}
	if f, ok := a.words.(*os.File); ok && p.live {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 10 {
			p.width = width
		}
	}
	return p
}

// line writes over the line. Always is for lines that must not be left out because another came just before.
func (p *progress) line(always bool, format string, args ...any) {
	if !p.live {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if !always && now.Sub(p.last) < frame {
		return
	}
	text := []rune(fmt.Sprintf(format, args...))
	fmt.Fprintf(p.out, "\r%s\x1b[K", string(text[:min(len(text), p.width-1)]))
	p.last, p.shown = now, true
}

// note writes a line that stays, in a pipe too.
func (p *progress) note(format string, args ...any) {
	p.end()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// warn writes a line about something that was wrong and is right again.
func (p *progress) warn(text string) { p.note("warning: %s", text) }

// end takes the line away.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	p.shown = false
}

// fetching shows a download: files, bytes and a bar.
func (p *progress) fetching(what string) archive.Progress {
	return func(s archive.Status) {
		p.line(s.FilesDone == s.Files, "fetching %s  %s  %d/%d files  %s of %s", what, bar(s.BytesDone, s.Bytes), s.FilesDone, s.Files, bytesText(s.BytesDone), bytesText(s.Bytes))
	}
}

// bar is done of all as twenty characters.
func bar(done, all int64) string {
	const width = 20
	filled := 0
	if all > 0 {
		filled = int(min(width, done*width/all))
	}
	return "[" + "####################"[:filled] + "...................."[filled:] + "]"
}

// building shows a component being built.
func (p *progress) building(b component.Progress) {
	if b.Step == "cached" {
		return
	}
	p.line(false, "building %s (%s): %s %s (%d packages)", b.Component, b.Arch, b.Step, b.Detail, b.Packages)
}

// baking shows a role's steps.
func (p *progress) baking(role string) func(bake.Step) {
	return func(s bake.Step) { p.line(true, "baking %s: %s", role, s.Name) }
}
