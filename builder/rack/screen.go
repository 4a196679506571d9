package rack

import (
	"bytes"
	"fmt"
	"io"
	"time"
)

// screen shows timelines as they grow on a terminal, and in a pipe nothing until they are final.
type screen struct {
	out     io.Writer
	live    bool
	lines   int
	started time.Time
	closed  bool
}

func newScreen(out io.Writer, live bool) *screen {
	return &screen{out: out, live: live, started: time.Now()}
}

// show draws the table over what it drew before.
func (s *screen) show(timelines []Timeline) {
	if !s.live || s.closed {
		return
	}
	var table bytes.Buffer
	writeTimelines(&table, timelines)
	fmt.Fprintf(&table, "%.0f s since power on\n", time.Since(s.started).Seconds())
	s.clear()
	s.out.Write(table.Bytes())
	s.lines = bytes.Count(table.Bytes(), []byte("\n"))
}

// close takes the table away: what is final gets printed by itself.
func (s *screen) close() {
	if s.live && !s.closed {
		s.clear()
	}
	s.closed = true
}

func (s *screen) clear() {
	if s.lines > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA\x1b[J", s.lines)
	}
	s.lines = 0
}
