package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// board is a table that stays at the bottom of a terminal, drawn again every second, while lines of text pass above it. It is
// the writer of those lines.
type board struct {
	mu    sync.Mutex
	out   *os.File
	draw  func(io.Writer)
	lines int // of the table as it stands
}

// newBoard is a board on a terminal, and nil where out is none.
func newBoard(out io.Writer) *board {
	f, ok := out.(*os.File)
	if !ok || !terminal(f) {
		return nil
	}
	return &board{out: f}
}

// Write writes lines above the table.
func (b *board) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clear()
	n, err := b.out.Write(text)
	b.show()
	return n, err
}

// run shows what draw writes until ctx ends, and then takes it away.
func (b *board) run(ctx context.Context, draw func(io.Writer)) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		b.mu.Lock()
		b.draw = draw
		b.clear()
		b.show()
		b.mu.Unlock()
		select {
		case <-ctx.Done():
			b.mu.Lock()
			defer b.mu.Unlock()
			b.draw = nil
			b.clear()
			return
		case <-tick.C:
		}
	}
}

func (b *board) clear() {
	if b.lines > 0 {
		fmt.Fprintf(b.out, "\x1b[%dA\x1b[J", b.lines)
	}
	b.lines = 0
}

// show draws the table, as much of it as the terminal has room for: a line that wraps or scrolls away could not be drawn over.
func (b *board) show() {
	if b.draw == nil {
		return
	}
	width, height, err := term.GetSize(int(b.out.Fd()))
	if err != nil {
		return
	}
	var table bytes.Buffer
	b.draw(&table)
	text := fit(table.String(), width, height-2)
	b.lines = strings.Count(text, "\n")
	_, _ = io.WriteString(b.out, text)
}

// fit cuts a text to so many columns and lines, and says how many lines are left out.
func fit(text string, width, height int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if most := max(1, height); len(lines) > most {
		left := len(lines) - most + 1
		lines = append(lines[:most-1], fmt.Sprintf("and %d more (slipway status)", left))
	}
	for i, line := range lines {
		cells := []rune(line)
		lines[i] = string(cells[:min(len(cells), max(1, width-1))])
	}
	return strings.Join(lines, "\n") + "\n"
}

// watchPause is how often a watched result is shown.
const watchPause = 2 * time.Second

// watched runs what prints a result once, or again and again until ctx ends: on a terminal each over the one before. What
// fails while it is watched is shown and tried again.
func watched(ctx context.Context, a *app, again bool, show func(context.Context, *app) error) error {
	if !again {
		return show(ctx, a)
	}
	for {
		var text bytes.Buffer
		once := *a
		once.out = &text
		if err := show(ctx, &once); err != nil && ctx.Err() == nil {
			fmt.Fprintln(&text, err)
		}
		if ctx.Err() != nil {
			return nil
		}
		if terminal(a.out) {
			_, _ = io.WriteString(a.out, "\x1b[H\x1b[J") // cursor home, erase what is below (ECMA-48)
		}
		if _, err := a.out.Write(text.Bytes()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchPause):
		}
	}
}
