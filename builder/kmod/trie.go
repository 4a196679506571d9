package kmod

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
)

// trie is a binary index as libkmod reads it (kmod, libkmod/libkmod-index.c): a header of magic, version and the root
// node's offset, all big endian, then nodes, children before their parents. An offset's top bits say what a node has.
type trie struct{ entries []trieEntry }

type trieEntry struct {
	key, value string
	priority   int // of equal keys, the lower comes first
}

const (
	trieMagic   = 0xB007F457
	trieVersion = 0x00020001

	hasPrefix   = 0x80000000
	hasValues   = 0x40000000
	hasChildren = 0x20000000
)

// add takes a value for a key of 7-bit characters.
func (t *trie) add(key, value string, priority int) {
	t.entries = append(t.entries, trieEntry{key, value, priority})
}

func (t *trie) encode() []byte {
	slices.SortStableFunc(t.entries, func(a, b trieEntry) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.priority, b.priority), cmp.Compare(a.value, b.value))
	})
	t.entries = slices.Compact(t.entries)
	w := trieWriter{out: make([]byte, 12)}
	root := w.node(t.entries, 0)
	binary.BigEndian.PutUint32(w.out[0:], trieMagic)
	binary.BigEndian.PutUint32(w.out[4:], trieVersion)
	binary.BigEndian.PutUint32(w.out[8:], root)
	return w.out
}

type trieWriter struct{ out []byte }

// node writes the node of sorted entries whose keys agree in their first at bytes, and returns its offset with flags.
func (w *trieWriter) node(entries []trieEntry, at int) uint32 {
	var prefix string
	if len(entries) > 0 {
		prefix = common(entries[0].key[at:], entries[len(entries)-1].key[at:])
	}
	end := at + len(prefix)
	var values []trieEntry
	for len(entries) > 0 && len(entries[0].key) == end {
		values, entries = append(values, entries[0]), entries[1:]
	}
	children := w.children(entries, end)
	offset := uint32(len(w.out))
	if prefix != "" {
		offset |= hasPrefix
		w.text(prefix)
	}
	if len(children) > 0 {
		offset |= hasChildren
		w.out = append(w.out, entries[0].key[end], entries[len(entries)-1].key[end])
		for _, c := range children {
			w.number(c)
		}
	}
	if len(values) > 0 {
		offset |= hasValues
		w.number(uint32(len(values)))
		for _, v := range values {
			w.number(uint32(v.priority))
			w.text(v.value)
		}
	}
	return offset
}

// children writes the nodes below: one offset for each byte from the first to the last that follows, 0 for none.
func (w *trieWriter) children(entries []trieEntry, at int) []uint32 {
	if len(entries) == 0 {
		return nil
	}
	first, last := entries[0].key[at], entries[len(entries)-1].key[at]
	offsets := make([]uint32, int(last)-int(first)+1)
	for len(entries) > 0 {
		c := entries[0].key[at]
		n := slices.IndexFunc(entries, func(e trieEntry) bool { return e.key[at] != c })
		if n < 0 {
			n = len(entries)
		}
		offsets[c-first] = w.node(entries[:n], at+1)
		entries = entries[n:]
	}
	return offsets
}

func (w *trieWriter) text(s string)   { w.out = append(append(w.out, s...), 0) }
func (w *trieWriter) number(n uint32) { w.out = binary.BigEndian.AppendUint32(w.out, n) }

func common(a, b string) string {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return strings.Clone(a[:n])
}
