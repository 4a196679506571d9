package install

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// FlushDevice writes out what the kernel holds of a block device and forgets it, so that what is read next comes from the
// device. A plain file is only synced.
func FlushDevice(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKFLSBUF, 0); e != 0 && !errors.Is(e, unix.ENOTTY) {
		return fmt.Errorf("cannot empty the cache of %s: %w", f.Name(), e)
	}
	return nil
}

// RereadPartitions has the kernel take note of a new partition table. It fails where a partition is in use.
func RereadPartitions(f *os.File) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKRRPART, 0); e != 0 {
		return fmt.Errorf("cannot read the new partition table of %s: %w", f.Name(), e)
	}
	return nil
}
