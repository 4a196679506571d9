package changes

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
)

// Text writes a comparison for people on a terminal. Long lists are cut unless all is wanted.
func (c *Comparison) Text(w io.Writer, all bool) error {
	r := c.words(all)
	out := &printer{w: w}
	out.line(plain(r.title))
	for _, l := range r.lead {
		out.line(plain(l))
	}
	for _, ch := range r.chapters {
		if ch.title != "" {
			out.line("\n== " + plain(ch.title) + " ==")
		}
		for _, s := range ch.sections {
			out.line("\n" + s.title)
			out.table(s)
		}
	}
	return out.err
}

// Markdown writes a comparison as Markdown (GitHub's, which GitLab and others read too) to be pasted as release notes. Headings
// begin at the second level.
func (c *Comparison) Markdown(w io.Writer, all bool) error {
	r := c.words(all)
	out := &printer{w: w}
	out.line("## " + escape(r.title))
	for _, l := range r.lead {
		out.line("\n" + escape(l))
	}
	level := "### "
	for _, ch := range r.chapters {
		if ch.title != "" {
			level = "#### "
			out.line("\n### " + escape(ch.title))
		}
		for _, s := range ch.sections {
			out.line("\n" + level + s.title + "\n")
			out.row(s.columns, len(s.columns))
			out.line(strings.Repeat("|---", len(s.columns)) + "|")
			for _, row := range s.rows {
				out.row(row, len(s.columns))
			}
		}
	}
	return out.err
}

// printer keeps the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(text string) {
	if p.err == nil {
		_, p.err = fmt.Fprintln(p.w, text)
	}
}

// table writes rows in columns, without a heading: what they are is plain to see.
func (p *printer) table(s section) {
	if p.err != nil {
		return
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range s.rows {
		cells := make([]string, len(row))
		for i, c := range row {
			cells[i] = plain(c)
		}
		fmt.Fprintln(t, "  "+strings.Join(cells, "\t"))
	}
	p.err = t.Flush()
	for line := range strings.Lines(b.String()) {
		p.line(strings.TrimRight(line, " \n"))
	}
}

func (p *printer) row(cells []string, n int) {
	text := "|"
	for i := range n {
		cell := ""
		if i < len(cells) {
			cell = escape(cells[i])
		}
		text += " " + cell + " |"
	}
	p.line(text)
}

// plain is text without anything that a terminal would obey: names come out of files of others.
func plain(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

var markdown = strings.NewReplacer(`\`, `\\`, "`", "\\`", "|", `\|`, "<", "&lt;", ">", "&gt;", "&", "&amp;", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "#", `\#`, "~", `\~`)

// escape is text that Markdown shows as it is.
func escape(s string) string { return markdown.Replace(plain(s)) }
