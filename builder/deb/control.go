package deb

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits of control data. The largest paragraphs known are Release files (about 250 KB).
const (
	maxParagraph = 8 << 20
	maxFields    = 1024
)

// Field is one field of a paragraph. A value of several lines holds them as written, each further line with the blank
// that begins it.
type Field struct{ Name, Value string }

// Paragraph is one block of control data, in order.
type Paragraph struct {
	Fields []Field
	Line   int // of its first field, from 1
}

// Get is a field's value, or "". Names are compared without case (policy 5.1).
func (p Paragraph) Get(name string) string {
	for _, f := range p.Fields {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// Reader reads paragraphs one by one (deb822(5)).
type Reader struct {
	lines *bufio.Scanner
	line  int // the last one read
	text  []byte
}

// NewReader reads control data from r, which it buffers.
func NewReader(r io.Reader) *Reader {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxParagraph)
	return &Reader{lines: lines}
}

// Next is the next paragraph, or io.EOF. Errors name the line.
func (r *Reader) Next() (Paragraph, error) {
	first := 0
	r.text = r.text[:0]
	for r.lines.Scan() {
		r.line++
		line := r.lines.Bytes()
		if len(line) > 0 && line[0] == '#' {
			continue
		}
		if blank(line) {
			if first == 0 {
				continue
			}
			return parse(string(r.text), first)
		}
		if first == 0 {
			first = r.line
		}
		if len(r.text)+len(line) >= maxParagraph {
			return Paragraph{}, fmt.Errorf("line %d: a paragraph of more than %d bytes", r.line, maxParagraph)
		}
		r.text = append(append(r.text, line...), '\n')
	}
	if err := r.lines.Err(); err != nil {
		return Paragraph{}, fmt.Errorf("line %d: %w", r.line+1, err)
	}
	if first == 0 {
		return Paragraph{}, io.EOF
	}
	return parse(string(r.text), first)
}

func blank(line []byte) bool {
	for _, c := range line {
		if c != ' ' && c != '\t' {
			return false
		}
	}
	return true
}

// parse splits a paragraph's lines into fields; the values are parts of text.
func parse(text string, first int) (Paragraph, error) {
	p := Paragraph{Line: first, Fields: make([]Field, 0, 24)}
	for line := first; text != ""; {
		n, lines := extent(text)
		f, err := field(text[:n])
		if err == nil && p.has(f.Name) {
			err = fmt.Errorf("field %q twice in one paragraph", f.Name)
		}
		if err == nil && len(p.Fields) == maxFields {
			err = fmt.Errorf("more than %d fields in one paragraph", maxFields)
		}
		if err != nil {
			return Paragraph{}, fmt.Errorf("line %d: %w", line, err)
		}
		p.Fields = append(p.Fields, f)
		text, line = text[n:], line+lines
	}
	return p, nil
}

func (p Paragraph) has(name string) bool {
	for _, f := range p.Fields {
		if strings.EqualFold(f.Name, name) {
			return true
		}
	}
	return false
}

// extent is how many bytes and lines the first field with its continuations takes.
func extent(text string) (int, int) {
	n, lines := strings.IndexByte(text, '\n')+1, 1
	for n < len(text) && (text[n] == ' ' || text[n] == '\t') {
		n += strings.IndexByte(text[n:], '\n') + 1
		lines++
	}
	return n, lines
}

func field(text string) (Field, error) {
	if text[0] == ' ' || text[0] == '\t' {
		return Field{}, errors.New("a continuation without a field")
	}
	name, value, ok := strings.Cut(text, ":")
	if !ok || name == "" || name[0] == '-' || strings.ContainsFunc(name, notInName) {
		return Field{}, fmt.Errorf("not a field: %.60q", text)
	}
	return Field{Name: name, Value: strings.Trim(value, " \t\r\n")}, nil
}

// notInName: names are printable ASCII without blanks and colons (policy 5.1).
func notInName(c rune) bool { return c <= ' ' || c > '~' }
