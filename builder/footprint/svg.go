package footprint

import (
	"bufio"
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Size of a picture in pixels, and of what is in it.
const (
	width  = 1600.0
	height = 1060.0
	margin = 20.0
	top    = 118.0 // where the map begins: below title and legend
)

// mapArea is where the map lies.
var mapArea = rect{margin, top, width - 2*margin, height - top - margin}

// ink is a class's colours: of the frame around its parts, and of a part. On all of them #111 has a contrast of 7:1 or more
// (WCAG 2.2, 1.4.6). Hues are Okabe and Ito's, which people with colour blindness tell apart.
type ink struct{ frame, fill string }

var inks = map[Class]ink{
	Mixed:      {"#e6e6e6", "#f2f2f2"},
	Kernel:     {"#7cc3ec", "#bfe0f5"},
	Components: {"#f0b440", "#f9dda6"},
	Containers: {"#5cc4a3", "#b3e4d5"},
	Packages:   {"#dd9cc0", "#f0d3e3"},
	Own:        {"#e9de4f", "#f7f2b0"},
	Overhead:   {"#bdbdbd", "#dedede"},
}

// legend is in this order.
var legend = []Class{Kernel, Components, Containers, Packages, Own, Overhead}

// SVG writes a picture of a tree: a treemap, areas in proportion to bytes (SVG 1.1). It is one file, without scripts and without
// anything from elsewhere; what a part is, is told when the pointer rests on it too.
func (n *Node) SVG(w io.Writer) error {
	out := bufio.NewWriter(w)
	p := &picture{w: out, whole: n.Bytes}
	title := n.Name + ": where the bytes are"
	fmt.Fprintf(out, `<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" role="img" aria-labelledby="title about" font-family="'DejaVu Sans', Verdana, Arial, sans-serif" fill="#111">
<title id="title">%s</title>
<desc id="about">%s</desc>
<rect width="100%%" height="100%%" fill="#fff"/>
`, width, height, width, height, text(title), text(n.words()))
	p.label(margin, 42, 26, true, title)
	p.label(margin, 68, 14, false, n.words())
	p.legend()
	p.inside(gather(n.Children, mapArea.w*mapArea.h, n.Bytes), mapArea, 1)
	fmt.Fprintln(out, "</svg>")
	return out.Flush()
}

// words say what the picture shows.
func (n *Node) words() string {
	var parts []string
	for _, c := range n.Children {
		parts = append(parts, fmt.Sprintf("%s %s (%s)", c.Name, megabytes(c.Bytes), percent(c.Bytes, n.Bytes)))
	}
	return fmt.Sprintf("%s: %s. Areas are bytes in the artifacts, compressed.", megabytes(n.Bytes), strings.Join(parts, ", "))
}

type picture struct {
	w     *bufio.Writer
	whole int64
}

func (p *picture) legend() {
	x := margin
	for _, c := range legend {
		fmt.Fprintf(p.w, `<rect x="%.1f" y="84" width="18" height="18" fill="%s" stroke="#555"/>`+"\n", x, inks[c].frame)
		p.label(x+25, 98, 14, false, titles[c])
		x += 25 + textWidth(titles[c], 14, false) + 28
	}
}

// Parts smaller than this, in square pixels, are drawn as one.
const smallest = 110.0

// inside draws parts into an area.
func (p *picture) inside(list []*Node, area rect, level int) {
	for i, r := range squarify(weights(list), area) {
		p.part(list[i], r, level)
	}
}

// flat is a node's children; one that has nearly all of it is replaced by its own, so that frames don't lie in frames for nothing.
func flat(n *Node) []*Node {
	list := slices.Clone(n.Children)
	for len(list) > 0 && len(list[0].Children) > 0 && float64(list[0].Bytes) >= 0.95*float64(n.Bytes) {
		list = append(slices.Clone(list[0].Children), list[1:]...)
		slices.SortStableFunc(list, func(a, b *Node) int { return cmp.Compare(b.Bytes, a.Bytes) })
	}
	return list
}

// gather puts the smallest together. Children are sorted, the largest first.
func gather(children []*Node, area float64, whole int64) []*Node {
	var list []*Node
	rest := &Node{}
	count := 0
	for _, c := range children {
		switch {
		case c.Bytes <= 0:
			continue
		case float64(c.Bytes)/float64(whole)*area >= smallest:
			list = append(list, c)
			continue
		}
		if count++; count == 1 {
			rest.Class = c.Class
		} else if rest.Class != c.Class {
			rest.Class = Mixed
		}
		rest.Bytes, rest.Unpacked, rest.Files = rest.Bytes+c.Bytes, rest.Unpacked+c.Unpacked, rest.Files+c.Files
		rest.Name = c.Name
	}
	if count > 1 {
		rest.Name = fmt.Sprintf("%d smaller", count)
	}
	if count > 0 {
		list = append(list, rest)
	}
	return list
}

func weights(list []*Node) []float64 {
	out := make([]float64, len(list))
	for i, n := range list {
		out[i] = float64(n.Bytes)
	}
	return out
}

// part draws a node: a frame around its parts where there is room for several, else an area.
func (p *picture) part(n *Node, r rect, level int) {
	if n.Name == titles[n.Class] && len(n.Children) == 1 {
		n = n.Children[0] // the colour says of what
	}
	size := max(17-2*float64(level), 11)
	inner := rect{r.x + 3, r.y + size + 8, r.w - 6, r.h - size - 11}
	var parts []*Node
	if inner.w >= 60 && inner.h >= 34 && fit(n.Name, r.w-9, size, true) != "" {
		parts = gather(flat(n), inner.w*inner.h, n.Bytes)
	}
	frame := len(parts) > 1
	colour := inks[n.Class].fill
	if frame {
		colour = inks[n.Class].frame
	}
	fmt.Fprintf(p.w, `<g><title>%s</title><rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" stroke="#fff"/>`, text(p.tip(n)), r.x, r.y, r.w, r.h, colour)
	if frame {
		p.heading(n, r, size)
	} else {
		p.name(n, r, min(max(math.Sqrt(r.w*r.h)/12, 11), 17))
	}
	fmt.Fprintln(p.w, "</g>")
	if frame {
		p.inside(parts, inner, level+1)
	}
}

// tip is what the pointer is told.
func (p *picture) tip(n *Node) string {
	name := n.Name
	if n.Path != "" {
		name = n.Path
	}
	words := fmt.Sprintf("%s: %s, %s of the image", name, megabytes(n.Bytes), percent(n.Bytes, p.whole))
	if n.Files > 1 {
		words += fmt.Sprintf("; %d files", n.Files)
	}
	if n.Unpacked > 0 {
		words += fmt.Sprintf("; %s unpacked", megabytes(n.Unpacked))
	}
	return words
}

// sizes are a node's size in words, the longest first.
func (p *picture) sizes(n *Node) []string {
	return []string{megabytes(n.Bytes) + " · " + percent(n.Bytes, p.whole), megabytes(n.Bytes)}
}

// heading is the name on a frame, with the size where that fits too: cut or smaller, if need be.
func (p *picture) heading(n *Node, r rect, size float64) {
	const gap = 8
	room := func(size float64, words string) bool {
		return textWidth(n.Name, size, true)+gap+textWidth(words, size, false) <= r.w-9
	}
	for _, words := range p.sizes(n) {
		for s := size; s >= 11; s-- {
			if room(s, words) {
				fmt.Fprintf(p.w, `<text x="%.1f" y="%.1f" font-size="%.0f" pointer-events="none"><tspan font-weight="bold">%s</tspan><tspan dx="%d">%s</tspan></text>`,
					r.x+5, r.y+size+2, s, text(n.Name), gap, text(words))
				return
			}
		}
	}
	p.label(r.x+5, r.y+size+2, size, true, fit(n.Name, r.w-9, size, true))
}

// name is the label of an area: upright where it is too narrow, smaller or cut where it doesn't fit, or none.
func (p *picture) name(n *Node, r rect, size float64) {
	upright := r.h > 1.5*r.w && textWidth(n.Name, size, false) > r.w-8
	w, h := r.w, r.h
	if upright {
		w, h = h, w
	}
	for textWidth(n.Name, size, false) > w-8 && size > 10 {
		size--
	}
	words := fit(n.Name, w-8, size, false)
	if words == "" || size+5 > h {
		return
	}
	if upright {
		fmt.Fprintf(p.w, `<g transform="translate(%.1f %.1f) rotate(90)">`, r.x+r.w, r.y)
		defer fmt.Fprint(p.w, "</g>")
		r = rect{0, 0, w, h}
	}
	p.label(r.x+4, r.y+size+2, size, false, words)
	for _, more := range p.sizes(n) {
		if 2*size+9 <= h && textWidth(more, size, false) <= w-8 {
			p.label(r.x+4, r.y+2*size+5, size, false, more)
			return
		}
	}
}

func (p *picture) label(x, y, size float64, bold bool, words string) {
	weight := ""
	if bold {
		weight = ` font-weight="bold"`
	}
	fmt.Fprintf(p.w, `<text x="%.1f" y="%.1f" font-size="%.0f"%s pointer-events="none">%s</text>`, x, y, size, weight, text(words))
}

// text is text as XML has it. What XML has no way to say becomes U+FFFD.
func text(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder takes everything
	return b.String()
}

// fit is as much of a text as a width takes; empty where that says nothing.
func fit(s string, width, size float64, bold bool) string {
	if textWidth(s, size, bold) <= width {
		return s
	}
	runes := []rune(s)
	for n := len(runes) - 1; n >= 4; n-- {
		if cut := string(runes[:n]) + "…"; textWidth(cut, size, bold) <= width {
			return cut
		}
	}
	return ""
}

// textWidth is how wide a text is at most: widths of DejaVu Sans and Verdana, the widest of the fonts asked for.
func textWidth(s string, size float64, bold bool) float64 {
	w := 0.0
	for _, r := range s {
		switch {
		case strings.ContainsRune("ijl|!'.,:; ", r):
			w += 0.37
		case strings.ContainsRune("ftr()[]-/I", r):
			w += 0.46
		case strings.ContainsRune("mwMW@%…", r):
			w += 1.0
		case r >= 'A' && r <= 'Z':
			w += 0.76
		case r > 0x2e7f:
			w += 1.05
		default:
			w += 0.65
		}
	}
	if bold {
		w *= 1.13
	}
	return w * size
}
