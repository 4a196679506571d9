// Package bootentry makes UEFI firmware boot a disk: a load option (Boot####) for the boot loader on its ESP, first in
// BootOrder, written through efivarfs (UEFI specification 2.10, sections 3.1.3, 3.3 and 10.3).
//
// One option of ours is enough: that of an earlier installation is used again, further ones are taken away. Options of
// others stay, and their order among themselves.
package bootentry

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Description of our load options; it is what the firmware's menu shows.
const Description = "Slipway"

const (
	global = "-8be4df61-93ca-11d2-aa0d-00e098032b8c" // EFI_GLOBAL_VARIABLE
	// lasting: non-volatile, for boot services and at runtime.
	lasting = 1 | 2 | 4
	active  = 1 // LOAD_OPTION_ACTIVE
)

// Partition is where the boot loader lies.
type Partition struct {
	Number      int    // in the partition table, from 1
	Start, Size int64  // in sectors
	GUID        string // of the partition
}

// ErrNone says that there are no EFI variables: the machine did not boot by UEFI.
var ErrNone = errors.New("the firmware has no EFI variables here")

// Set makes the loader at a path of an ESP (EFI/BOOT/BOOTX64.EFI) what firmware boots first, and returns the option's
// name: Boot0007.
func Set(folder string, esp Partition, path string) (string, error) {
	option, err := loadOption(esp, path)
	if err != nil {
		return "", fmt.Errorf("cannot make a boot entry: %w", err)
	}
	name, err := set(folder, option)
	if err != nil {
		return name, fmt.Errorf("cannot make a boot entry: %w", err)
	}
	return name, nil
}

func set(folder string, option []byte) (string, error) {
	all, err := options(folder)
	if err != nil {
		return "", err
	}
	var own []int
	free := 0
	for _, number := range all {
		if number == free {
			free++
		}
		if isOurs(folder, number) {
			own = append(own, number)
		}
	}
	use := free
	if len(own) > 0 {
		use = own[0]
	}
	if use > 0xffff {
		return "", errors.New("all numbers are taken")
	}
	order, err := readOrder(folder)
	if err != nil {
		return "", err
	}
	name := optionName(use)
	if err := put(folder, name, option); err != nil {
		return "", err
	}
	wanted := append([]uint16{uint16(use)}, slices.DeleteFunc(slices.Clone(order), func(n uint16) bool { return slices.Contains(own, int(n)) || int(n) == use })...)
	if !slices.Equal(wanted, order) {
		if err := put(folder, "BootOrder", encodeOrder(wanted)); err != nil {
			return name, err
		}
	}
	for _, number := range own[min(1, len(own)):] {
		if err := remove(folder, optionName(number)); err != nil {
			return name, err
		}
	}
	return name, nil
}

// Next has the firmware boot our option at the next boot, once, whatever the order is.
func Next(folder string) error {
	all, err := options(folder)
	if err != nil {
		return fmt.Errorf("cannot choose what boots next: %w", err)
	}
	for _, number := range all {
		if isOurs(folder, number) {
			if err := put(folder, "BootNext", encodeOrder([]uint16{uint16(number)})); err != nil {
				return fmt.Errorf("cannot choose what boots next: %w", err)
			}
			return nil
		}
	}
	return errors.New("cannot choose what boots next: there is no boot entry of ours")
}

// isOurs says whether a load option is one that Set has made.
func isOurs(folder string, number int) bool {
	data, err := get(folder, optionName(number))
	text, _ := description(data)
	return err == nil && text == Description
}

func optionName(number int) string { return fmt.Sprintf("Boot%04X", number) }

var optionFile = regexp.MustCompile(`^Boot([0-9A-F]{4})` + global + `$`)

// options are the numbers of all load options, in order.
func options(folder string) ([]int, error) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		if m := optionFile.FindStringSubmatch(e.Name()); m != nil {
			n, _ := strconv.ParseUint(m[1], 16, 16)
			numbers = append(numbers, int(n))
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func readOrder(folder string) ([]uint16, error) {
	data, err := get(folder, "BootOrder")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var order []uint16
	for ; err == nil && len(data) >= 2; data = data[2:] {
		order = append(order, binary.LittleEndian.Uint16(data))
	}
	return order, err
}

func encodeOrder(order []uint16) []byte {
	var data []byte
	for _, n := range order {
		data = binary.LittleEndian.AppendUint16(data, n)
	}
	return data
}

// get reads a variable's value, without its attributes.
func get(folder, name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(folder, name+global))
	if err != nil {
		return nil, err
	}
	if len(data) < 4 {
		return nil, fmt.Errorf("variable %s is cut off", name)
	}
	return data[4:], nil
}

// put writes a variable: attributes and value in one write (Documentation/filesystems/efivarfs).
func put(folder, name string, value []byte) error {
	path := filepath.Join(folder, name+global)
	unlock(path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write variable %s: %w", name, err)
	}
	_, err = f.Write(append(binary.LittleEndian.AppendUint32(nil, lasting), value...))
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot write variable %s: %w", name, err)
	}
	return nil
}

func remove(folder, name string) error {
	path := filepath.Join(folder, name+global)
	unlock(path)
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("cannot remove variable %s: %w", name, err)
	}
	return nil
}

// immutable is FS_IMMUTABLE_FL (linux/fs.h).
const immutable = 0x10

// unlock takes the immutable flag away that the kernel gives variables it doesn't know to be harmless; it does nothing
// where there is none.
func unlock(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&immutable == 0 {
		return
	}
	flags &^= immutable
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.FS_IOC_SETFLAGS, uintptr(unsafe.Pointer(&flags)))
}

// loadOption is an EFI_LOAD_OPTION (section 3.1.3): attributes, length of the device path, description, device path.
func loadOption(esp Partition, path string) ([]byte, error) {
	drive, err := hardDrive(esp)
	if err != nil {
		return nil, err
	}
	file := text(`\` + strings.ReplaceAll(path, "/", `\`))
	devicePath := slices.Concat(
		node(4, 1, drive), // media device path: hard drive
		node(4, 4, file),  // media device path: file path
		node(0x7f, 0xff, nil),
	)
	b := binary.LittleEndian.AppendUint32(nil, active)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(devicePath)))
	return slices.Concat(b, text(Description), devicePath), nil
}

// description is that of a load option, and what comes after it; empty and nil, when it is none.
func description(option []byte) (text string, rest []byte) {
	var units []uint16
	for at := 6; at+1 < len(option); at += 2 {
		u := binary.LittleEndian.Uint16(option[at:])
		if u == 0 {
			return string(utf16.Decode(units)), option[at+2:]
		}
		units = append(units, u)
	}
	return "", nil
}

// hardDrive is the body of a hard drive node (section 10.3.5.1) of a GPT partition.
func hardDrive(p Partition) ([]byte, error) {
	guid, err := encodeGUID(p.GUID)
	if err != nil {
		return nil, err
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(p.Number))
	b = binary.LittleEndian.AppendUint64(b, uint64(p.Start))
	b = binary.LittleEndian.AppendUint64(b, uint64(p.Size))
	return append(append(b, guid...), 2, 2), nil // GPT, and its signature is a GUID
}

// encodeGUID writes the first three fields in little endian (section 2.3.1, EFI_GUID).
func encodeGUID(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		return nil, fmt.Errorf("%q is no GUID", s)
	}
	slices.Reverse(b[0:4])
	slices.Reverse(b[4:6])
	slices.Reverse(b[6:8])
	return b, nil
}

func node(kind, sub byte, body []byte) []byte {
	b := binary.LittleEndian.AppendUint16([]byte{kind, sub}, uint16(4+len(body)))
	return append(b, body...)
}

func text(s string) []byte {
	var b []byte
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}
