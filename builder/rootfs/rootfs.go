// Package rootfs is a file tree in memory and its deterministic encodings: tar for mksquashfs and OCI layers, newc cpio
// for initrds.
//
// Words: an entry is one path with its type, mode, owner and content; its origin is what brought it (a package, a
// component, a role's file) and is named when two origins disagree; an implicit directory is one that only has to be
// there because something lies in it.
//
// A tree holds no clock, no order and no file system: equal entries give equal bytes, whatever order they came in.
// Content stays where it is (a cache file, a build's result) until it is written, and is checked against its digest
// while it is read. It is not for what belongs into an image (builder/sysroot, builder/bake).
package rootfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
)

// Type is an entry's type.
type Type uint8

// The types of entries. A HardLink is only something to Add: in the tree it is a Regular that shares its inode.
const (
	Regular Type = iota + 1
	Directory
	Symlink
	HardLink
	CharDevice
	BlockDevice
)

func (t Type) String() string {
	switch t {
	case Regular:
		return "file"
	case Directory:
		return "directory"
	case Symlink:
		return "symbolic link"
	case HardLink:
		return "hard link"
	case CharDevice:
		return "character device"
	case BlockDevice:
		return "block device"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Entry is one path of a tree.
type Entry struct {
	Path    string            // relative and clean: usr/bin/true
	Type    Type              //
	Mode    uint32            // permissions with set-user-ID, set-group-ID and sticky bits, 0 to 07777
	UID     int               //
	GID     int               //
	Link    string            // a symbolic link's target as it is, a hard link's target as a path of the tree
	Content Content           // of a Regular
	Major   uint32            // of a device
	Minor   uint32            // of a device
	Xattrs  map[string]string // by full name: security.capability
	Origin  string            // who brought it, for messages: package systemd

	inode    string // equal in all hard links to the same file, empty when there is one name
	implicit bool   // a directory nobody asked for by name
}

// Content is a regular file's bytes: known by size and digest before they are read.
type Content struct {
	Size   int64
	SHA256 [sha256.Size]byte
	Open   func() (io.ReadCloser, error) // may be called many times
}

// Inline is content that is held in memory.
func Inline(data []byte) Content {
	return Content{
		Size:   int64(len(data)),
		SHA256: sha256.Sum256(data),
		Open:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
	}
}

// File is content in a file of the machine's, with the size and hexadecimal SHA-256 it is known to have.
func File(path string, size int64, digest string) (Content, error) {
	c := Content{Size: size, Open: func() (io.ReadCloser, error) { return os.Open(path) }}
	b, err := hex.DecodeString(digest)
	if err != nil || len(b) != sha256.Size {
		return Content{}, fmt.Errorf("cannot use %s: %q is not a SHA-256 value", path, digest)
	}
	copy(c.SHA256[:], b)
	return c, nil
}

// ErrDamaged is what reading content that is not what its size and digest say, or that is gone or unreadable, gives.
var ErrDamaged = errors.New("it is damaged")

// CopyTo writes the content to w; the error wraps ErrDamaged when it is not what size and digest say. What was written before a failure
// is of no use.
func (c Content) CopyTo(w io.Writer) error {
	r, err := c.Open()
	if err != nil {
		return lost(err)
	}
	defer r.Close()
	sum, in := sha256.New(), &source{r: r}
	n, err := io.Copy(io.MultiWriter(w, sum), io.LimitReader(in, c.Size+1))
	if in.err != nil {
		return lost(in.err)
	}
	if err != nil {
		return err
	}
	if n != c.Size {
		return fmt.Errorf("%w: not the %d bytes it had", ErrDamaged, c.Size)
	}
	if !bytes.Equal(sum.Sum(nil), c.SHA256[:]) {
		return fmt.Errorf("%w: not the SHA-256 %x it had", ErrDamaged, c.SHA256)
	}
	return nil
}

// source keeps the error of reading apart from that of writing.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != io.EOF {
		s.err = err
	}
	return n, err
}

// lost makes damage of an error that says that a file is gone or can't be read any more; others, such as too many open files,
// say nothing of the content.
func lost(err error) error {
	for _, is := range []error{fs.ErrNotExist, fs.ErrPermission, syscall.EIO, syscall.EISDIR, syscall.ENOTDIR, syscall.EUCLEAN, syscall.EBADMSG, syscall.ELOOP} {
		if errors.Is(err, is) {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	return err
}

// Bytes reads the content into memory, checked.
func (c Content) Bytes() ([]byte, error) {
	var b bytes.Buffer
	b.Grow(int(c.Size))
	err := c.CopyTo(&b)
	return b.Bytes(), err
}

// Tree is a file tree. The root directory itself (0755, root) is not an entry. It is not safe for concurrent changes.
type Tree struct {
	entries map[string]*Entry
}

// New is an empty tree.
func New() *Tree { return &Tree{entries: map[string]*Entry{}} }

// Len is the number of entries.
func (t *Tree) Len() int { return len(t.entries) }

// All is every entry in the order of its path, so that a directory comes before what lies in it.
func (t *Tree) All() []*Entry {
	all := make([]*Entry, 0, len(t.entries))
	for _, p := range slices.Sorted(maps.Keys(t.entries)) {
		all = append(all, t.entries[p])
	}
	return all
}

// Walk calls visit for every entry in the order of All and stops at the first error. The tree must not be changed
// meanwhile.
func (t *Tree) Walk(visit func(*Entry) error) error {
	for _, e := range t.All() {
		if err := visit(e); err != nil {
			return err
		}
	}
	return nil
}

// Dump is the tree as text for tests and for people: one line an entry, `path: mode owner what`.
//
//	usr/bin/true: 0755 0:0 2c26b46b68ff
//	lib: 0777 0:0 -> usr/lib
//	usr/bin/zcat: 0755 0:0 2c26b46b68ff = usr/bin/gunzip    (a hard link)
func (t *Tree) Dump() string {
	var b strings.Builder
	leaders := t.leaders()
	for _, e := range t.All() {
		fmt.Fprintf(&b, "%s: %04o %d:%d %s", e.Path, e.Mode, e.UID, e.GID, e.what())
		if l := leaders[e.inode]; l != "" && l != e.Path {
			fmt.Fprintf(&b, " = %s", l)
		}
		for _, k := range slices.Sorted(maps.Keys(e.Xattrs)) {
			fmt.Fprintf(&b, " %s=%x", k, e.Xattrs[k])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (e *Entry) what() string {
	switch e.Type {
	case Regular:
		return fmt.Sprintf("%x", e.Content.SHA256[:6])
	case Directory:
		return "directory"
	case Symlink:
		return "-> " + e.Link
	}
	return fmt.Sprintf("%s %d:%d", e.Type, e.Major, e.Minor)
}

// Digest is a SHA-256 over all that the encodings are made from: equal trees have equal digests, and nothing is read
// for it. Origins don't count.
func (t *Tree) Digest() [sha256.Size]byte {
	h := sha256.New()
	leaders := t.leaders()
	for _, e := range t.All() {
		fmt.Fprintf(h, "%q %d %o %d %d %q %d %d", e.Path, e.Type, e.Mode, e.UID, e.GID, e.Link, e.Major, e.Minor)
		if l := leaders[e.inode]; l != "" && l != e.Path {
			fmt.Fprintf(h, " = %q", l)
		}
		if e.Type == Regular {
			fmt.Fprintf(h, " %d %x", e.Content.Size, e.Content.SHA256)
		}
		for _, k := range slices.Sorted(maps.Keys(e.Xattrs)) {
			fmt.Fprintf(h, " %q=%q", k, e.Xattrs[k])
		}
		h.Write([]byte{'\n'})
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Leaders is, for each path of a file that has several, the first of its paths in order: the one with the content.
func (t *Tree) Leaders() map[string]string {
	names, first := map[string]int{}, t.leaders()
	for _, e := range t.entries {
		names[e.inode]++
	}
	leaders := map[string]string{}
	for p, e := range t.entries {
		if e.inode != "" && names[e.inode] > 1 {
			leaders[p] = first[e.inode]
		}
	}
	return leaders
}

// leaders is the first path, in order, of each shared inode: the one whose entry carries the content.
func (t *Tree) leaders() map[string]string {
	first := map[string]string{}
	for _, e := range t.All() {
		if _, seen := first[e.inode]; !seen && e.inode != "" {
			first[e.inode] = e.Path
		}
	}
	return first
}
