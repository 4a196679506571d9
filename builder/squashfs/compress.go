package squashfs

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	squashfslow "github.com/CalebQ42/squashfs/low"
	"github.com/CalebQ42/squashfs/low/inode"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// batchSize is about how many bytes one run of mksquashfs compresses: what it has done stays when the bake is interrupted.
const batchSize = 64 << 20

// compress makes the pieces that the store doesn't have, and keeps them.
func (p Packer) compress(ctx context.Context, o Options, missing map[string]piece, order []string) error {
	var size int64
	begin := 0
	for i, key := range order {
		if size += missing[key].size; size >= batchSize || i == len(order)-1 {
			if err := p.compressBatch(ctx, o, missing, order[begin:i+1]); err != nil {
				return err
			}
			begin, size = i+1, 0
		}
	}
	return nil
}

// compressBatch has mksquashfs pack an image in which each piece is a file named by its key, and takes their blocks out.
func (p Packer) compressBatch(ctx context.Context, o Options, missing map[string]piece, order []string) error {
	dir, err := os.MkdirTemp(p.Store.dir, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "image")
	feed := func(w io.Writer) error { return writePieces(w, missing, order) }
	if err := p.Program.Write(ctx, path, o, feed, "-no-fragments", "-no-sparse", "-no-duplicates", "-no-exports"); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.takeOut(ctx, f, o, missing, len(order)); err != nil {
		return fmt.Errorf("cannot take blocks out of what mksquashfs has made: %w", err)
	}
	return nil
}

func writePieces(w io.Writer, missing map[string]piece, order []string) error {
	buffered := bufio.NewWriterSize(w, 1<<20)
	out := tar.NewWriter(buffered)
	for _, key := range order {
		piece := missing[key]
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: key, Mode: 0o644, Size: piece.size}); err != nil {
			return err
		}
		for _, f := range piece.files {
			if err := f.CopyTo(out); err != nil {
				return err
			}
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

// takeOut puts each file's blocks into the store; there are so many files.
func (p Packer) takeOut(ctx context.Context, f io.ReaderAt, o Options, missing map[string]piece, want int) error {
	image, err := squashfslow.NewReader(f)
	if err != nil {
		return err
	}
	found := 0
	for _, e := range image.Root.Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		piece, ok := missing[e.Name]
		if !ok {
			return fmt.Errorf("there is %q in it", e.Name)
		}
		file, err := image.BaseFromEntry(e)
		if err != nil {
			return err
		}
		packed, err := blocksOf(f, file.Inode)
		if err != nil {
			return err
		}
		if int64(len(packed.sizes)) != o.blocks(piece.size) {
			return fmt.Errorf("%s: %d blocks instead of %d", e.Name, len(packed.sizes), o.blocks(piece.size))
		}
		if err := p.Store.save(e.Name, packed); err != nil {
			return err
		}
		found++
	}
	if found != want {
		return fmt.Errorf("%d files instead of %d", found, want)
	}
	return nil
}

func blocksOf(f io.ReaderAt, i inode.Inode) (packed, error) {
	var start uint64
	var p packed
	switch file := i.Data.(type) {
	case inode.File:
		start, p.sizes = uint64(file.BlockStart), file.BlockSizes
	case inode.EFile:
		start, p.sizes = file.BlockStart, file.BlockSizes
	default:
		return p, fmt.Errorf("an inode of type %d where a file should be", i.Type)
	}
	var total int64
	for _, size := range p.sizes {
		total += int64(size & sizeMask)
	}
	p.data = make([]byte, total)
	_, err := f.ReadAt(p.data, int64(start))
	return p, err
}

// load is a piece that is in the store; one that was lost or damaged meanwhile is made again.
func (p Packer) load(ctx context.Context, o Options, key string, from piece) (packed, error) {
	if have, ok := p.Store.load(key); ok {
		return have, nil
	}
	if err := p.compress(ctx, o, map[string]piece{key: from}, []string{key}); err != nil {
		return packed{}, err
	}
	have, ok := p.Store.load(key)
	if !ok {
		return packed{}, fmt.Errorf("cannot read what was just written to %s: %w", p.Store.dir, rootfs.ErrDamaged)
	}
	return have, nil
}
