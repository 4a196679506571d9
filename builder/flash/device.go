package flash

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

// Transports of devices.
const (
	TransportUSB    = "usb"
	TransportMMC    = "mmc" // SD cards and soldered eMMC
	TransportSATA   = "sata"
	TransportSCSI   = "scsi"
	TransportNVMe   = "nvme"
	TransportVirtio = "virtio"
	TransportLoop   = "loop" // a file as a device
	TransportDM     = "dm"   // device mapper
	TransportOther  = "other"
)

// Device is a whole disk, as the kernel describes it.
type Device struct {
	Path       string   `json:"path"`
	Model      string   `json:"model"`
	Serial     string   `json:"serial"`
	Transport  string   `json:"transport"`
	Size       int64    `json:"size"`       // bytes
	SectorSize int      `json:"sectorSize"` // bytes
	Removable  bool     `json:"removable"`  // made to be pulled out
	ReadOnly   bool     `json:"readOnly"`
	System     bool     `json:"system"`            // this machine runs from it
	Uses       []string `json:"uses,omitempty"`    // who uses it now: mounted at /boot
	Content    []string `json:"content,omitempty"` // what is on it now
}

// Find is the device at a path, which may be a link to it.
func Find(path string) (Device, error) {
	fail := func(err error) (Device, error) { return Device{}, fmt.Errorf("cannot use %s: %w", path, err) }
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fail(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return fail(errors.New("it is no block device"))
	}
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	if err != nil {
		return fail(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		return fail(fmt.Errorf("it is a partition: name the whole disk, /dev/%s", filepath.Base(filepath.Dir(dir))))
	}
	m, err := readMachine()
	if err != nil {
		return fail(err)
	}
	d := m.device(dir)
	d.Path = path
	return d, nil
}

// Devices are all disks that could be meant, in the order of their names; no memory, loop and mapped devices.
func Devices() ([]Device, error) {
	fail := func(err error) ([]Device, error) { return nil, fmt.Errorf("cannot list devices: %w", err) }
	names, err := os.ReadDir("/sys/block")
	if err != nil {
		return fail(err)
	}
	m, err := readMachine()
	if err != nil {
		return fail(err)
	}
	list := []Device{}
	for _, name := range names {
		dir, err := filepath.EvalSymlinks("/sys/block/" + name.Name())
		if err != nil {
			continue // pulled out just now
		}
		if _, err := os.Stat(filepath.Join(dir, "device")); err != nil {
			continue // nothing that one could hold in a hand
		}
		if d := m.device(dir); d.Size > 0 && !strings.HasPrefix(name.Name(), "sr") {
			list = append(list, d)
		}
	}
	return list, nil
}

// machine is what this machine uses devices for.
type machine struct {
	mounts map[string][]string // by device number 8:1: where they are mounted
	swaps  map[string]bool     // by device number
	system map[string]bool     // folders of disks in /sys below the system's own file systems
}

// systemPaths are the file systems that a machine runs from.
var systemPaths = [...]string{"/", "/usr", "/boot", "/boot/efi", "/efi", "/var", "/nix"}

func readMachine() (*machine, error) {
	m := &machine{mounts: map[string][]string{}, swaps: map[string]bool{}, system: map[string]bool{}}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		m.addMount(line)
	}
	swaps, err := os.ReadFile("/proc/swaps")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(swaps)) {
		if path, _, _ := strings.Cut(line, " "); strings.HasPrefix(path, "/") {
			m.swaps[deviceNumber(path)] = true
		}
	}
	return m, nil
}

// addMount notes a line of mountinfo (proc_pid_mountinfo(5)). File systems of several devices have no number of their
// own there, but name one as their source.
func (m *machine) addMount(line string) {
	fields := strings.Fields(line)
	dash := slices.Index(fields, "-")
	if dash < 5 || len(fields) < dash+3 {
		return
	}
	at, numbers := unescape(fields[4]), []string{fields[2]}
	if source := unescape(fields[dash+2]); strings.HasPrefix(source, "/dev/") {
		if n := deviceNumber(source); n != "" && n != fields[2] {
			numbers = append(numbers, n)
		}
	}
	for _, n := range numbers {
		if !slices.Contains(m.mounts[n], at) {
			m.mounts[n] = append(m.mounts[n], at)
		}
		if slices.Contains(systemPaths[:], at) {
			m.below("/sys/dev/block/" + n)
		}
	}
}

// below notes the disks that a device is made of.
func (m *machine) below(dir string) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return // no device: overlay, tmpfs, network
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir)
	}
	if m.system[dir] {
		return
	}
	m.system[dir] = true
	slaves, _ := filepath.Glob(filepath.Join(dir, "slaves", "*"))
	for _, s := range slaves {
		m.below(s)
	}
}

// unescape undoes mountinfo's octal escapes of spaces and the like.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// deviceNumber is MAJOR:MINOR of a block device, empty for anything else.
func deviceNumber(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
}

// device describes the disk with that folder in /sys.
func (m *machine) device(dir string) Device {
	d := Device{
		Path:       "/dev/" + strings.ReplaceAll(filepath.Base(dir), "!", "/"),
		Model:      strings.TrimSpace(attribute(dir, "device/vendor") + " " + attribute(dir, "device/model")),
		Serial:     serial(dir),
		Transport:  transport(dir),
		Size:       number(dir, "size") * 512, // in these units whatever the sectors are
		SectorSize: int(number(dir, "queue/logical_block_size")),
		ReadOnly:   attribute(dir, "ro") == "1",
		System:     m.system[dir],
	}
	if strings.HasPrefix(d.Model, "0x") { // virtio's vendor is a number
		d.Model = ""
	}
	d.Removable = attribute(dir, "removable") == "1" || d.Transport == TransportLoop || d.Transport == TransportUSB && !fixed(dir)
	if d.Transport == TransportMMC {
		d.Removable = attribute(dir, "device/type") == "SD"
	}
	if name := attribute(dir, "dm/name"); name != "" {
		d.Model, d.Serial = name, name
	}
	if file := attribute(dir, "loop/backing_file"); file != "" {
		d.Model = file
	}
	d.Uses = m.uses(dir)
	d.Content = content(d.Path)
	return d
}

// uses are all uses of a disk and its partitions.
func (m *machine) uses(dir string) []string {
	parts, _ := filepath.Glob(filepath.Join(dir, "*", "partition"))
	var uses []string
	for _, part := range append([]string{filepath.Join(dir, "partition")}, parts...) {
		folder := filepath.Dir(part)
		n := attribute(folder, "dev")
		for _, at := range m.mounts[n] {
			uses = append(uses, fmt.Sprintf("%s is mounted at %s", filepath.Base(folder), at))
		}
		if m.swaps[n] {
			uses = append(uses, fmt.Sprintf("%s is swap space", filepath.Base(folder)))
		}
		holders, _ := filepath.Glob(filepath.Join(folder, "holders", "*"))
		for _, h := range holders {
			by := filepath.Base(h)
			if name := attribute(h, "dm/name"); name != "" {
				by += " (" + name + ")"
			}
			uses = append(uses, fmt.Sprintf("%s is part of %s", filepath.Base(folder), by))
		}
	}
	return uses
}

func attribute(dir, name string) string {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return printable(strings.TrimSpace(string(data)))
}

func number(dir, name string) int64 {
	n, _ := strconv.ParseInt(attribute(dir, name), 10, 64)
	return n
}

// printable drops what a device may say of itself and a terminal must not see.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\ufffd' {
			return -1
		}
		return r
	}, s)
}

// serial is a disk's serial number: its own, that of the USB device it is in, or that in its SCSI vital product data. The
// order is that of udev and lsblk, and of the node's agent: a serial that is named for flashing is the one that installs.
func serial(dir string) string {
	for _, name := range []string{"serial", "device/serial"} {
		if s := attribute(dir, name); s != "" {
			return s
		}
	}
	if usb := usbDevice(dir); usb != "" {
		if s := attribute(usb, "serial"); s != "" {
			return s
		}
	}
	if page, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80")); err == nil && len(page) > 4 { // SPC-5, 7.7.20
		return strings.TrimSpace(printable(string(page[4:])))
	}
	return ""
}

// usbDevice is the folder of the USB device that a disk is in; empty when it is in none.
func usbDevice(dir string) string {
	for ; strings.Contains(dir, "/usb"); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "idVendor")); err == nil {
			return dir
		}
	}
	return ""
}

// fixed tells whether the machine says that a USB device is built in.
func fixed(dir string) bool { return attribute(usbDevice(dir), "removable") == "fixed" }

func transport(dir string) string {
	name := filepath.Base(dir)
	for _, t := range []struct{ begins, holds, transport string }{
		{"", "/usb", TransportUSB}, {"nvme", "", TransportNVMe}, {"mmcblk", "", TransportMMC}, {"loop", "", TransportLoop}, {"dm-", "", TransportDM},
		{"", "/ata", TransportSATA}, {"", "/virtio", TransportVirtio}, {"sd", "", TransportSCSI},
	} {
		if strings.HasPrefix(name, t.begins) && strings.Contains(dir, t.holds) {
			return t.transport
		}
	}
	return TransportOther
}

// content says what is on a device, as far as its beginning tells.
func content(path string) []string {
	f, err := os.Open(path)
	if err != nil {
		return []string{"unknown: it cannot be read"}
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return []string{"unknown: it cannot be read"}
	}
	if d, err := disk.Read(f, size); err == nil {
		return partitions(f, d)
	}
	start := make([]byte, 2048)
	if _, err := f.ReadAt(start, 0); err != nil {
		return []string{"unknown: it cannot be read"}
	}
	switch {
	case strings.Trim(string(start), "\x00") == "":
		return nil
	case start[510] == 0x55 && start[511] == 0xaa:
		return []string{"a DOS partition table, or a FAT file system without one"}
	}
	return []string{"data without a partition table"}
}

func partitions(f *os.File, d *disk.Disk) []string {
	var list []string
	for _, p := range d.Partitions {
		line := fmt.Sprintf("partition %d %q, %d MB", p.Index, p.Label, p.Size/1e6)
		if p.Label == bootspec.LabelConfig && p.Size == bootspec.ConfigPlaceSize {
			if c, err := bootspec.ReadConfig(p.Of(f)); err == nil {
				line += fmt.Sprintf(": configuration of node %s of cluster %s", printable(c.Node), printable(c.Cluster))
			}
		}
		list = append(list, line)
	}
	return list
}
