// Package layer keeps unpacked Debian packages in a cache folder, so that each is decompressed once and not once a bake.
//
// Words: a layer is one .deb's entries; it lies in two files named by the .deb's SHA-256: the contents one after the
// other (.data) and what they are (.json). Kernel modules are kept without their compression, and under the name they
// then have; a selection says which of them a layer has, because most of what a kernel's package costs are those that nobody
// wants. It does not download (builder/archive) and does not decide which entry wins (builder/rootfs).
package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/singleflight"

	"github.com/slipway-os/slipway/builder/deb"
	"github.com/slipway-os/slipway/builder/kmod"
	"github.com/slipway-os/slipway/builder/record"
	"github.com/slipway-os/slipway/builder/rootfs"
)

// format is part of the files' names: another one makes all layers anew.
const format = "v2"

// Layer is an unpacked package.
type Layer struct {
	About
	Entries []rootfs.Entry // in the package's order; their content is in the cache until it is read
}

// About is what a package's control data says, field by field as written there; what it doesn't say is empty.
type About struct {
	Package    string
	Version    string
	Source     string `json:",omitempty"`
	Maintainer string `json:",omitempty"`
	Homepage   string `json:",omitempty"`
	PreDepends string `json:",omitempty"`
	Depends    string `json:",omitempty"`
	Provides   string `json:",omitempty"`
	Replaces   string `json:",omitempty"`
}

func about(control deb.Paragraph) About {
	return About{
		Package: control.Get("Package"), Version: control.Get("Version"), Source: control.Get("Source"),
		Maintainer: control.Get("Maintainer"), Homepage: control.Get("Homepage"), PreDepends: control.Get("Pre-Depends"),
		Depends: control.Get("Depends"), Provides: control.Get("Provides"), Replaces: control.Get("Replaces"),
	}
}

// Needs says whether a package depends on another one, by its name or by one that it provides.
func (a About) Needs(other *Layer) bool {
	names := map[string]bool{other.Package: true}
	for _, r := range relations(other.Provides) {
		names[r.Name] = true
	}
	return slices.ContainsFunc(relations(a.PreDepends+", "+a.Depends), func(r deb.Relation) bool { return names[r.Name] })
}

// relations are all that a field names. What can't be read names nothing.
func relations(field string) []deb.Relation {
	clauses, err := deb.ParseRelations(strings.Trim(field, ", "))
	if err != nil {
		return nil
	}
	return slices.Concat(clauses...)
}

// stored is the .json file.
type stored struct {
	About
	Size    int64 // of the .data file
	Entries []storedEntry
}

type storedEntry struct {
	Path   string
	Type   rootfs.Type
	Mode   uint32
	UID    int               `json:",omitempty"`
	GID    int               `json:",omitempty"`
	Link   string            `json:",omitempty"`
	Xattrs map[string]string `json:",omitempty"`
	Offset int64             `json:",omitempty"`
	Size   int64             `json:",omitempty"`
	SHA256 []byte            `json:",omitempty"`
}

// Store is a folder of layers.
type Store struct {
	dir  string
	warn func(string)
	only Selection
	once *singleflight.Group // of those who want the same layer at the same time, one makes it
}

// Selection is which kernel modules of a package a layer has.
type Selection struct {
	Name string                 // part of the files' names: another one for everything that Keep decides by
	Keep func(path string) bool // of a module, by the name it has without compression
}

// Only is the same store with layers that have no other kernel modules than a selection's.
func (s *Store) Only(these Selection) *Store { return &Store{s.dir, s.warn, these, s.once} }

// NewStore uses a folder, which is made when it is missing. Warn is told of damage, perhaps by several goroutines; it may be nil.
func NewStore(dir string, warn func(string)) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make layer cache: %w", err)
	}
	if warn == nil {
		warn = func(string) {}
	}
	return &Store{dir: dir, warn: warn, once: &singleflight.Group{}}, nil
}

// Dir is the store's folder.
func (s *Store) Dir() string { return s.dir }

// Open is the layer of the .deb with that SHA-256. When it is not in the store yet, or not whole, the .deb is asked for,
// checked against the digest and unpacked. Several may open the same one at the same time, and get the same, which nobody may change.
func (s *Store) Open(digest string, path func() (string, error)) (*Layer, error) {
	l, err, _ := s.once.Do(s.file(digest, ""), func() (any, error) { return s.open(digest, path) })
	layer, _ := l.(*Layer)
	return layer, err
}

func (s *Store) open(digest string, path func() (string, error)) (*Layer, error) {
	layer, err := s.load(digest)
	if err == nil {
		return layer, nil
	}
	if _, there := os.Lstat(s.file(digest, ".json")); there == nil { // else it was never made, or not to its end
		if err := s.Drop(digest, err); err != nil {
			return nil, err
		}
	}
	deb, err := path()
	if err != nil {
		return nil, err
	}
	if err := s.make(digest, deb); err != nil {
		return nil, fmt.Errorf("cannot unpack %s: %w", filepath.Base(deb), err)
	}
	if s.only.Keep != nil {
		s.trim(digest)
	}
	return s.load(digest)
}

// kept is how many layers of one package with different selections stay in the store, the newest ones.
const kept = 3

// trim removes the older ones. What cannot be removed stays.
func (s *Store) trim(digest string) {
	found, err := filepath.Glob(filepath.Join(s.dir, digest+".*.data"))
	if err != nil {
		return
	}
	age := func(path string) int64 {
		if info, err := os.Stat(path); err == nil {
			return info.ModTime().UnixNano()
		}
		return 0
	}
	slices.SortFunc(found, func(a, b string) int { return cmp.Compare(age(b), age(a)) })
	for _, old := range found[min(kept, len(found)):] {
		_ = os.Remove(strings.TrimSuffix(old, ".data") + ".json")
		_ = os.Remove(old)
	}
}

// Check reads a layer whole and compares it with what it was when it was made.
func (s *Store) Check(digest string) error {
	l, err := s.load(digest)
	if err != nil {
		return err
	}
	for _, e := range l.Entries {
		if e.Type != rootfs.Regular {
			continue
		}
		if err := e.Content.CopyTo(io.Discard); err != nil {
			return fmt.Errorf("cannot read %s of %s: %w", e.Path, e.Origin, err)
		}
	}
	return nil
}

// Drop forgets a layer, so that the next Open makes it anew: for when its content turned out to be damaged, as why says.
func (s *Store) Drop(digest string, why error) error {
	if !errors.Is(why, record.ErrOld) {
		s.warn(fmt.Sprintf("unpacked package %.12s in the cache is damaged (%v): it is unpacked again", digest, why))
	}
	return errors.Join(os.RemoveAll(s.file(digest, ".json")), os.RemoveAll(s.file(digest, ".data")))
}

func (s *Store) file(digest, ext string) string {
	name := digest + "." + format
	if s.only.Keep != nil {
		name += "-" + s.only.Name
	}
	return filepath.Join(s.dir, name+ext)
}

func (s *Store) load(digest string) (*Layer, error) {
	text, err := os.ReadFile(s.file(digest, ".json"))
	if err != nil {
		return nil, err
	}
	var have stored
	if err := record.Decode(text, &have); err != nil {
		return nil, err
	}
	data := s.file(digest, ".data")
	info, err := os.Stat(data)
	if err != nil {
		return nil, err
	}
	if info.Size() != have.Size {
		return nil, fmt.Errorf("%s has %d bytes, not %d", data, info.Size(), have.Size)
	}
	l := &Layer{About: have.About}
	for _, e := range have.Entries {
		l.Entries = append(l.Entries, e.entry(data, "package "+have.Package))
	}
	return l, nil
}

func (e storedEntry) entry(data, origin string) rootfs.Entry {
	out := rootfs.Entry{Path: e.Path, Type: e.Type, Mode: e.Mode, UID: e.UID, GID: e.GID, Link: e.Link, Xattrs: e.Xattrs, Origin: origin}
	if e.Type == rootfs.Regular {
		out.Content = rootfs.Content{Size: e.Size, Open: func() (io.ReadCloser, error) { return openPart(data, e.Offset, e.Size) }}
		copy(out.Content.SHA256[:], e.SHA256)
	}
	return out
}

// part is a piece of a file, to be read from its beginning or (io.ReaderAt) anywhere.
type part struct {
	*io.SectionReader
	io.Closer
}

func openPart(path string, offset, size int64) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return part{io.NewSectionReader(f, offset, size), f}, nil
}

// make unpacks a .deb into the store: the contents first, then what they are.
func (s *Store) make(digest, path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := check(f, digest)
	if err != nil {
		return err
	}
	control, err := deb.Control(f, size)
	if err != nil {
		return err
	}
	w := writer{keep: s.only.Keep}
	w.About = about(control)
	err = whole(s.file(digest, ".data"), func(out io.Writer) error {
		w.out = out
		if err := deb.Unpack(f, size, w.visit); err != nil {
			return err
		}
		return w.finish()
	})
	if err != nil {
		return err
	}
	text, err := record.Encode(w.stored)
	if err != nil {
		return err
	}
	return whole(s.file(digest, ".json"), func(out io.Writer) error { _, err := out.Write(text); return err })
}

// check compares a file with its digest and tells its size.
func check(f *os.File, digest string) (int64, error) {
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err != nil {
		return 0, err
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != digest {
		return 0, fmt.Errorf("its SHA-256 is %s, not %s", got, digest)
	}
	return size, nil
}

// whole writes a file beside its place and puts it there. It need not be durable: a power cut's damage is found like any other.
func whole(path string, write func(io.Writer) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	buffered := bufio.NewWriterSize(tmp, 1<<20)
	if err := write(buffered); err != nil {
		return err
	}
	if err := errors.Join(buffered.Flush(), tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// writer writes contents one after another, in the order of the package. Kernel modules are decompressed meanwhile, many with one
// process and several such batches at once.
type writer struct {
	stored
	keep    func(path string) bool // which kernel modules there are; nil: all
	out     io.Writer
	open    *batch   // kernel modules that are being collected
	waiting []*batch // those that are being decompressed, in order
}

// batch is some kernel modules that are decompressed together.
type batch struct {
	entries []int // their indexes
	files   []kmod.Packed
	size    int // bytes, compressed
	plain   chan unpacked
}

type unpacked struct {
	data [][]byte
	err  error
}

// batchSize is how many compressed bytes a batch has, about.
const batchSize = 1 << 20

// begin has the open batch decompressed.
func (w *writer) begin() {
	b := w.open
	if b == nil {
		return
	}
	go func() {
		data, err := kmod.PlainAll(b.files)
		b.plain <- unpacked{data, err}
	}()
	w.open, w.waiting = nil, append(w.waiting, b)
}

// drain writes what waits, until no more than so many batches do.
func (w *writer) drain(most int) error {
	for len(w.waiting) > most {
		b := w.waiting[0]
		w.waiting = w.waiting[1:]
		u := <-b.plain
		if u.err != nil {
			return u.err
		}
		for i, data := range u.data {
			if err := w.write(&w.Entries[b.entries[i]], bytes.NewReader(data)); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish writes all that isn't written yet.
func (w *writer) finish() error {
	w.begin()
	return w.drain(0)
}

const xattrPrefix = "SCHILY.xattr."

func (w *writer) visit(h *tar.Header, content io.Reader) error {
	module := h.Typeflag == tar.TypeReg && kmod.IsModule(h.Name)
	if module && w.keep != nil && !w.keep(kmod.PlainName(h.Name)) {
		return nil
	}
	e := storedEntry{Path: h.Name, Mode: uint32(h.Mode & 0o7777), UID: h.Uid, GID: h.Gid, Link: h.Linkname}
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if name, ok := strings.CutPrefix(k, xattrPrefix); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = h.PAXRecords[k]
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		e.Type = rootfs.Directory
	case tar.TypeSymlink:
		e.Type = rootfs.Symlink
	case tar.TypeLink:
		e.Type = rootfs.HardLink
	default:
		e.Type = rootfs.Regular
		if module {
			return w.module(e, content)
		}
		if err := w.finish(); err != nil {
			return err
		}
		if err := w.write(&e, content); err != nil {
			return err
		}
	}
	w.Entries = append(w.Entries, e)
	return nil
}

// module collects a kernel module; it is written in its turn.
func (w *writer) module(e storedEntry, content io.Reader) error {
	packed, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	if w.open == nil {
		w.open = &batch{plain: make(chan unpacked, 1)}
	}
	b := w.open
	b.entries, b.files, b.size = append(b.entries, len(w.Entries)), append(b.files, kmod.Packed{File: e.Path, Data: packed}), b.size+len(packed)
	e.Path = kmod.PlainName(e.Path)
	w.Entries = append(w.Entries, e)
	if b.size < batchSize {
		return nil
	}
	w.begin()
	return w.drain(2 * runtime.GOMAXPROCS(0))
}

func (w *writer) write(e *storedEntry, content io.Reader) error {
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(w.out, h), content)
	if err != nil {
		return err
	}
	e.Offset, e.Size, e.SHA256 = w.Size, n, h.Sum(nil)
	w.Size += n
	return nil
}
