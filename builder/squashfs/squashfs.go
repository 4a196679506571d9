// Package squashfs packs file trees into squashfs files (version 4.0, Linux: fs/squashfs/squashfs_fs.h).
//
// Words: a piece is what is compressed together, all blocks of one file or one fragment block with several small files. A
// piece is kept, compressed, under the digest of what went in, so that an image of which one file is another costs the
// compression of one piece, however high the level. A Packer puts pieces, inodes and directories into a file; the
// compression of data itself is done by mksquashfs (squashfs-tools 4.5 or newer, libzstd), which is another program. It needs no
// rights and makes no temporary tree.
//
// Equal trees and options give equal bytes for one version of squashfs-tools and its zstd library. Which they are the
// caller decides (builder/toolset has those of a lock).
package squashfs

import "fmt"

// Options are how a file is packed.
type Options struct {
	Algorithm string // zstd
	Level     int    // 1 to 22
	BlockSize int    // bytes: a power of two, 4 KiB to 1 MiB
	Epoch     int64  // Unix seconds from 0 to 2^32-1: time of the file system and of everything in it
}

func (o Options) check() error {
	switch {
	case o.Algorithm != "zstd":
		return fmt.Errorf("compression %q is not known (zstd)", o.Algorithm)
	case o.Level < 1 || o.Level > 22:
		return fmt.Errorf("compression level %d is not from 1 to 22", o.Level)
	case o.BlockSize < 4096 || o.BlockSize > 1<<20 || o.BlockSize&(o.BlockSize-1) != 0:
		return fmt.Errorf("block size %d is not a power of two from 4096 to 1048576", o.BlockSize)
	case o.Epoch < 0 || o.Epoch > 1<<32-1:
		return fmt.Errorf("time %d does not fit", o.Epoch)
	}
	return nil
}

// blocks is how many blocks a file of that size has.
func (o Options) blocks(size int64) int64 {
	return (size + int64(o.BlockSize) - 1) / int64(o.BlockSize)
}
