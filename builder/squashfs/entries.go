package squashfs

import (
	"fmt"
	"io"
	"path"

	squashfslow "github.com/CalebQ42/squashfs/low"
	"github.com/CalebQ42/squashfs/low/data"
	"github.com/CalebQ42/squashfs/low/inode"
)

// Entry is a path of a squashfs file. Of extended attributes only whether there are any is known.
type Entry struct {
	Path     string // relative and clean; . is the root directory
	Type     string // file, directory, symbolic link, character device, block device, pipe, socket
	Mode     uint32 // permission bits, 07777
	UID, GID uint32
	Time     uint32 // Unix seconds
	Link     string // a symbolic link's target
	Device   uint32 // of a device, as the kernel encodes it
	Xattrs   bool
	Size     int64 // bytes, of a file

	file squashfslow.FileBase
	fs   *squashfslow.Reader
}

// Entries are all paths of a squashfs file, a directory before what lies in it, in the order of their names. The file may be
// damaged: then there is an error.
func Entries(r io.ReaderAt) (list []Entry, err error) {
	defer damaged(&err)
	fs, err := squashfslow.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("cannot read squashfs: %w", err)
	}
	if err := entries(&fs, fs.Root.FileBase, ".", 0, func(e Entry) { list = append(list, e) }); err != nil {
		return nil, fmt.Errorf("cannot read squashfs: %w", err)
	}
	return list, nil
}

// damaged makes an error of a panic: the library trusts what it reads.
func damaged(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("cannot read squashfs: it is damaged (%v)", p)
	}
}

// maxDepth bounds how deep directories may lie in one another.
const maxDepth = 256

func entries(fs *squashfslow.Reader, f squashfslow.FileBase, name string, depth int, found func(Entry)) error {
	e, err := entry(fs, f, name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	found(e)
	if !f.IsDir() {
		return nil
	}
	if depth > maxDepth {
		return fmt.Errorf("%s: directories lie more than %d deep", name, maxDepth)
	}
	d, err := f.ToDir(*fs)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, below := range d.Entries {
		at := path.Join(name, below.Name)
		file, err := fs.BaseFromEntry(below)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if err := entries(fs, file, at, depth+1, found); err != nil {
			return err
		}
	}
	return nil
}

// typeNames are by the basic inode types' numbers; those of extended ones are seven higher.
var typeNames = map[uint16]string{
	inode.Dir: "directory", inode.Fil: "file", inode.Sym: "symbolic link", inode.Block: "block device",
	inode.Char: "character device", inode.Fifo: "pipe", inode.Sock: "socket",
}

const withoutXattrs = 0xffffffff

func entry(fs *squashfslow.Reader, f squashfslow.FileBase, name string) (Entry, error) {
	i := f.Inode
	kind := i.Type
	if kind >= inode.EDir {
		kind -= inode.EDir - inode.Dir
	}
	e := Entry{Path: name, Type: typeNames[kind], Mode: uint32(i.Perm) & 0o7777, Time: i.ModTime, file: f, fs: fs}
	xattrs := uint32(withoutXattrs)
	switch d := i.Data.(type) {
	case inode.EDirectory:
		xattrs = d.XattrInd
	case inode.File:
		e.Size = int64(d.Size)
	case inode.EFile:
		e.Size, xattrs = int64(d.Size), d.XattrInd
	case inode.Symlink:
		e.Link = string(d.Target)
	case inode.ESymlink:
		e.Link, xattrs = string(d.Target), d.XattrInd
	case inode.Device:
		e.Device = d.Dev
	case inode.EDevice:
		e.Device, xattrs = d.Dev, d.XattrInd
	}
	e.Xattrs = xattrs != withoutXattrs
	var err error
	if e.UID, err = f.Uid(fs); err != nil {
		return e, err
	}
	e.GID, err = f.Gid(fs)
	return e, err
}

// Open reads a file's content; it has Size bytes, or reading it ends with an error.
func (e Entry) Open() (r io.ReadCloser, err error) {
	defer damaged(&err)
	full, err := e.file.GetFullReader(e.fs)
	if err != nil {
		return nil, fmt.Errorf("cannot read squashfs: %s: %w", e.Path, err)
	}
	return &content{entry: e, from: full, left: e.Size}, nil
}

// content is a file's bytes, block by block.
type content struct {
	entry Entry
	from  data.FullReader
	next  uint32
	block []byte
	left  int64
}

func (c *content) Read(p []byte) (n int, err error) {
	defer damaged(&err)
	if c.left == 0 {
		return 0, io.EOF
	}
	if len(c.block) == 0 {
		if c.next >= c.from.BlockNum() {
			return 0, fmt.Errorf("cannot read squashfs: %s: %w", c.entry.Path, io.ErrUnexpectedEOF)
		}
		if c.block, err = c.from.Block(c.next); err != nil {
			return 0, fmt.Errorf("cannot read squashfs: %s: %w", c.entry.Path, err)
		}
		c.next++
		c.block = c.block[:min(int64(len(c.block)), c.left)]
	}
	n = copy(p, c.block)
	c.block, c.left = c.block[n:], c.left-int64(n)
	return n, nil
}

func (c *content) Close() error { return c.from.Close() }
