package document

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// join adds a key to a path.
func join(path, key string) string {
	plain := key != "" && !strings.ContainsFunc(key, func(r rune) bool {
		return !(r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	})
	switch {
	case !plain:
		return fmt.Sprintf("%s[%q]", path, key)
	case path == "":
		return key
	default:
		return path + "." + key
	}
}

// Key is path with a key of a mapping added, quoted where it must be.
func Key(path, key string) string { return join(path, key) }

// Index is path with an index of a list added.
func Index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// step is one element of a path: a key, or an index when key is empty.
type step struct {
	key   string
	index int
}

// split reads a path as join and Index write it. What it can't read ends the path there.
func split(path string) []step {
	var steps []step
	for path != "" {
		if path[0] != '[' {
			path = strings.TrimPrefix(path, ".")
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			if end == 0 {
				return steps
			}
			steps = append(steps, step{key: path[:end]})
			path = path[end:]
			continue
		}
		if quoted, err := strconv.QuotedPrefix(path[1:]); err == nil {
			key, _ := strconv.Unquote(quoted)
			steps = append(steps, step{key: key})
			path = strings.TrimPrefix(path[1+len(quoted):], "]")
			continue
		}
		digits, rest, ok := strings.Cut(path[1:], "]")
		n, err := strconv.Atoi(digits)
		if !ok || err != nil || n < 0 {
			return steps
		}
		steps = append(steps, step{index: n})
		path = rest
	}
	return steps
}

// Fault is a fault at the value that path names, or at the nearest value around it when the document doesn't have it.
// A value of several lines is pointed at by its key.
func (s *Source) Fault(path, message, hint string) Fault {
	f := Fault{File: s.name, Path: path, Message: message, Hint: hint}
	if s.root == nil {
		return f
	}
	at, value := s.root, s.root
	for _, st := range split(path) {
		position, next := child(resolve(value), st)
		if next == nil {
			break
		}
		at, value = position, next
	}
	f.Line, f.Col = at.Line, at.Column
	return f
}

// Has says whether the document itself sets the value at path (to anything but null).
func (s *Source) Has(path string) bool {
	value := s.root
	for _, st := range split(path) {
		if value == nil {
			return false
		}
		_, value = child(resolve(value), st)
	}
	return value != nil && resolve(value).ShortTag() != "!!null"
}

func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// child finds a step below n: the node whose position stands for it, and its value.
func child(n *yaml.Node, st step) (position, value *yaml.Node) {
	switch {
	case n.Kind == yaml.SequenceNode && st.key == "" && st.index < len(n.Content):
		v := n.Content[st.index]
		return v, v
	case n.Kind == yaml.MappingNode && st.key != "":
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value != st.key {
				continue
			}
			v := n.Content[i+1]
			if v.Kind == yaml.ScalarNode && v.Value != "" || v.Kind == yaml.AliasNode || v.Style&yaml.FlowStyle != 0 {
				return v, v
			}
			return n.Content[i], v
		}
	}
	return nil, nil
}

// suggest is the hint for a name that isn't known.
func suggest(name string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if d := edits(strings.ToLower(name), strings.ToLower(k)); d < distance && d < max(2, len(name)/2+1) {
			best, distance = k, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	known = slices.Sorted(slices.Values(known))
	if len(known) == 0 {
		return ""
	}
	return "known fields: " + strings.Join(known, ", ")
}

// Suggest is a hint for a word that must be one of known: the nearest one, or all.
func Suggest(word string, known []string) string {
	hint := suggest(word, known)
	return strings.Replace(hint, "known fields: ", "one of: ", 1)
}

// edits is the Levenshtein distance of two short words, up to 64 bytes of each.
func edits(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
