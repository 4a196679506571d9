package initramfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/slipway-os/slipway/agent/media"
	"github.com/slipway-os/slipway/images/bootspec"
)

// activate puts the root image on a loop device and dm-verity over it.
func (b *boot) activate(context.Context) error {
	table, err := verityTable(b.image, b.root.Data, b.root)
	if err != nil {
		return stopError{err}
	}
	loop, err := media.AttachLoop(b.image, 0, b.root.Size, true)
	if err != nil {
		return err
	}
	if err := b.verify(table.params(loop, loop, b.root.Data/bootspec.VerityBlockSize)); err != nil {
		return err
	}
	b.sender.Report(bootspec.EventRootLoaded, b.root.Image)
	return nil
}

// verify makes the root device: every block that is read of it is checked by the kernel.
func (b *boot) verify(params string) error {
	var err error
	if b.device, err = createVerity("slipway-root", uint64(b.root.Data/512), params); err != nil {
		return err
	}
	b.log.Info("root image is under dm-verity", "device", b.device, "root hash", b.root.Hash)
	return nil
}

// table is what a dm-verity table needs to know.
type table struct {
	root bootspec.Root
	salt []byte
}

// verityTable reads the superblock at a place of a file or device, and checks that the tree's top is the one the kernel command line
// vouches for: a tree of another image gets an error with both values instead of unreadable blocks.
func verityTable(image io.ReaderAt, at int64, root bootspec.Root) (table, error) {
	const block = bootspec.VerityBlockSize
	head := make([]byte, 2*block)
	if _, err := image.ReadAt(head, at); err != nil {
		return table{}, fmt.Errorf("cannot read the verity tree of the root image: %w", err)
	}
	// struct verity_sb of cryptsetup, little endian.
	sb, le := head[:block], binary.LittleEndian
	saltSize := int(le.Uint16(sb[80:]))
	switch {
	case !bytes.Equal(sb[:8], []byte("verity\x00\x00")) || le.Uint32(sb[8:]) != 1 || le.Uint32(sb[12:]) != 1:
		return table{}, errors.New("cannot read the verity tree of the root image: there is no superblock where it begins")
	case string(bytes.TrimRight(sb[32:64], "\x00")) != "sha256" || le.Uint32(sb[64:]) != block || le.Uint32(sb[68:]) != block:
		return table{}, errors.New("cannot read the verity tree of the root image: only SHA-256 with blocks of 4096 bytes is supported")
	case int64(le.Uint64(sb[72:])) != root.Data/block:
		return table{}, fmt.Errorf("verity tree of the root image is for %d blocks, not %d", le.Uint64(sb[72:]), root.Data/block)
	case saltSize > 256:
		return table{}, fmt.Errorf("cannot read the verity tree of the root image: salt of %d bytes", saltSize)
	}
	t := table{root, sb[88 : 88+saltSize]}
	sum := sha256.Sum256(append(append([]byte{}, t.salt...), head[block:]...))
	if got := hex.EncodeToString(sum[:]); got != root.Hash {
		return table{}, fmt.Errorf("root image is not the one of this boot image or is corrupted: its root hash is %s, expected is %s", got, root.Hash)
	}
	return t, nil
}

// params is the target line (Documentation/admin-guide/device-mapper/verity.rst). A block that doesn't verify stops the
// machine: nothing may run on with half of its programs unreadable. The tree begins at a block of its device.
func (t table) params(data, hashes string, at int64) string {
	const block = bootspec.VerityBlockSize
	salt := "-"
	if len(t.salt) > 0 {
		salt = hex.EncodeToString(t.salt)
	}
	return fmt.Sprintf("1 %s %s %d %d %d %d sha256 %s %s 1 panic_on_corruption",
		data, hashes, block, block, t.root.Data/block, at+1, t.root.Hash, salt)
}
