// Package deb reads what Debian writes: control data (deb822), versions, dependency relations and .deb files.
//
// Words: a paragraph is one block of "Field: value" lines; a relation is one "name (>= version)" and a clause the
// relations that may stand for each other ("a | b"). A .deb is an ar archive of debian-binary, control.tar and
// data.tar (deb(5)).
//
// It reads bytes from outside, so every dimension is bounded. It is not for archives' indexes and signatures (see
// builder/archive), nor for choosing packages (see builder/plan), and it never runs a maintainer script.
package deb

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/slipway-os/slipway/builder/unxz"
)

// Limits bound what one .deb may hold. A zero field takes the default.
type Limits struct {
	Bytes   int64 // sum of all files' sizes after decompression
	Entries int   // files, folders and links
	Path    int   // bytes of one path or link target
	Control int64 // bytes of control.tar after decompression
}

// DefaultLimits are well above what an image's packages need (a full kernel package has about 5000 entries).
func DefaultLimits() Limits {
	return Limits{Bytes: 4 << 30, Entries: 500_000, Path: 4096, Control: 64 << 20}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	if l.Bytes == 0 {
		l.Bytes = d.Bytes
	}
	if l.Entries == 0 {
		l.Entries = d.Entries
	}
	if l.Path == 0 {
		l.Path = d.Path
	}
	if l.Control == 0 {
		l.Control = d.Control
	}
	return l
}

// tarOverhead is how many bytes a tar entry may take besides its content: header, padding, PAX and GNU long names.
const tarOverhead = 16 << 10

// ErrUnsafe is what errors about paths that leave the root, and about devices, wrap.
var ErrUnsafe = errors.New("unsafe entry")

// A Visitor gets every entry of a .deb. The header's name is a clean relative path (usr/bin/true); the type is a
// regular file, a directory, a symbolic or a hard link. A hard link's target is clean and relative to the root too; a
// symbolic link's target is as in the package, and does not climb out of the root. The reader ends with the entry and
// need not be read.
type Visitor func(hdr *tar.Header, content io.Reader) error

// Unpack hands every entry of a .deb's data.tar but the root directory itself to visit, in the package's order, and
// reads to the end: a cut file is an error even if its last entry is whole. Errors of visit are returned as they are.
// It needs no rights and writes nothing.
func Unpack(r io.ReaderAt, size int64, visit Visitor) error {
	return UnpackWithin(r, size, Limits{}, visit)
}

// UnpackWithin is Unpack with limits of the caller's.
func UnpackWithin(r io.ReaderAt, size int64, limits Limits, visit Visitor) error {
	limits = limits.withDefaults()
	member, name, err := find(r, size, "data.tar")
	if err != nil {
		return fmt.Errorf("cannot read .deb: %w", err)
	}
	total := limits.Bytes + int64(limits.Entries)*tarOverhead
	return walk(member, name, total, func(t *tar.Reader) error { return visitAll(t, limits, visit) })
}

// Control is the control file of a .deb.
func Control(r io.ReaderAt, size int64) (Paragraph, error) {
	var found Paragraph
	limits := DefaultLimits()
	member, name, err := find(r, size, "control.tar")
	if err != nil {
		return found, fmt.Errorf("cannot read .deb: %w", err)
	}
	err = walk(member, name, limits.Control, func(t *tar.Reader) error {
		found, err = controlFile(t)
		return err
	})
	return found, err
}

func controlFile(t *tar.Reader) (Paragraph, error) {
	for {
		hdr, err := t.Next()
		if err == io.EOF {
			return Paragraph{}, errors.New("no control file in control.tar")
		}
		if err != nil {
			return Paragraph{}, err
		}
		if path.Clean(hdr.Name) == "control" && hdr.Typeflag == tar.TypeReg {
			p, err := NewReader(t).Next()
			if err == io.EOF {
				err = errors.New("the control file is empty")
			}
			return p, err
		}
	}
}

// walk decompresses a member, gives it to use as a tar, then reads what is left so that checksums are checked.
func walk(member io.Reader, name string, limit int64, use func(*tar.Reader) error) error {
	plain, done, err := decompress(member, name)
	if err != nil {
		return fmt.Errorf("cannot read %s of .deb: %w", name, err)
	}
	defer done()
	bounded := &boundedReader{r: plain, left: limit}
	if err := use(tar.NewReader(bounded)); err != nil {
		if _, ours := err.(visitorError); ours {
			return errors.Unwrap(err)
		}
		return fmt.Errorf("cannot read %s of .deb: %w", name, unexpected(err))
	}
	if _, err := io.Copy(io.Discard, bounded); err != nil {
		return fmt.Errorf("cannot read %s of .deb: %w", name, unexpected(err))
	}
	if bounded.left == limit {
		return fmt.Errorf("cannot read %s of .deb: it is empty", name)
	}
	return nil
}

func visitAll(t *tar.Reader, limits Limits, visit Visitor) error {
	var bytes int64
	for entries := 0; ; entries++ {
		hdr, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if entries >= limits.Entries {
			return fmt.Errorf("more than %d entries", limits.Entries)
		}
		if bytes += hdr.Size; hdr.Size < 0 || bytes > limits.Bytes {
			return fmt.Errorf("%q: files of more than %d bytes", hdr.Name, limits.Bytes)
		}
		if err := clean(hdr, limits.Path); err != nil {
			return err
		}
		if hdr.Name == "." {
			continue
		}
		if err := visit(hdr, t); err != nil {
			return visitorError{err}
		}
	}
}

// visitorError marks an error as the visitor's own.
type visitorError struct{ error }

func (e visitorError) Unwrap() error { return e.error }

// clean makes the header's paths safe and plain, or says why it cannot.
func clean(hdr *tar.Header, limit int) error {
	name, err := inside(hdr.Name, limit)
	if err != nil {
		return err
	}
	link := hdr.Linkname
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeDir:
		link = ""
	case tar.TypeLink:
		if link, err = inside(link, limit); err != nil {
			return fmt.Errorf("hard link %q: %w", name, err)
		}
	case tar.TypeSymlink:
		if err := targetInside(name, link, limit); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%w: %q is neither file, directory nor link (tar type %q)", ErrUnsafe, name, hdr.Typeflag)
	}
	if hdr.Typeflag != tar.TypeDir && name == "." {
		return fmt.Errorf("%w: the root is not a directory", ErrUnsafe)
	}
	hdr.Name, hdr.Linkname = name, link
	return nil
}

// inside is p as a clean relative path. A leading "./" or "/" is taken off, as dpkg does; ".." is refused anywhere.
func inside(p string, limit int) (string, error) {
	if len(p) > limit {
		return "", fmt.Errorf("%w: a path of %d bytes (limit %d)", ErrUnsafe, len(p), limit)
	}
	if strings.ContainsRune(p, 0) {
		return "", fmt.Errorf("%w: %q holds a zero byte", ErrUnsafe, p)
	}
	for _, part := range strings.Split(p, "/") {
		if part == ".." {
			return "", fmt.Errorf("%w: %q climbs out of the root", ErrUnsafe, p)
		}
	}
	p = strings.TrimLeft(path.Clean("/"+p), "/")
	if p == "" {
		return ".", nil
	}
	return p, nil
}

// targetInside checks that a symbolic link's target, seen from the link's folder, stays in the root.
func targetInside(name, target string, limit int) error {
	if target == "" || len(target) > limit || strings.ContainsRune(target, 0) {
		return fmt.Errorf("%w: symbolic link %q has a bad target of %d bytes", ErrUnsafe, name, len(target))
	}
	if strings.HasPrefix(target, "/") {
		name = ""
	}
	depth := strings.Count(name, "/")
	for _, part := range strings.Split(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return fmt.Errorf("%w: symbolic link %q -> %q climbs out of the root", ErrUnsafe, name, target)
			}
		default:
			depth++
		}
	}
	return nil
}

// decompress picks the reader for a member by its name's extension (deb(5)).
func decompress(r io.Reader, name string) (io.Reader, func(), error) {
	r = bufio.NewReaderSize(r, 64<<10)
	switch ext := path.Ext(name); ext {
	case ".tar":
		return r, func() {}, nil
	case ".gz":
		z, err := gzip.NewReader(r)
		return z, func() {}, err
	case ".xz":
		return unxz.NewReader(r)
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(128<<20))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	default:
		return nil, nil, fmt.Errorf("compression %q is not known", ext)
	}
}

// boundedReader fails, instead of ending, when its limit is passed.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errors.New("it unpacks to more than is allowed")
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}

// unexpected makes an end in the wrong place look like one.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
