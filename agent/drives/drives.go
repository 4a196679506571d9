// Package drives knows the machine's drives, as /sys tells them, and chooses one as a document describes it
// (bootspec.DiskMatch), with a table that says of each drive why it was chosen or not.
//
// Words: a drive is a block device that is hardware and can hold partitions: no loop device, no device-mapper device, no
// memory disk. What is on a drive is not this package's: it reads no drive's content, and writes nothing.
package drives

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Drive is one drive.
type Drive struct {
	Name       string // vda
	Path       string // /dev/vda
	Model      string // with the vendor, if it is told apart; may be empty
	Serial     string // may be empty
	WWN        string // World Wide Name, EUI-64 or NGUID as the kernel tells it: naa.5000c500a1b2c3d4; may be empty
	Bus        string // place on the machine's bus: pci-0000:00:04.0; empty when it is on none
	Device     string // place in /sys without /sys: /devices/pci0000:00/...
	Transport  string // usb, nvme, ata, scsi, virtio, mmc, or what the kernel calls the bus
	Size       int64  // bytes; 0: there is no medium in it
	SectorSize int    // bytes, logical
	Removable  bool
	ReadOnly   bool
	Optical    bool // a CD-ROM drive
	Partitions []Partition
}

// Partition is a partition of a drive as the kernel sees it.
type Partition struct {
	Name   string // vda1
	Path   string // /dev/vda1
	Label  string // the name in the partition table
	Number int    // in the partition table, from 1
	Start  int64  // bytes
	Size   int64  // bytes
}

// List reads the drives from a sysfs (/sys), in the order of their places on the bus. A drive that goes away meanwhile is
// left out.
func List(sys string) ([]Drive, error) {
	folder := filepath.Join(sys, "block")
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("cannot list drives: %w", err)
	}
	var list []Drive
	for _, e := range entries {
		d, err := read(sys, e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // no hardware, or gone
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list drives: %s: %w", e.Name(), err)
		}
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b Drive) int { return cmp.Or(cmp.Compare(a.Bus, b.Bus), cmp.Compare(a.Name, b.Name)) })
	return list, nil
}

// read is one drive; fs.ErrNotExist: it is none.
func read(sys, name string) (Drive, error) {
	folder, err := filepath.EvalSymlinks(filepath.Join(sys, "block", name))
	if err != nil {
		return Drive{}, err
	}
	if _, err := os.Stat(filepath.Join(folder, "device")); err != nil {
		return Drive{}, err
	}
	root, err := filepath.EvalSymlinks(sys)
	if err != nil {
		return Drive{}, err
	}
	d := Drive{Name: name, Path: "/dev/" + strings.ReplaceAll(name, "!", "/"), Device: strings.TrimPrefix(folder, root)}
	sectors, err := number(folder, "size")
	if err != nil {
		return Drive{}, err
	}
	sector, err := number(folder, "queue/logical_block_size")
	if err != nil {
		return Drive{}, err
	}
	d.Size, d.SectorSize = sectors*512, int(sector) // size is in units of 512 bytes, whatever the sectors are
	d.Removable, d.ReadOnly = text(folder, "removable") == "1", text(folder, "ro") == "1"
	d.Optical = strings.HasPrefix(name, "sr")
	d.Bus, d.Transport = place(d.Device), transport(d.Device, name)
	d.Model = strings.Join(strings.Fields(text(folder, "device/vendor", "device/oemid")+" "+text(folder, "device/model", "device/name")), " ")
	if d.Transport == "virtio" {
		d.Model = "" // a vendor's number and nothing else
	}
	d.Serial, d.WWN = serial(folder), strings.TrimSpace(text(folder, "wwid", "device/wwid"))
	d.Partitions, err = partitions(folder, name)
	return d, err
}

func number(folder, file string) (int64, error) {
	data, err := os.ReadFile(filepath.Join(folder, file))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 54) // so that 512 times it still is one
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s says %q", file, data)
	}
	return n, nil
}

// maxText bounds what is taken from a file of /sys in bytes.
const maxText = 256

// text is the first of the files that is there, without what cannot be printed.
func text(folder string, files ...string) string {
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(folder, f))
		if err != nil {
			continue
		}
		return printable(data)
	}
	return ""
}

func printable(data []byte) string {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(data[:min(len(data), maxText)]))
	return strings.TrimSpace(clean)
}

// serial is a drive's serial number: a virtio drive's, an NVMe controller's or an MMC card's own file, a USB device's
// descriptor, or a SCSI disk's page 0x80 (SPC-4, section 7.8.12: four bytes, then the number).
func serial(folder string) string {
	if s := text(folder, "serial", "device/serial"); s != "" {
		return s
	}
	device, err := filepath.EvalSymlinks(filepath.Join(folder, "device"))
	if err != nil {
		return ""
	}
	// Of a USB drive: the first folder above that describes a USB device (idVendor).
	for at := device; strings.Contains(at, "/usb"); at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "idVendor")); err == nil {
			if s := text(at, "serial"); s != "" {
				return s
			}
			break
		}
	}
	page, err := os.ReadFile(filepath.Join(device, "vpd_pg80"))
	if err != nil || len(page) < 4 {
		return ""
	}
	return printable(page[4:])
}

// place is the last PCI function on the way to a device.
func place(device string) string {
	bus := ""
	for part := range strings.SplitSeq(device, "/") {
		if isFunction(part) {
			bus = "pci-" + part
		}
	}
	return bus
}

// isFunction tells a PCI function's address (0000:00:04.0).
func isFunction(s string) bool {
	shape := strings.Map(func(r rune) rune {
		if strings.ContainsRune("0123456789abcdef", r) {
			return 'x'
		}
		return r
	}, s)
	return strings.HasSuffix(shape, "xxxx:xx:xx.x") && strings.Trim(shape[:len(shape)-len("xxxx:xx:xx.x")], "x") == ""
}

func transport(device, name string) string {
	switch {
	case strings.Contains(device, "/usb"):
		return "usb"
	case strings.HasPrefix(name, "nvme"):
		return "nvme"
	case strings.HasPrefix(name, "mmcblk"):
		return "mmc"
	case strings.Contains(device, "/ata"):
		return "ata"
	case strings.Contains(device, "/host"):
		return "scsi"
	case strings.Contains(device, "/virtio"):
		return "virtio"
	case strings.HasPrefix(name, "xvd"):
		return "xen"
	}
	return ""
}

func partitions(folder, name string) ([]Partition, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var list []Partition
	for _, e := range entries {
		at := filepath.Join(folder, e.Name())
		if !strings.HasPrefix(e.Name(), name) || text(at, "partition") == "" {
			continue
		}
		n, err := number(at, "partition")
		start, err2 := number(at, "start")
		size, err3 := number(at, "size")
		if err := errors.Join(err, err2, err3); err != nil {
			return nil, err
		}
		list = append(list, Partition{
			Name: e.Name(), Path: "/dev/" + strings.ReplaceAll(e.Name(), "!", "/"), Label: uevent(at, "PARTNAME"), Number: int(n), Start: start * 512, Size: size * 512,
		})
	}
	slices.SortFunc(list, func(a, b Partition) int { return a.Number - b.Number })
	return list, nil
}

// uevent is a value of a device's uevent file.
func uevent(folder, key string) string {
	data, err := os.ReadFile(filepath.Join(folder, "uevent"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			return printable([]byte(value))
		}
	}
	return ""
}
