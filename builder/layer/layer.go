// Package layer keeps unpacked Debian packages in a cache folder, so that each is decompressed once and not once a bake.
//
// Words: a layer is one .deb's entries; it lies in two files named by the .deb's SHA-256: the contents one after the
// other (.data) and what they are (.json). Kernel modules are kept without their compression, and under the name they
// then have. It does not download (builder/archive) and does not decide which entry wins (builder/rootfs).
package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
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
}

// NewStore uses a folder, which is made when it is missing. Warn is told of damage, perhaps by several goroutines; it may be nil.
func NewStore(dir string, warn func(string)) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make layer cache: %w", err)
	}
	if warn == nil {
		warn = func(string) {}
	}
	return &Store{dir, warn}, nil
}

// Dir is the store's folder.
func (s *Store) Dir() string { return s.dir }

// Open is the layer of the .deb with that SHA-256. When it is not in the store yet, or not whole, the .deb is asked for,
// checked against the digest and unpacked.
func (s *Store) Open(digest string, path func() (string, error)) (*Layer, error) {
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
	return s.load(digest)
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
	return filepath.Join(s.dir, digest+"."+format+ext)
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

// make unpacks a .deb into the store: the contents first, then, when they are safe, what they are.
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
	w := writer{}
	w.About = about(control)
	err = whole(s.file(digest, ".data"), func(out io.Writer) error {
		w.out = out
		if err := deb.Unpack(f, size, w.visit); err != nil {
			return err
		}
		return w.drain(0)
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

// whole writes a file beside its place, makes it durable and puts it there.
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
	if err := errors.Join(buffered.Flush(), tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// writer writes contents one after another, in the order of the package. Kernel modules are decompressed meanwhile, several at once.
type writer struct {
	stored
	out     io.Writer
	waiting []pending // contents that aren't written yet, in order
}

// pending is the content of an entry, when it is there.
type pending struct {
	entry   int // its index
	content chan unpacked
}

type unpacked struct {
	data []byte
	err  error
}

// drain writes what waits, until no more than so many contents do.
func (w *writer) drain(most int) error {
	for len(w.waiting) > most {
		p := w.waiting[0]
		w.waiting = w.waiting[1:]
		u := <-p.content
		if u.err != nil {
			return u.err
		}
		if err := w.write(&w.Entries[p.entry], bytes.NewReader(u.data)); err != nil {
			return err
		}
	}
	return nil
}

const xattrPrefix = "SCHILY.xattr."

func (w *writer) visit(h *tar.Header, content io.Reader) error {
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
		if err := w.file(&e, content); err != nil {
			return err
		}
	}
	w.Entries = append(w.Entries, e)
	return nil
}

func (w *writer) file(e *storedEntry, content io.Reader) error {
	if kmod.IsModule(e.Path) {
		return w.module(e, content)
	}
	if err := w.drain(0); err != nil {
		return err
	}
	return w.write(e, content)
}

// module has a kernel module decompressed; it is written in its turn.
func (w *writer) module(e *storedEntry, content io.Reader) error {
	packed, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	name, done := e.Path, make(chan unpacked, 1)
	e.Path = kmod.PlainName(name)
	go func() {
		data, err := kmod.Plain(name, bytes.NewReader(packed))
		done <- unpacked{data, err}
	}()
	w.waiting = append(w.waiting, pending{len(w.Entries), done})
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
