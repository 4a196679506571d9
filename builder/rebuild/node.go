package rebuild

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// node is something with bytes.
type node struct {
	name  string
	facts []fact // what is known of it besides its bytes
	size  int64  // bytes
	open  func() (io.ReadCloser, error)
	// split gives its parts in the order in which they are looked at. Nil: it has none.
	split func() ([]node, error)
	kind  string // of what it is made of parts, for messages: a squashfs file
}

// fact is something known of a file: its mode.
type fact struct{ name, value string }

// comparison is at work on one artifact.
type comparison struct {
	ctx     context.Context
	scratch string
	files   []*os.File // to close
	trash   []string   // to remove
}

func (c *comparison) end() {
	for _, f := range c.files {
		f.Close()
	}
	for _, name := range c.trash {
		os.Remove(name)
	}
}

// compare gives the first difference of two nodes, nil when there is none. An error is about reading what was baked again; when what was given
// can't be read, that is a difference.
func (c *comparison) compare(given, again node) (*Difference, error) {
	for i, f := range again.facts {
		if i < len(given.facts) && given.facts[i] != f {
			return &Difference{What: f.name, Given: given.facts[i].value, Again: f.value}, nil
		}
	}
	d, err := c.bytes(given, again)
	if d == nil || err != nil || again.split == nil || given.split == nil {
		return d, err
	}
	parts, err := again.split()
	if err != nil {
		return nil, err
	}
	have, err := given.split()
	if err != nil {
		d.Comment = fmt.Sprintf("it can't be read as %s: %s", given.kind, strings.ReplaceAll(err.Error(), "\n", "; "))
		return d, nil
	}
	below, err := c.parts(have, parts)
	if err != nil || below != nil {
		return below, err
	}
	d.Comment = "its parts are the same, and how they are put together is not"
	return d, nil
}

// parts compares two lists of parts by their names, in the order of again's.
func (c *comparison) parts(given, again []node) (*Difference, error) {
	for _, name := range union(given, again) {
		g, a := find(given, name), find(again, name)
		if g == nil || a == nil {
			return &Difference{Within: []string{name}, What: "it", Given: presence(g), Again: presence(a)}, nil
		}
		d, err := c.compare(*g, *a)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if d != nil {
			d.Within = append([]string{name}, d.Within...)
			return d, nil
		}
	}
	return nil, nil
}

// union is the names of two lists in the order of again's; one that only given has comes where given has it.
func union(given, again []node) []string {
	var names []string
	in := map[string]bool{}
	for _, a := range again {
		in[a.name] = true
	}
	rest := given
	for _, a := range again {
		if i := slices.IndexFunc(rest, func(n node) bool { return n.name == a.name }); i >= 0 {
			for _, only := range rest[:i] {
				if !in[only.name] {
					names = append(names, only.name)
				}
			}
			rest = rest[i+1:]
		}
		names = append(names, a.name)
	}
	for _, only := range rest {
		if !in[only.name] {
			names = append(names, only.name)
		}
	}
	return names
}

func find(list []node, name string) *node {
	for i := range list {
		if list[i].name == name {
			return &list[i]
		}
	}
	return nil
}

func presence(n *node) string {
	if n == nil {
		return "not there"
	}
	return "there"
}

// bytes compares the bytes of two nodes.
func (c *comparison) bytes(given, again node) (*Difference, error) {
	if given.open == nil || again.open == nil {
		return nil, nil
	}
	a, err := again.open()
	if err != nil {
		return nil, err
	}
	defer a.Close()
	g, err := given.open()
	if err != nil {
		return unreadable(err), nil
	}
	defer g.Close()
	var at int64
	x, y := bufio.NewReaderSize(g, 1<<20), bufio.NewReaderSize(a, 1<<20)
	for {
		if err := c.ctx.Err(); err != nil {
			return nil, err
		}
		p, gerr := x.Peek(1 << 16)
		q, aerr := y.Peek(1 << 16)
		if aerr != nil && aerr != io.EOF {
			return nil, aerr
		}
		n := min(len(p), len(q))
		if !bytes.Equal(p[:n], q[:n]) {
			i := mismatch(p, q)
			return byteDifference(at+int64(i), fmt.Sprintf("0x%02x", p[i]), fmt.Sprintf("0x%02x", q[i])), nil
		}
		switch {
		case len(p) == len(q) && n > 0:
			x.Discard(n)
			y.Discard(n)
			at += int64(n)
			continue
		case gerr != nil && gerr != io.EOF:
			return unreadable(gerr), nil
		case len(p) > n:
			return byteDifference(at+int64(n), fmt.Sprintf("0x%02x", p[n]), "the end"), nil
		case len(q) > n:
			return byteDifference(at+int64(n), "the end", fmt.Sprintf("0x%02x", q[n])), nil
		}
		return nil, nil
	}
}

func unreadable(err error) *Difference {
	return &Difference{What: "it", Given: "unreadable", Again: "readable", Comment: err.Error()}
}

func byteDifference(at int64, given, again string) *Difference {
	return &Difference{What: "byte", Offset: &at, Given: given, Again: again}
}

func mismatch(p, q []byte) int {
	for i := range p {
		if p[i] != q[i] {
			return i
		}
	}
	return len(p)
}
