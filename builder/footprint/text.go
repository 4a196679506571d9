package footprint

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
)

// Text writes a tree for people. Parts below a thousandth of the whole are put together.
func (n *Node) Text(w io.Writer) error { return n.text(w, n.Bytes, 0) }

func (n *Node) text(w io.Writer, whole int64, level int) error {
	if _, err := fmt.Fprintf(w, "%9s %8s  %s%s\n", megabytes(n.Bytes), percent(n.Bytes, whole), strings.Repeat("  ", level), plain(n.Name)); err != nil {
		return err
	}
	small, rest := 0, int64(0)
	for i, c := range n.Children {
		if c.Bytes*1000 < whole && len(n.Children)-i+small > 1 {
			small, rest = small+1, rest+c.Bytes
			continue
		}
		if err := c.text(w, whole, level+1); err != nil {
			return err
		}
	}
	if small == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "%9s %8s  %s%d smaller\n", megabytes(rest), percent(rest, whole), strings.Repeat("  ", level+1), small)
	return err
}

// megabytes are bytes in words: 142.5 MB, 12.0 kB.
func megabytes(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 100_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

func percent(n, whole int64) string {
	if whole == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(whole))
}

// plain is text without anything that a terminal would obey.
func plain(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
