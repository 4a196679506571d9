package initramfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device mapper's commands and flags (linux/dm-ioctl.h).
const (
	dmDevCreate  = 3
	dmDevRemove  = 4
	dmDevSuspend = 6
	dmTableLoad  = 9

	dmReadOnly = 1 << 0
)

// dmHeader is the size of struct dm_ioctl in bytes; dmSpec of struct dm_target_spec.
const (
	dmHeader = 312
	dmSpec   = 40
	dmName   = 128
)

// createVerity makes a read-only device-mapper device with one verity target of that many 512-byte sectors, and returns
// its path. It is removed again when it can't be made whole.
func createVerity(name string, sectors uint64, params string) (string, error) {
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("cannot use device mapper (kernel module dm-mod): %w", err)
	}
	defer control.Close()
	created, err := dm(control, dmDevCreate, name, 0, nil)
	if err != nil {
		return "", fmt.Errorf("cannot create device %s: %w", name, err)
	}
	if _, err = dm(control, dmTableLoad, name, dmReadOnly, verityTarget(sectors, params)); err != nil {
		err = fmt.Errorf("cannot load verity table %q (kernel module dm-verity): %w", params, err)
	} else if _, err = dm(control, dmDevSuspend, name, 0, nil); err != nil { // without the suspend flag: resume
		err = fmt.Errorf("cannot start device %s: %w", name, err)
	}
	if err != nil {
		_, rerr := dm(control, dmDevRemove, name, 0, nil)
		return "", errors.Join(err, rerr)
	}
	dev := binary.NativeEndian.Uint64(created[40:]) // huge_encode_dev
	return fmt.Sprintf("/dev/dm-%d", dev&0xff|dev>>12&0xfff00), nil
}

// verityTarget is a struct dm_target_spec and its parameters.
func verityTarget(sectors uint64, params string) []byte {
	size := (dmSpec + len(params) + 1 + 7) &^ 7
	b := make([]byte, size)
	binary.NativeEndian.PutUint64(b[8:], sectors)
	binary.NativeEndian.PutUint32(b[20:], uint32(size))
	copy(b[24:], "verity")
	copy(b[dmSpec:], params)
	return b
}

// dm runs one command on a device and returns the kernel's struct dm_ioctl.
func dm(control *os.File, command uintptr, name string, flags uint32, target []byte) ([]byte, error) {
	if len(name) >= dmName {
		return nil, unix.ENAMETOOLONG
	}
	b := make([]byte, max(dmHeader+len(target), 1024))
	ne := binary.NativeEndian
	ne.PutUint32(b[0:], 4)               // version
	ne.PutUint32(b[12:], uint32(len(b))) // data_size
	ne.PutUint32(b[16:], dmHeader)       // data_start
	if target != nil {
		ne.PutUint32(b[20:], 1) // target_count
	}
	ne.PutUint32(b[28:], flags)
	copy(b[48:], name)
	copy(b[dmHeader:], target)
	const readWrite, group = 3, 0xfd
	request := uintptr(readWrite<<30 | dmHeader<<16 | group<<8)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, control.Fd(), request|command, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return nil, e
	}
	return b, nil
}
