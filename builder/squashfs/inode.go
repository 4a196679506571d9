package squashfs

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// Types of inodes. The extended form of each is extended higher.
const (
	typeDirectory = 1
	typeFile      = 2
	typeSymlink   = 3
	typeBlock     = 4
	typeChar      = 5
	extended      = 7
)

// writer makes a file system's tables.
type writer struct {
	tree    *rootfs.Tree
	options Options
	layout  *layout

	written   []written  // by piece
	fragments []fragment // the fragment table

	inodes, dirs table
	xattrs       xattrs
	ids          []uint32
	count        uint32 // inodes
	root         position

	below   map[string][]*rootfs.Entry // by directory, sorted by name
	leaders map[string]string          // of files with several names, by path: the first of them
	names   map[string]uint32          // how many names such a file has
	numbers map[string]uint32          // inode numbers, by path
	made    map[string]position        // inodes of files with several names
}

// written is where a piece has been put.
type written struct {
	start uint64
	sizes []uint32 // of blocks
	index uint32   // of a fragment block: in the fragment table
}

func (w *writer) wrote(p piece, start uint64, sizes []uint32) {
	at := written{start: start, sizes: sizes, index: noFragment}
	if p.fragment {
		at.index = uint32(len(w.fragments))
		w.fragments = append(w.fragments, fragment{Start: start, Size: sizes[0]})
	}
	w.written = append(w.written, at)
}

// tables makes inodes and directories: a directory after all that is in it, because it says where that is.
func (w *writer) tables() error {
	zstd, err := newCompressor()
	if err != nil {
		return err
	}
	w.inodes.zstd, w.dirs.zstd, w.xattrs.values.zstd, w.xattrs.ids.zstd = zstd, zstd, zstd, zstd
	w.number()
	root := &rootfs.Entry{Type: rootfs.Directory, Mode: 0o755}
	w.root, _, err = w.directory(root, w.count+1)
	if err == nil && len(w.ids) > math.MaxUint16 {
		err = fmt.Errorf("%d owners are too many", len(w.ids))
	}
	return err
}

// number gives every inode its number, the root's is 1, and sorts the entries by directory.
func (w *writer) number() {
	w.below, w.numbers, w.names, w.made = map[string][]*rootfs.Entry{}, map[string]uint32{"": 1}, map[string]uint32{}, map[string]position{}
	w.leaders, w.count = w.tree.Leaders(), 1
	for _, e := range w.tree.All() {
		dir := parent(e.Path)
		w.below[dir] = append(w.below[dir], e)
		leader, shared := w.leaders[e.Path]
		if shared {
			w.names[leader]++
		}
		if shared && leader != e.Path {
			w.numbers[e.Path] = w.numbers[leader]
			continue
		}
		w.count++
		w.numbers[e.Path] = w.count
	}
	for _, list := range w.below {
		slices.SortFunc(list, func(a, b *rootfs.Entry) int { return cmp.Compare(path.Base(a.Path), path.Base(b.Path)) })
	}
}

func parent(p string) string {
	if dir := path.Dir(p); dir != "." {
		return dir
	}
	return ""
}

// inode writes an entry's inode and tells where it is, and its basic type.
func (w *writer) inode(e *rootfs.Entry) (position, uint16, error) {
	switch e.Type {
	case rootfs.Directory:
		return w.directory(e, w.numbers[parent(e.Path)])
	case rootfs.Regular:
		return w.file(e)
	case rootfs.Symlink:
		return w.special(e, typeSymlink, uint32(len(e.Link)), []byte(e.Link))
	case rootfs.BlockDevice:
		return w.special(e, typeBlock, device(e), nil)
	case rootfs.CharDevice:
		return w.special(e, typeChar, device(e), nil)
	}
	return position{}, 0, fmt.Errorf("%s is a %s, which has no place in a file system", e.Path, e.Type)
}

// device is a device's number as Linux encodes it (new_encode_dev, include/linux/kdev_t.h).
func device(e *rootfs.Entry) uint32 { return e.Minor&0xff | e.Major<<8 | (e.Minor&^0xff)<<12 }

// header begins an inode.
func (w *writer) header(e *rootfs.Entry, kind uint16) {
	w.inodes.put(kind, uint16(e.Mode&0o7777), w.id(e.UID), w.id(e.GID), uint32(w.options.Epoch), w.numbers[e.Path])
}

// id is the place of a user's or group's number in the table of them.
func (w *writer) id(n int) uint16 {
	i := slices.Index(w.ids, uint32(n))
	if i < 0 {
		i, w.ids = len(w.ids), append(w.ids, uint32(n))
	}
	return uint16(i)
}

// special is a symbolic link or a device.
func (w *writer) special(e *rootfs.Entry, kind uint16, value uint32, rest []byte) (position, uint16, error) {
	set, err := w.xattrs.add(e)
	if err != nil {
		return position{}, 0, err
	}
	at, written := w.inodes.at(), kind
	if set != noXattrs {
		written += extended
	}
	w.header(e, written)
	w.inodes.put(uint32(1), value, rest)
	if set != noXattrs {
		w.inodes.put(set)
	}
	return at, kind, nil
}

func (w *writer) file(e *rootfs.Entry) (position, uint16, error) {
	leader, shared := w.leaders[e.Path]
	if at, ok := w.made[leader]; shared && ok {
		return at, typeFile, nil
	}
	links := uint32(1)
	if shared {
		links = w.names[leader]
	}
	set, err := w.xattrs.add(e)
	if err != nil {
		return position{}, 0, err
	}
	start, index, offset, sizes := uint64(0), uint32(noFragment), uint32(0), []uint32(nil)
	if e.Content.Size > 0 {
		p := w.layout.places[e.Content.SHA256]
		if piece := w.written[p.piece]; piece.index != noFragment {
			index, offset = piece.index, uint32(p.offset)
		} else {
			start, sizes = piece.start, piece.sizes
		}
	}
	at := w.inodes.at()
	if links == 1 && set == noXattrs && start <= math.MaxUint32 && e.Content.Size <= math.MaxUint32 {
		w.header(e, typeFile)
		w.inodes.put(uint32(start), index, offset, uint32(e.Content.Size), sizes)
	} else {
		w.header(e, typeFile+extended)
		w.inodes.put(start, uint64(e.Content.Size), uint64(0), links, index, offset, set, sizes)
	}
	if shared {
		w.made[leader] = at
	}
	return at, typeFile, nil
}

// directory writes what is in a directory, then the list of it, then its own inode.
func (w *writer) directory(e *rootfs.Entry, above uint32) (position, uint16, error) {
	var list []listed
	links := uint32(2)
	for _, child := range w.below[e.Path] {
		at, kind, err := w.inode(child)
		if err != nil {
			return position{}, 0, err
		}
		if kind == typeDirectory {
			links++
		}
		list = append(list, listed{path.Base(child.Path), at, w.numbers[child.Path], kind})
	}
	set, err := w.xattrs.add(e)
	if err != nil {
		return position{}, 0, err
	}
	listing, err := w.list(list)
	if err != nil {
		return position{}, 0, fmt.Errorf("%s: %w", e.Path, err)
	}
	size := listing.size + 3 // the kernel counts "." and ".." so
	at := w.inodes.at()
	if set == noXattrs && size <= math.MaxUint16 {
		w.header(e, typeDirectory)
		w.inodes.put(listing.at.block, links, uint16(size), listing.at.offset, above)
	} else {
		w.header(e, typeDirectory+extended)
		w.inodes.put(links, size, listing.at.block, above, uint16(0), listing.at.offset, set)
	}
	return at, typeDirectory, nil
}

// xattrNames are an entry's extended attributes' names, sorted.
func xattrNames(e *rootfs.Entry) []string { return slices.Sorted(maps.Keys(e.Xattrs)) }
