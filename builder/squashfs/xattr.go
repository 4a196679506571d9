package squashfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// noXattrs in an inode says that it has no extended attributes.
const noXattrs = uint32(1<<32 - 1)

// namespaces of extended attributes that the format knows, by the number it has for each.
var namespaces = []string{"user.", "trusted.", "security."}

// xattrs is the table of extended attributes. Inodes with the same ones share a set.
type xattrs struct {
	values, ids table
	sets        map[string]uint32 // by what is in it
}

// add gives the number of an entry's set.
func (x *xattrs) add(e *rootfs.Entry) (uint32, error) {
	if len(e.Xattrs) == 0 {
		return noXattrs, nil
	}
	var b bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	for _, full := range xattrNames(e) {
		kind, name := -1, ""
		for i, space := range namespaces {
			if rest, ok := strings.CutPrefix(full, space); ok {
				kind, name = i, rest
			}
		}
		if kind < 0 || len(name) > 1<<16-1 {
			return 0, fmt.Errorf("%s: extended attribute %q has no place in squashfs (user, trusted, security)", e.Path, full)
		}
		put(uint16(kind))
		put(uint16(len(name)))
		b.WriteString(name)
		put(uint32(len(e.Xattrs[full])))
		b.WriteString(e.Xattrs[full])
	}
	if set, ok := x.sets[b.String()]; ok {
		return set, nil
	}
	if x.sets == nil {
		x.sets = map[string]uint32{}
	}
	set := uint32(len(x.sets))
	x.sets[b.String()] = set
	x.ids.put(x.values.at().ref(), uint32(len(e.Xattrs)), uint32(b.Len()))
	x.values.Write(b.Bytes())
	return set, nil
}

// finish writes the table and tells where its header is.
func (x *xattrs) finish(out *sink) uint64 {
	values := out.n
	out.Write(x.values.bytes())
	ids := out.n
	out.Write(x.ids.bytes())
	at := out.n
	binary.Write(out, binary.LittleEndian, struct {
		Values        uint64
		Count, Unused uint32
	}{values, uint32(len(x.sets)), 0})
	out.Write(x.ids.pointers(ids))
	return at
}
