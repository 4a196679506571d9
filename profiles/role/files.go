package role

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/document"
)

// Bounds of a role's files.
const (
	MaxFiles    = 10_000   // in one role's folder
	MaxFileSize = 64 << 20 // bytes
)

const filesFolder = "files"

// readFile reads a file of at most limit bytes; what is over is cut off.
func readFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// readFiles reads what a part puts into the image: its folder of files, and its links.
func readFiles(p *part) ([]File, document.Faults) {
	r := &fileReader{part: p, root: path.Join(p.name(), filesFolder)}
	if _, err := fs.Stat(p.fsys, r.root); err == nil {
		if err := fs.WalkDir(p.fsys, r.root, r.visit); err != nil {
			r.fault(r.root, err.Error(), "")
		}
	}
	for i, at := range p.document.Executable {
		if !slices.ContainsFunc(r.files, func(f File) bool { return f.Path == at }) {
			r.faults = append(r.faults, p.source.Fault(document.Index("executable", i), fmt.Sprintf("%s is not among this role's files", at), ""))
		}
	}
	for _, at := range slices.Sorted(maps.Keys(p.document.Links)) {
		if slices.ContainsFunc(r.files, func(f File) bool { return f.Path == at }) {
			r.faults = append(r.faults, p.source.Fault(document.Key("links", at), "is among this role's files too", "remove one"))
			continue
		}
		r.files = append(r.files, File{Path: at, Mode: 0o777, Link: p.document.Links[at]})
	}
	return r.files, r.faults
}

type fileReader struct {
	part   *part
	root   string // worker/files
	files  []File
	faults document.Faults
}

func (r *fileReader) fault(name, message, hint string) {
	r.faults = append(r.faults, document.Fault{File: name, Message: message, Hint: hint})
}

func (r *fileReader) visit(name string, entry fs.DirEntry, err error) error {
	at := strings.TrimPrefix(name, r.root)
	switch {
	case err != nil:
		r.fault(name, err.Error(), "")
	case entry.IsDir():
	case len(r.files) == MaxFiles:
		r.fault(r.root, fmt.Sprintf("holds over %d files", MaxFiles), "make a component or a package of them")
		return fs.SkipAll
	case entry.Type()&fs.ModeSymlink != 0:
		r.fault(name, "is a symbolic link", "name it under links in the role's document")
	case !entry.Type().IsRegular():
		r.fault(name, "is not a regular file", "")
	case Misplaced(at) != "":
		r.fault(name, Misplaced(at), "")
	default:
		r.read(name, at)
	}
	return nil
}

func (r *fileReader) read(name, at string) {
	content, err := readFile(r.part.fsys, name, MaxFileSize+1)
	switch {
	case err != nil:
		r.fault(name, err.Error(), "")
		return
	case len(content) > MaxFileSize:
		r.fault(name, fmt.Sprintf("is over %d MiB", MaxFileSize>>20), "make a component or a package of it")
		return
	}
	mode := uint32(0o644)
	if slices.Contains(r.part.document.Executable, at) {
		mode = 0o755
	}
	r.files = append(r.files, File{Path: at, Mode: mode, Content: content})
}
