package plan

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/document"
)

// maxParts bounds the documents of one definition.
const maxParts = 100

// part is one document of a definition.
type part struct {
	name     string // path in the images folder
	document Definition
	source   *document.Source
	data     []byte

	architectures []*architecture // those beside it
}

// loader reads a definition's documents, included ones first, each once.
type loader struct {
	images fs.FS
	folder string // the images folder, for messages
	parts  []*part
	names  []string // of all documents that were begun, in the order they were met
	open   []step   // being read, for cycles
	broken bool     // a document could not be read: what the whole lacks is not known
	faults document.Faults
}

// step is a document that includes the next one, and where it does.
type step struct {
	name string
	at   document.Fault
}

// faultAt makes a fault at the place that asks for a document.
type faultAt func(message, hint string) document.Fault

// shown is a document's name in messages.
func (l *loader) shown(name string) string { return filepath.Join(l.folder, filepath.FromSlash(name)) }

// missing places faults of the first document, which nobody includes.
func (l *loader) missing(name string) faultAt {
	return func(message, hint string) document.Fault {
		return document.Fault{File: l.shown(name), Message: message, Hint: hint}
	}
}

// load reads a document and, before it, what it includes.
func (l *loader) load(name string, at faultAt) {
	if chain := l.chain(name); chain != "" {
		l.fail(at("the definitions include each other: "+chain, "one of them must not"))
		return
	}
	if slices.ContainsFunc(l.parts, func(p *part) bool { return p.name == name }) {
		return
	}
	if len(l.names) >= maxParts {
		l.fail(at(fmt.Sprintf("the definition has over %d documents", maxParts), ""))
		return
	}
	data, err := readSmall(l.images, name, document.MaxSize+1) // over the limit: Decode says so
	if err != nil {
		l.fail(at(fmt.Sprintf("cannot read %s: %v", l.shown(name), reason(err)), "paths are relative to the file that names them, and stay in the images folder"))
		return
	}
	p := &part{name: name, data: data}
	l.names = append(l.names, name)
	p.source, err = document.Decode(l.shown(name), data, &p.document)
	l.faults = append(l.faults, checkPart(p, err)...)
	l.loadArchitectures(p)
	for i, include := range p.document.Include {
		field := document.Index("include", i)
		fault := func(message, hint string) document.Fault { return p.source.Fault(field, message, hint) }
		l.open = append(l.open, step{name, fault("", "")})
		if target, err := p.beside(include); err != nil {
			l.fail(fault(err.Error(), "keep it in the images folder"))
		} else {
			l.load(target, fault)
		}
		l.open = l.open[:len(l.open)-1]
	}
	l.parts = append(l.parts, p)
}

func (l *loader) fail(f document.Fault) {
	l.faults = append(l.faults, f)
	l.broken = true
}

// chain is the way from a document to itself, with the place of each include, or nothing.
func (l *loader) chain(name string) string {
	from := slices.IndexFunc(l.open, func(s step) bool { return s.name == name })
	if from < 0 {
		return ""
	}
	var words []string
	for _, s := range l.open[from:] {
		words = append(words, fmt.Sprintf("%s:%d:%d", s.at.File, s.at.Line, s.at.Col))
	}
	return strings.Join(append(words, l.shown(name)), " -> ")
}

// beside is a path that a document names, as a path in the images folder.
func (p *part) beside(name string) (string, error) {
	if name == "" || path.IsAbs(name) || strings.ContainsAny(name, "\\\x00") {
		return "", fmt.Errorf("%q is not a path relative to this file", name)
	}
	joined := path.Join(path.Dir(p.name), name)
	if !fs.ValidPath(joined) || joined == "." {
		return "", fmt.Errorf("%q is outside of the images folder", name)
	}
	return joined, nil
}

// readSmall reads a regular file of at most limit bytes; what is over is cut off.
func readSmall(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, cmp.Or(err, errors.New("it is not a regular file"))
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// reason is an error of a file without the path, which messages have already.
func reason(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// sorted has the faults by document, in the order in which documents were met, and by position.
func (l *loader) sorted(faults document.Faults) document.Faults {
	order := map[string]int{}
	for i, name := range l.names {
		order[l.shown(name)] = i
	}
	slices.SortStableFunc(faults, func(a, b document.Fault) int {
		return cmp.Or(cmp.Compare(order[a.File], order[b.File]), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return faults
}
