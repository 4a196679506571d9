package squashfs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"strings"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// piece is what is compressed together: the blocks of a file, or a fragment block.
type piece struct {
	files    []rootfs.Content // in this order, without anything between them
	size     int64            // bytes
	fragment bool
}

// place is where a content lies.
type place struct {
	piece  int
	offset int64 // in a fragment block, bytes
}

// layout is which pieces a tree has, and where in them its files are. Equal contents share a place. It is a function of
// the tree and the size of a block.
type layout struct {
	pieces []piece // in the order in which they are written
	places map[[sha256.Size]byte]place
}

// newLayout goes through the tree by path. A file of a block or more is a piece of its own; smaller ones share fragment
// blocks.
func newLayout(t *rootfs.Tree, blockSize int64) *layout {
	l := &layout{places: map[[sha256.Size]byte]place{}}
	open, last := -1, "" // the fragment block that is being filled
	for _, e := range t.All() {
		if e.Type != rootfs.Regular || e.Content.Size == 0 {
			continue
		}
		if _, ok := l.places[e.Content.SHA256]; ok {
			continue
		}
		if e.Content.Size >= blockSize {
			l.places[e.Content.SHA256] = place{piece: len(l.pieces)}
			l.pieces = append(l.pieces, piece{files: []rootfs.Content{e.Content}, size: e.Content.Size})
			continue
		}
		if open < 0 || l.pieces[open].size+e.Content.Size > blockSize || l.pieces[open].size >= blockSize/4 && last != group(e.Path) {
			open, last = len(l.pieces), group(e.Path)
			l.pieces = append(l.pieces, piece{fragment: true})
		}
		p := &l.pieces[open]
		l.places[e.Content.SHA256] = place{open, p.size}
		p.files, p.size = append(p.files, e.Content), p.size+e.Content.Size
	}
	return l
}

// group is the folder that a path belongs to, of at most three names. A fragment block that is filled well ends with it,
// so that a file whose size changes moves its neighbours and not every file after it.
func group(p string) string {
	names := strings.SplitN(path.Dir(p), "/", 4)
	return strings.Join(names[:min(3, len(names))], "/")
}

// pieceFormat is part of the pieces' names: count it up when other bytes are made of the same input.
const pieceFormat = 1

// key names what a piece becomes with a tool's version and options.
func (p piece) key(o Options, tool string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d %q %s %d %d\n", pieceFormat, tool, o.Algorithm, o.Level, o.BlockSize)
	for _, f := range p.files {
		fmt.Fprintf(h, "%d %x\n", f.Size, f.SHA256)
	}
	return hex.EncodeToString(h.Sum(nil))
}
