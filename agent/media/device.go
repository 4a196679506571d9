package media

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/agent/drives"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

// Device is the path of a block device with a partition's bytes: the kernel's partition, or a loop device where the kernel
// has none: on a CD-ROM, or when the first copy of the table is damaged. It can be written only if write is set.
func (m *Medium) Device(p disk.Partition, write bool) (string, error) {
	if at, ok := kernelPartition(m.Drive, p); ok {
		return at.Path, nil
	}
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR
	}
	f, err := os.OpenFile(m.Drive.Path, flag, 0)
	if err != nil {
		return "", fmt.Errorf("cannot open partition %s: %w", p.Label, err)
	}
	defer f.Close() // the loop device has it
	path, err := AttachLoop(f, p.Start, p.Size, !write)
	if err != nil {
		return "", fmt.Errorf("cannot open partition %s of %s: %w", p.Label, m.Drive.Path, err)
	}
	return path, nil
}

// kernelPartition is the kernel's partition of the same place; the state's may still have its old size.
func kernelPartition(d drives.Drive, p disk.Partition) (drives.Partition, bool) {
	for _, k := range d.Partitions {
		if k.Number == p.Index && k.Start == p.Start && k.Size == p.Size {
			return k, true
		}
	}
	return drives.Partition{}, false
}

// AttachLoop makes a block device of size bytes of a file from start on; both are multiples of 512. It stays until somebody
// detaches it.
func AttachLoop(file *os.File, start, size int64, readOnly bool) (string, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("cannot make a loop device (kernel module loop): %w", err)
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Offset: uint64(start), Sizelimit: uint64(size)}}
	if start%bootspec.VerityBlockSize == 0 && size%bootspec.VerityBlockSize == 0 {
		config.Size = bootspec.VerityBlockSize
	}
	flag := os.O_RDWR
	if readOnly {
		config.Info.Flags, flag = unix.LO_FLAGS_READ_ONLY, os.O_RDONLY
	}
	for range 16 { // somebody else may take the free one
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("cannot find a free loop device: %w", err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		err = configureLoop(path, flag, &config)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return "", fmt.Errorf("cannot configure %s: %w", path, err)
		}
	}
	return "", errors.New("cannot find a free loop device: all are taken at once")
}

func configureLoop(path string, flag int, config *unix.LoopConfig) error {
	device, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	return unix.IoctlLoopConfigure(int(device.Fd()), config)
}

// Grow lets the state partition take the rest of the drive, on it and in the kernel, and mends a damaged copy of the
// partition table. It returns that partition; a drive that cannot be written keeps what it has.
func (m *Medium) Grow() (state disk.Partition, changed bool, err error) {
	f, err := os.OpenFile(m.Drive.Path, os.O_RDWR, 0)
	if err != nil {
		return state, false, fmt.Errorf("cannot grow the state partition: %w", err)
	}
	defer f.Close()
	state, changed, err = disk.Grow(f, m.Drive.Size)
	if err != nil {
		return state, false, fmt.Errorf("%s: %w", m.Drive.Path, err)
	}
	for i := range m.Disk.Partitions {
		if m.Disk.Partitions[i].Index == state.Index {
			m.Disk.Partitions[i] = state
		}
	}
	for i, k := range m.Drive.Partitions {
		if k.Number != state.Index || k.Size == state.Size {
			continue
		}
		if err := blkpg(f, blkpgResize, state); err != nil {
			return state, changed, fmt.Errorf("cannot tell the kernel the new size of partition %s: %w", k.Path, err)
		}
		m.Drive.Partitions[i].Size = state.Size
	}
	return state, changed, nil
}

// struct blkpg_ioctl_arg and struct blkpg_partition of linux/blkpg.h.
type blkpgArgument struct {
	op, flags, length int32
	_                 int32
	data              unsafe.Pointer
}

type blkpgPartition struct {
	start, length int64 // bytes
	number        int32
	_             [64 + 64 + 4]byte
}

const blkpgResize = 3
