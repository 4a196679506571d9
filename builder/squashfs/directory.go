package squashfs

import (
	"fmt"
	"math"
)

// listed is one name in a directory.
type listed struct {
	name   string
	at     position // of its inode
	number uint32   // its inode's
	kind   uint16   // its inode's, the basic one
}

// listing is a directory's list in the directory table.
type listing struct {
	at   position
	size uint32 // bytes
}

// maxRun is how many names share a header.
const maxRun = 256

// list writes a directory's names, which are sorted: runs of names whose inodes begin in the same metadata block and
// have numbers near the first one's, each run after a header.
func (w *writer) list(names []listed) (listing, error) {
	l := listing{at: w.dirs.at()}
	for len(names) > 0 {
		n := run(names)
		first := names[0]
		w.dirs.put(uint32(n-1), first.at.block, first.number)
		l.size += 12
		for _, e := range names[:n] {
			if len(e.name) > 256 {
				return l, fmt.Errorf("the name %q is longer than 256 bytes", e.name)
			}
			w.dirs.put(e.at.offset, int16(int64(e.number)-int64(first.number)), e.kind, uint16(len(e.name)-1), []byte(e.name))
			l.size += 8 + uint32(len(e.name))
		}
		names = names[n:]
	}
	return l, nil
}

func run(names []listed) int {
	first := names[0]
	for i, e := range names[:min(maxRun, len(names))] {
		away := int64(e.number) - int64(first.number)
		if e.at.block != first.at.block || away < math.MinInt16 || away > math.MaxInt16 {
			return i
		}
	}
	return min(maxRun, len(names))
}
