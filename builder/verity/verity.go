// Package verity makes dm-verity hash trees (Linux, Documentation/admin-guide/device-mapper/verity.rst; on-disk header
// version 1 of cryptsetup's wiki page DMVerity).
//
// A root image is a squashfs padded to whole blocks, then one block that begins with the verity superblock, then the
// tree, top level first. So `veritysetup verify IMAGE IMAGE ROOTHASH --hash-offset=DATA` checks it, where DATA is the
// number of data bytes; a device-mapper table says 4096 4096, DATA/4096 as the number of data blocks, DATA/4096+1 as
// the hash start block, sha256, and the salt that the superblock holds. The superblock itself is vouched for by the
// root hash: another salt gives another one.
//
// It hashes; it does not activate anything and does not check images on a node (the kernel does).
package verity

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// BlockSize is the size of data and hash blocks in bytes.
const BlockSize = 4096

const (
	digestSize = sha256.Size
	perBlock   = BlockSize / digestSize
)

// Tree is a hash tree.
type Tree struct {
	RootHash [digestSize]byte
	Bytes    []byte // superblock and tree, whole blocks, to be put right after the data
}

// Pad is how many zero bytes make size a whole number of blocks.
func Pad(size int64) int64 { return (BlockSize - size%BlockSize) % BlockSize }

// Build hashes size bytes of data, which must be a positive multiple of BlockSize. Salt and uuid go into the superblock;
// equal arguments give equal bytes. It uses all processors.
func Build(ctx context.Context, data io.ReaderAt, size int64, salt [32]byte, uuid [16]byte) (*Tree, error) {
	if size <= 0 || size%BlockSize != 0 {
		return nil, fmt.Errorf("cannot build verity tree: %d bytes are not a positive multiple of %d", size, BlockSize)
	}
	level, err := leaves(ctx, data, size, salt)
	if err != nil {
		return nil, fmt.Errorf("cannot build verity tree: %w", err)
	}
	var levels [][]byte // from the leaves up
	for len(level) > digestSize {
		level = append(level, make([]byte, Pad(int64(len(level))))...)
		levels = append(levels, level)
		up := make([]byte, len(level)/BlockSize*digestSize)
		hashBlocks(up, level, salt)
		level = up
	}
	t := &Tree{RootHash: [digestSize]byte(level), Bytes: superblock(size/BlockSize, salt, uuid)}
	for i := len(levels) - 1; i >= 0; i-- {
		t.Bytes = append(t.Bytes, levels[i]...)
	}
	return t, nil
}

// chunk is how much data one worker reads at a time.
const chunk = 4 << 20

// leaves is the digests of all data blocks, one after the other.
func leaves(ctx context.Context, data io.ReaderAt, size int64, salt [32]byte) ([]byte, error) {
	digests := make([]byte, size/BlockSize*digestSize)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for at := int64(0); at < size; at += chunk {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			buf := make([]byte, min(chunk, size-at))
			if n, err := data.ReadAt(buf, at); n < len(buf) {
				return fmt.Errorf("reading %d bytes at %d: %w", len(buf), at, err)
			}
			hashBlocks(digests[at/BlockSize*digestSize:], buf, salt)
			return nil
		})
	}
	return digests, group.Wait()
}

// hashBlocks puts the digest of each block of data into out (hash type 1: the salt comes first).
func hashBlocks(out, data []byte, salt [32]byte) {
	h := sha256.New()
	for i := 0; i < len(data)/BlockSize; i++ {
		h.Reset()
		h.Write(salt[:])
		h.Write(data[i*BlockSize : (i+1)*BlockSize])
		h.Sum(out[i*digestSize : i*digestSize : (i+1)*digestSize])
	}
}

// superblock is the block before the tree: struct verity_sb of cryptsetup, little endian.
func superblock(dataBlocks int64, salt [32]byte, uuid [16]byte) []byte {
	b := make([]byte, BlockSize)
	copy(b, "verity\x00\x00")
	binary.LittleEndian.PutUint32(b[8:], 1)  // version
	binary.LittleEndian.PutUint32(b[12:], 1) // hash type: normal
	copy(b[16:32], uuid[:])
	copy(b[32:64], "sha256")
	binary.LittleEndian.PutUint32(b[64:], BlockSize)
	binary.LittleEndian.PutUint32(b[68:], BlockSize)
	binary.LittleEndian.PutUint64(b[72:], uint64(dataBlocks))
	binary.LittleEndian.PutUint16(b[80:], uint16(len(salt)))
	copy(b[88:], salt[:])
	return b
}
