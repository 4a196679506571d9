package media

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/agent/drives"
	"github.com/slipway-os/slipway/agent/signature"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

// ErrForeign is what errors wrap about a drive with data that is not this product's.
var ErrForeign = errors.New("it holds data that is not Slipway's")

// Place is the block device of the partition with a label on a drive. A drive that is empty gets a partition table, one that
// holds only partitions of ours gets another partition of size bytes (0: the rest); anything else is ErrForeign, unless
// overwrite is the id of what is there (agent/signature): then all of it is given up.
func Place(d drives.Drive, label string, size int64, overwrite string) (device string, err error) {
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("cannot use drive %s: %w", d.Path, err)
	}
	defer f.Close()
	p, made, err := place(f, d, label, size, overwrite)
	if err != nil {
		return "", fmt.Errorf("cannot make partition %s on %s: %w", label, d.Path, err)
	}
	if made {
		if err := addPartition(f, p); err != nil {
			return "", fmt.Errorf("cannot tell the kernel of partition %s on %s: %w", label, d.Path, err)
		}
	}
	return partitionPath(d.Path, p.Index), nil
}

func place(f *os.File, d drives.Drive, label string, size int64, overwrite string) (p disk.Partition, made bool, err error) {
	n := disk.NewPartition{Label: label, Type: bootspec.PartitionTypeState, GUID: newGUID(), Size: size}
	found, err := disk.Read(f, d.Size)
	if err == nil && ours(found) {
		if p, ok := found.Partition(label); ok {
			return p, false, nil
		}
		p, err := disk.Add(f, d.Size, n)
		return p, true, err
	}
	marks, err := signature.Find(f, d.Size)
	if err != nil {
		return disk.Partition{}, false, err
	}
	if id := signature.ID(marks); id != overwrite && id != "" {
		var words []string
		for _, m := range marks {
			words = append(words, m.String())
		}
		return disk.Partition{}, false, fmt.Errorf("%w: %s (its id is %s)", ErrForeign, strings.Join(words, "; "), id)
	}
	p, err = disk.Create(f, d.Size, d.SectorSize, newGUID(), n)
	return p, true, err
}

// ours tells whether all partitions are of this product.
func ours(d *disk.Disk) bool {
	for _, p := range d.Partitions {
		if !strings.HasPrefix(p.Label, "slipway-") {
			return false
		}
	}
	return len(d.Partitions) > 0
}

// newGUID is a random one (RFC 9562, section 5.4).
func newGUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// partitionPath is how the kernel names a partition: with a p after a digit.
func partitionPath(drive string, number int) string {
	if last := drive[len(drive)-1]; last >= '0' && last <= '9' {
		return fmt.Sprintf("%sp%d", drive, number)
	}
	return fmt.Sprintf("%s%d", drive, number)
}

const blkpgAdd = 1

// addPartition tells the kernel of one; others of the drive may be in use.
func addPartition(device *os.File, p disk.Partition) error {
	err := blkpg(device, blkpgAdd, p)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		return nil // it has seen it by itself
	}
	return err
}

func blkpg(device *os.File, op int32, p disk.Partition) error {
	part := blkpgPartition{start: p.Start, length: p.Size, number: int32(p.Index)}
	arg := blkpgArgument{op: op, length: int32(unsafe.Sizeof(part)), data: unsafe.Pointer(&part)}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, device.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); e != 0 {
		return e
	}
	return nil
}
