package squashfs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"os"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// Packer packs trees.
type Packer struct {
	Program Program // mksquashfs
	Tool    string  // which mksquashfs it is: pieces of another are not used
	Store   *Store
	Name    string // of the image: the store keeps what the newest images of a name consist of; a file name
}

// Write packs a tree into the file at path, which is overwritten. On an error, what is at path is of no use; errors of
// reading a file's content wrap those of rootfs.
func (p Packer) Write(ctx context.Context, path string, t *rootfs.Tree, o Options) error {
	if err := o.check(); err != nil {
		return fmt.Errorf("cannot make squashfs: %w", err)
	}
	l := newLayout(t, int64(o.BlockSize))
	keys, err := p.prepare(ctx, l, o)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("cannot make squashfs: %w", err)
	}
	defer f.Close()
	if err := p.fill(ctx, f, t, l, keys, o); err != nil {
		return fmt.Errorf("cannot make squashfs %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("cannot make squashfs %s: %w", path, err)
	}
	return nil
}

// prepare names all pieces and makes those that are missing. They are kept from then on: what an interrupted bake has made counts
// for the next.
func (p Packer) prepare(ctx context.Context, l *layout, o Options) ([]string, error) {
	keys := make([]string, len(l.pieces))
	missing, order := map[string]piece{}, []string(nil)
	for i, piece := range l.pieces {
		keys[i] = piece.key(o, p.Tool)
		if _, asked := missing[keys[i]]; asked {
			continue
		}
		if _, err := os.Stat(p.Store.file(keys[i])); err != nil {
			missing[keys[i]], order = piece, append(order, keys[i])
		}
	}
	if err := p.Store.keep(p.Name, keys); err != nil {
		return nil, fmt.Errorf("cannot use cache folder: %w", err)
	}
	return keys, p.compress(ctx, o, missing, order)
}

const (
	magic          = 0x73717368
	superblockSize = 96
	zstdID         = 6
	deviceBlock    = 4096      // bytes
	none           = 1<<64 - 1 // where a table would be
	flagNoFragment = 1 << 4
	flagNoXattrs   = 1 << 9
)

// superblock begins a squashfs file.
type superblock struct {
	Magic, Inodes, Time, BlockSize, Fragments                   uint32
	Compressor, BlockLog, Flags, IDs, Major, Minor              uint16
	Root, Size, IDTable, XattrTable, InodeTable, DirectoryTable uint64
	FragmentTable, ExportTable                                  uint64
}

func (p Packer) fill(ctx context.Context, f *os.File, t *rootfs.Tree, l *layout, keys []string, o Options) error {
	out := &sink{w: bufio.NewWriterSize(f, 1<<20)}
	out.Write(make([]byte, superblockSize))
	w := &writer{tree: t, options: o, layout: l}
	for i, key := range keys {
		if err := ctx.Err(); err != nil {
			return err
		}
		have, err := p.load(ctx, o, key, l.pieces[i])
		if err != nil {
			return err
		}
		w.wrote(l.pieces[i], out.n, have.sizes)
		out.Write(have.data)
	}
	if err := w.tables(); err != nil {
		return err
	}
	s := w.finish(out)
	out.Write(make([]byte, -out.n%deviceBlock)) // what is mounted has whole blocks
	if err := out.w.Flush(); err != nil {
		return err
	}
	var head bytes.Buffer
	binary.Write(&head, binary.LittleEndian, s)
	_, err := f.WriteAt(head.Bytes(), 0)
	return err
}

// finish writes the tables, in the order in which the kernel looks for them from the end (fs/squashfs/super.c): each ends
// where the next begins.
func (w *writer) finish(out *sink) superblock {
	o := w.options
	s := superblock{Magic: magic, Inodes: w.count, Time: uint32(o.Epoch), BlockSize: uint32(o.BlockSize), Fragments: uint32(len(w.fragments)),
		Compressor: zstdID, BlockLog: uint16(bits.TrailingZeros(uint(o.BlockSize))), IDs: uint16(len(w.ids)), Major: 4,
		Root: w.root.ref(), XattrTable: none, ExportTable: none}
	s.InodeTable = out.n
	out.Write(w.inodes.bytes())
	s.DirectoryTable = out.n
	out.Write(w.dirs.bytes())
	list := func(t *table) uint64 {
		start := out.n
		out.Write(t.bytes())
		at := out.n
		out.Write(t.pointers(start))
		return at
	}
	fragments, ids := &table{zstd: w.inodes.zstd}, &table{zstd: w.inodes.zstd}
	fragments.put(w.fragments)
	s.FragmentTable = list(fragments)
	if len(w.fragments) == 0 {
		s.Flags |= flagNoFragment
	}
	ids.put(w.ids)
	s.IDTable = list(ids)
	if len(w.xattrs.sets) == 0 {
		s.Flags |= flagNoXattrs
	} else {
		s.XattrTable = w.xattrs.finish(out)
	}
	s.Size = out.n
	return s
}

// sink counts what is written. An error stays in the buffer until it is flushed.
type sink struct {
	w *bufio.Writer
	n uint64
}

func (s *sink) Write(p []byte) (int, error) {
	s.n += uint64(len(p))
	return s.w.Write(p)
}
