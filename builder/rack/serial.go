package rack

import (
	"errors"
	"io"
	"os"
	"strings"
)

// tailBytes bounds what is read of a log's end.
const tailBytes = 64 << 10

// tail is the last n lines of a log, fit for a terminal: a serial console carries a firmware's escape sequences.
func tail(file string, n int) string {
	f, err := os.Open(file)
	if err != nil {
		return "(no log: " + err.Error() + ")"
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > tailBytes {
		f.Seek(-tailBytes, io.SeekEnd)
	}
	text, err := io.ReadAll(io.LimitReader(f, tailBytes))
	if err != nil {
		return "(no log: " + err.Error() + ")"
	}
	lines := strings.Split(strings.TrimSpace(plain(string(text))), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// plain takes escape sequences (ECMA-48 CSI, and two-byte ones) and control characters out of a console's output.
func plain(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == 0x1b && i+1 < len(text) && text[i+1] == '[':
			i += 2
			for i < len(text) && (text[i] < 0x40 || text[i] > 0x7e) {
				i++
			}
		case c == 0x1b:
			i++
		case c == '\n' || c == '\t' || (c >= ' ' && c != 0x7f):
			b.WriteByte(c)
		}
	}
	return strings.ToValidUTF8(b.String(), "?")
}

func asNodeError(err error) *nodeError {
	var e *nodeError
	if errors.As(err, &e) {
		return e
	}
	return nil
}

func nodeOf(err error) string {
	if e := asNodeError(err); e != nil {
		return e.node
	}
	return ""
}
