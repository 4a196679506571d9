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
	"os"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// activate puts the root image on a loop device and dm-verity over it.
func (b *boot) activate(context.Context) error {
	table, err := verityTable(b.image, b.root)
	if err != nil {
		return stopError{err}
	}
	loop, err := attachLoop(b.image)
	if err != nil {
		return err
	}
	b.image.Close() // the loop device has it
	if b.device, err = createVerity("slipway-root", uint64(b.root.Data/512), table.params(loop)); err != nil {
		return err
	}
	b.log.Info("root image is under dm-verity", "device", b.device, "root hash", b.root.Hash)
	b.sender.Report(bootspec.EventRootLoaded, b.root.Image)
	return nil
}

// table is what a dm-verity table needs to know.
type table struct {
	root bootspec.Root
	salt []byte
}

// verityTable reads the superblock behind the data and checks that the tree's top is the one the kernel command line
// vouches for: a tree of another image gets an error with both values instead of unreadable blocks.
func verityTable(image io.ReaderAt, root bootspec.Root) (table, error) {
	const block = bootspec.VerityBlockSize
	head := make([]byte, 2*block)
	if _, err := image.ReadAt(head, root.Data); err != nil {
		return table{}, fmt.Errorf("cannot read the verity tree of the root image: %w", err)
	}
	// struct verity_sb of cryptsetup, little endian.
	sb, le := head[:block], binary.LittleEndian
	saltSize := int(le.Uint16(sb[80:]))
	switch {
	case !bytes.Equal(sb[:8], []byte("verity\x00\x00")) || le.Uint32(sb[8:]) != 1 || le.Uint32(sb[12:]) != 1:
		return table{}, errors.New("cannot read the verity tree of the root image: there is no superblock after the data")
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
// machine: nothing may run on with half of its programs unreadable.
func (t table) params(device string) string {
	const block = bootspec.VerityBlockSize
	salt := "-"
	if len(t.salt) > 0 {
		salt = hex.EncodeToString(t.salt)
	}
	blocks := t.root.Data / block
	return fmt.Sprintf("1 %s %s %d %d %d %d sha256 %s %s 1 panic_on_corruption",
		device, device, block, block, blocks, blocks+1, t.root.Hash, salt)
}

// attachLoop makes a read-only block device of a file.
func attachLoop(file *os.File) (string, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("cannot make a loop device (kernel module loop): %w", err)
	}
	defer control.Close()
	for range 16 { // somebody else may take the free one
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("cannot find a free loop device: %w", err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		err = configureLoop(path, file)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return "", fmt.Errorf("cannot configure %s: %w", path, err)
		}
	}
	return "", errors.New("cannot find a free loop device: all are taken at once")
}

func configureLoop(path string, file *os.File) error {
	device, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	return unix.IoctlLoopConfigure(int(device.Fd()), &unix.LoopConfig{
		Fd:   uint32(file.Fd()),
		Size: bootspec.VerityBlockSize,
		Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY},
	})
}
