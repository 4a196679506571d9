package rootfs

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"time"
)

// WriteTar writes the tree as a tar archive (POSIX.1-2001: extended headers where a path, an id or an extended attribute
// needs one). Every time is epoch, in Unix seconds. The first entry is the root directory.
func (t *Tree) WriteTar(w io.Writer, epoch int64) error {
	buffered := bufio.NewWriterSize(w, 1<<20)
	out := tar.NewWriter(buffered)
	at := time.Unix(epoch, 0).UTC()
	root := tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755, ModTime: at}
	if err := out.WriteHeader(&root); err != nil {
		return err
	}
	leaders := t.leaders()
	for _, e := range t.All() {
		if err := writeTarEntry(out, e, leaders[e.inode], at); err != nil {
			return fmt.Errorf("cannot write %s of %s: %w", e.Path, e.from(), err)
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

func writeTarEntry(out *tar.Writer, e *Entry, leader string, at time.Time) error {
	h := tar.Header{Name: e.Path, Mode: int64(e.Mode), Uid: e.UID, Gid: e.GID, ModTime: at}
	switch e.Type {
	case Directory:
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
	case Symlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
	case CharDevice:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(e.Major), int64(e.Minor)
	case BlockDevice:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(e.Major), int64(e.Minor)
	case Regular:
		if leader != "" && leader != e.Path {
			h.Typeflag, h.Linkname = tar.TypeLink, leader
			return out.WriteHeader(&h)
		}
		h.Typeflag, h.Size = tar.TypeReg, e.Content.Size
	}
	for k, v := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+k] = v
	}
	if err := out.WriteHeader(&h); err != nil || e.Type != Regular {
		return err
	}
	return e.Content.CopyTo(out)
}

// Type bits of a newc mode (Linux, Documentation/driver-api/early-userspace/buffer-format.rst; stat(2)).
const (
	modeRegular   = 0o100000
	modeDirectory = 0o040000
	modeSymlink   = 0o120000
	modeChar      = 0o020000
	modeBlock     = 0o060000
)

// Archive is a whole newc cpio archive with a part of a tree.
type Archive struct {
	parts []archived
}

// archived is an entry with what only the tree knows of it.
type archived struct {
	*Entry
	ino, links uint32
	first      bool // of the names of its file
}

// CPIO is the tree as newc cpio archives, the kernel's initramfs format, which unpack to it one after the other (Linux,
// Documentation/driver-api/early-userspace/buffer-format.rst): a folder is in the same archive as what lies in it, or in one before.
// An archive ends when its files have so many bytes, so that what comes behind an entry in a tree changes nothing of the
// archives before.
func (t *Tree) CPIO(size int64) []Archive {
	names, seen, inodes := map[string]uint32{}, map[string]uint32{}, map[string]uint32{}
	for _, e := range t.entries {
		names[e.inode]++
	}
	list := []Archive{{}}
	var have int64
	open := 0 // files of which some names are in this archive and others not yet: the kernel links within one
	for i, e := range t.All() {
		if have >= size && open == 0 {
			list, have = append(list, Archive{}), 0
		}
		a := archived{Entry: e, ino: uint32(i + 1), links: 1, first: true}
		if e.inode != "" {
			a.links, a.first = names[e.inode], seen[e.inode] == 0
			if a.first {
				inodes[e.inode] = a.ino
				open++
			}
			a.ino = inodes[e.inode]
			if seen[e.inode]++; seen[e.inode] == a.links {
				open--
			}
		}
		if e.Type == Regular && a.first {
			have += e.Content.Size
		}
		last := &list[len(list)-1]
		last.parts = append(last.parts, a)
	}
	return list
}

// Write writes the archive. Every time is epoch, in Unix seconds from 0 to 2^32-1. Extended attributes have no place in it and are
// an error.
func (a Archive) Write(w io.Writer, epoch int64) error {
	out := &cpioWriter{w: bufio.NewWriterSize(w, 1<<20), mtime: uint32(epoch)}
	if epoch < 0 || epoch > 1<<32-1 {
		return fmt.Errorf("cannot write cpio archive: time %d does not fit", epoch)
	}
	for _, e := range a.parts {
		if err := out.entry(e); err != nil {
			return fmt.Errorf("cannot write %s of %s: %w", e.Path, e.from(), err)
		}
	}
	if err := out.trailer(); err != nil {
		return err
	}
	return out.w.Flush()
}

// Digest is a SHA-256 over all that the archive is made from: equal ones have equal digests, and nothing is read for it.
func (a Archive) Digest() [sha256.Size]byte {
	h := sha256.New()
	for _, e := range a.parts {
		fmt.Fprintf(h, "%q %d %o %d %d %q %d %d %d %d %t %d %x\n", e.Path, e.Type, e.Mode, e.UID, e.GID, e.Link, e.Major, e.Minor,
			e.ino, e.links, e.first, e.Content.Size, e.Content.SHA256)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

type cpioWriter struct {
	w     *bufio.Writer
	at    int64
	mtime uint32
}

// entry writes one entry. Of several names of a file, the first carries the content (the kernel links the others to it).
func (c *cpioWriter) entry(e archived) error {
	ino, links := e.ino, e.links
	if len(e.Xattrs) > 0 {
		return fmt.Errorf("a cpio archive holds no extended attributes")
	}
	var kind uint32
	var size int64
	switch e.Type {
	case Regular:
		kind = modeRegular
		if e.first {
			size = e.Content.Size
		}
	case Directory:
		kind, links = modeDirectory, 2
	case Symlink:
		kind, size = modeSymlink, int64(len(e.Link))
	case CharDevice:
		kind = modeChar
	case BlockDevice:
		kind = modeBlock
	}
	if size > 1<<32-1 {
		return fmt.Errorf("%d bytes do not fit a cpio archive", size)
	}
	fields := [13]uint32{ino, kind | e.Mode, uint32(e.UID), uint32(e.GID), links, c.mtime, uint32(size), 0, 0, e.Major, e.Minor, uint32(len(e.Path) + 1), 0}
	if err := c.header(fields, e.Path); err != nil {
		return err
	}
	switch {
	case e.Type == Symlink:
		c.w.WriteString(e.Link)
	case size > 0:
		if err := e.Content.CopyTo(c.w); err != nil {
			return err
		}
	}
	c.at += size
	return c.pad()
}

func (c *cpioWriter) header(fields [13]uint32, name string) error {
	c.w.WriteString("070701")
	for _, f := range fields {
		fmt.Fprintf(c.w, "%08x", f)
	}
	c.w.WriteString(name)
	c.w.WriteByte(0)
	c.at += 6 + 13*8 + int64(len(name)) + 1
	return c.pad()
}

func (c *cpioWriter) pad() error {
	for ; c.at%4 != 0; c.at++ {
		c.w.WriteByte(0)
	}
	_, err := c.w.Write(nil)
	return err
}

func (c *cpioWriter) trailer() error {
	const name = "TRAILER!!!"
	return c.header([13]uint32{4: 1, 11: uint32(len(name) + 1)}, name)
}
