// Package document reads YAML documents that people write, strictly, into Go structs: every unknown field, duplicate
// key and wrong type is a Fault with its file, line, column and path, and all faults of a document are found at once.
//
// Words: a path names a value in a document like nodes[0].links[1].mac; a key that is not a plain word is quoted:
// nodes[0].labels["example.com/rack"].
//
// It knows nothing of what documents mean: the packages that own a document (profiles/cluster, profiles/role,
// builder/plan) check that and place their findings with Source.Fault. It is not for machine-made JSON.
package document

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of a document.
const (
	MaxSize   = 1 << 20 // bytes
	MaxDepth  = 64      // nested values, aliases followed
	MaxValues = 100_000 // values, counted each time an alias is followed
	MaxFaults = 100     // faults told; what is over is counted
)

// Fault is one thing wrong in a document.
type Fault struct {
	File      string
	Line, Col int    // from 1; Col 0 when it isn't known
	Path      string // empty for the document as a whole
	Message   string
	Hint      string // what to do about it; may be empty
}

// String is the fault on one line: file:line:col: path: message (hint).
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	if f.Col > 0 {
		fmt.Fprintf(&b, ":%d", f.Col)
	}
	if f.Path != "" {
		b.WriteString(": " + f.Path)
	}
	b.WriteString(": " + f.Message)
	if f.Hint != "" {
		b.WriteString(" (" + f.Hint + ")")
	}
	return b.String()
}

// Faults are all faults of a document, in the order of their position. They are an error.
type Faults []Fault

// Error has a line for each fault.
func (fs Faults) Error() string {
	var lines []string
	for i, f := range fs {
		if i == MaxFaults {
			lines = append(lines, fmt.Sprintf("and %d more", len(fs)-i))
			break
		}
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

// Err is fs sorted, as an error, or nil when there is none.
func (fs Faults) Err() error {
	if len(fs) == 0 {
		return nil
	}
	sorted := slices.Clone(fs)
	slices.SortStableFunc(sorted, func(a, b Fault) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Col - b.Col
	})
	return sorted
}

// Join adds what validation found to the error that Decode returned (nil or Faults). A found fault is left out where
// decoding has already found the same value, or one it lies in, to be wrong: it would say the same thing twice.
func Join(decoded error, found Faults) error {
	var fs Faults
	if decoded != nil && !errors.As(decoded, &fs) {
		return decoded
	}
	all := slices.Clone(fs)
	for _, f := range found {
		if !slices.ContainsFunc(fs, func(d Fault) bool { return covers(d.Path, f.Path) }) {
			all = append(all, f)
		}
	}
	return all.Err()
}

// covers says whether path is outer or lies in it.
func covers(outer, path string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (outer == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}

// Source is where a document's values stand in its file.
type Source struct {
	name string
	root *yaml.Node // nil when the document could not be parsed
}

// Decode reads one YAML document into out, a pointer to a struct with `yaml:"name"` tags (option inline for embedded
// structs; fields without a tag, or with "-", are not read). It fills in what is right even when something else is
// wrong, so that validation can go on; the Source is never nil. The error is Faults.
//
// Kinds it knows: structs, maps with string keys, slices, pointers, strings, integers, floats, bools, time.Duration,
// any, and what implements encoding.TextUnmarshaler (its error may have a method Hint() string). A null leaves the
// zero value. Anchors and aliases work within bounds; merge keys (<<) and tags do not.
func Decode(name string, data []byte, out any) (*Source, error) {
	s := &Source{name: name}
	fault := func(line int, message, hint string) error {
		return Faults{{File: name, Line: line, Message: message, Hint: hint}}
	}
	if len(data) > MaxSize {
		return s, fault(0, fmt.Sprintf("%d bytes are over the limit of %d", len(data), MaxSize), "")
	}
	parser := yaml.NewDecoder(bytes.NewReader(data))
	var root yaml.Node
	if err := parser.Decode(&root); errors.Is(err, io.EOF) {
		return s, fault(1, "the document is empty", "")
	} else if err != nil {
		return s, syntaxFault(name, err)
	}
	var next yaml.Node
	if err := parser.Decode(&next); err == nil {
		return s, fault(next.Line, "a second document begins here", "one file holds one document; remove what follows ---")
	} else if !errors.Is(err, io.EOF) {
		return s, syntaxFault(name, err)
	}
	if len(root.Content) != 1 {
		return s, fault(1, "the document is empty", "")
	}
	s.root = root.Content[0]
	d := decoder{source: s}
	d.value("", s.root, reflect.ValueOf(out).Elem(), 0)
	return s, d.faults.Err()
}

var syntaxError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// syntaxFault places an error of the YAML parser. It gives lines only.
func syntaxFault(name string, err error) error {
	f := Fault{File: name, Line: 1, Message: "not valid YAML: " + err.Error()}
	if m := syntaxError.FindStringSubmatch(strings.SplitN(err.Error(), "\n", 2)[0]); m != nil {
		f.Message = "not valid YAML: " + m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			f.Line = n
		}
	}
	if strings.Contains(f.Message, "cannot start any token") || strings.Contains(f.Message, "tab") {
		f.Hint = "indent with spaces, and quote text that begins with a special character"
	}
	return Faults{f}
}
