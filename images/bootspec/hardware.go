package bootspec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
)

// A machine that isn't in the cluster document may be discovered: it boots any role's image, writes nothing, tells the boot server
// its hardware over TLS, and asks until it has become a node.
const (
	// RouteHardware takes a Hardware (POST over TLS, JSON) from the address that the boot server has given the machine, and answers
	// it with a Discovered. The machine asks again and again.
	RouteHardware = "/v1/hardware"
	// HardwareVersion is the version of this protocol.
	HardwareVersion = 1
	// EventDiscovered: a machine outside the document has told its hardware and waits.
	EventDiscovered Event = "discovered"
)

// Bounds of a Hardware: in bytes as JSON and for each text, and how many there may be of the parts.
const (
	MaxHardware     = 64 << 10
	MaxHardwareText = 128
	MaxDisks        = 128
	MaxNICs         = 64
	MaxCPUFlags     = 32
)

// Discovered is what the boot server answers a machine that it discovers.
type Discovered struct {
	// Node is what the machine has become: it restarts, and gets that node's configuration. Empty: nobody has adopted it yet.
	Node string `json:"node,omitempty"`
	// Seconds until it asks again.
	Seconds int `json:"seconds"`
}

// Hardware is what a machine says of itself. Nobody vouches for it. Its texts are printable ASCII of at most MaxHardwareText bytes; empty
// and 0: not known.
type Hardware struct {
	Version int    `json:"version"` // HardwareVersion
	MAC     string `json:"mac"`     // of the link that reached the server, lower case with colons
	Image   string `json:"image"`   // artifact base name

	System   System         `json:"system"`
	Firmware Firmware       `json:"firmware"`
	CPU      CPU            `json:"cpu"`
	Memory   int64          `json:"memory"` // bytes
	TPM      string         `json:"tpm"`    // its version, 2.0 or 1.2; empty: there is none that the kernel knows
	Disks    []HardwareDisk `json:"disks"`
	NICs     []HardwareNIC  `json:"nics"`
}

// System is what the firmware says of the machine (SMBIOS types 0, 1 and 2).
type System struct {
	Vendor  string `json:"vendor,omitempty"`
	Product string `json:"product,omitempty"`
	Serial  string `json:"serial,omitempty"`
	UUID    string `json:"uuid,omitempty"`
	Board   string `json:"board,omitempty"`
}

// Firmware is what the machine boots with.
type Firmware struct {
	UEFI       bool   `json:"uefi"`       // else legacy BIOS, or a kernel that was started directly
	SecureBoot string `json:"secureBoot"` // on, off, setup (no keys are enrolled); empty: not known
	Vendor     string `json:"vendor,omitempty"`
	Version    string `json:"version,omitempty"`
	Date       string `json:"date,omitempty"`
}

// CPU is the machine's processors; all are of one model.
type CPU struct {
	Model   string   `json:"model,omitempty"`
	Sockets int      `json:"sockets"`
	Cores   int      `json:"cores"`   // of all sockets
	Threads int      `json:"threads"` // of all cores
	Flags   []string `json:"flags"`   // those that matter for what may run there
}

// HardwareDisk is a drive.
type HardwareDisk struct {
	Name           string `json:"name"` // sda
	Model          string `json:"model,omitempty"`
	Serial         string `json:"serial,omitempty"`
	WWN            string `json:"wwn,omitempty"`
	Bus            string `json:"bus,omitempty"` // pci-0000:00:04.0
	Transport      string `json:"transport,omitempty"`
	Size           int64  `json:"size"`           // bytes
	SectorSize     int    `json:"sectorSize"`     // bytes, logical
	PhysicalSector int    `json:"physicalSector"` // bytes
	Rotational     bool   `json:"rotational"`
	Removable      bool   `json:"removable"`
	ReadOnly       bool   `json:"readOnly"`
	Optical        bool   `json:"optical"`
	Partitions     int    `json:"partitions"` // how many the kernel sees
}

// HardwareNIC is a network card's port.
type HardwareNIC struct {
	Name    string `json:"name"` // of the kernel; it may be another at the next boot
	MAC     string `json:"mac"`  // lower case with colons
	Driver  string `json:"driver,omitempty"`
	PCI     string `json:"pci,omitempty"` // 0000:00:03.0
	Carrier bool   `json:"carrier"`
	Speed   int    `json:"speed"` // Mbit/s
}

var (
	hardwarePCI  = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)
	hardwareUUID = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
)

// maxBytes is more than any machine has of memory or a disk: 2^60.
const maxBytes = 1 << 60

// ParseHardware reads what a machine says of itself, strictly: whatever doesn't fit the bounds and the forms above is an error. Fields
// that it doesn't know are passed over.
func ParseHardware(body io.Reader) (Hardware, error) {
	fail := func(err error) (Hardware, error) {
		return Hardware{}, fmt.Errorf("cannot read a machine's hardware: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(body, MaxHardware+1))
	if err != nil {
		return fail(err)
	}
	if len(data) > MaxHardware {
		return fail(fmt.Errorf("it is over %d bytes", MaxHardware))
	}
	var h Hardware
	if err := json.Unmarshal(data, &h); err != nil {
		return fail(err)
	}
	if h.Version != HardwareVersion {
		return fail(fmt.Errorf("the image speaks version %d of it, this boot server version %d: bake the image and run the boot server with the same slipway", h.Version, HardwareVersion))
	}
	if err := h.check(); err != nil {
		return fail(err)
	}
	return h, nil
}

// check says what is wrong with it.
func (h Hardware) check() error {
	s, f := h.System, h.Firmware
	texts := []string{h.Image, h.TPM, s.Vendor, s.Product, s.Serial, s.UUID, s.Board, f.SecureBoot, f.Vendor, f.Version, f.Date, h.CPU.Model}
	numbers := []int64{h.Memory, int64(h.CPU.Sockets), int64(h.CPU.Cores), int64(h.CPU.Threads)}
	macs := []string{h.MAC}
	if len(h.Disks) > MaxDisks || len(h.NICs) > MaxNICs || len(h.CPU.Flags) > MaxCPUFlags {
		return fmt.Errorf("%d disks, %d network cards, %d processor flags are more than may be", len(h.Disks), len(h.NICs), len(h.CPU.Flags))
	}
	texts = append(texts, h.CPU.Flags...)
	for _, d := range h.Disks {
		texts = append(texts, d.Name, d.Model, d.Serial, d.WWN, d.Bus, d.Transport)
		numbers = append(numbers, d.Size, int64(d.SectorSize), int64(d.PhysicalSector), int64(d.Partitions))
	}
	for _, n := range h.NICs {
		texts, macs, numbers = append(texts, n.Name, n.Driver, n.PCI), append(macs, n.MAC), append(numbers, int64(n.Speed))
		if n.PCI != "" && !hardwarePCI.MatchString(n.PCI) {
			return fmt.Errorf("%.40q is no PCI address", n.PCI)
		}
	}
	if s.UUID != "" && !hardwareUUID.MatchString(s.UUID) {
		return fmt.Errorf("%.40q is no UUID", s.UUID)
	}
	for _, t := range texts {
		if t != HardwareText(t) {
			return fmt.Errorf("%.40q is no printable text of at most %d bytes", t, MaxHardwareText)
		}
	}
	for _, n := range numbers {
		if n < 0 || n > maxBytes {
			return fmt.Errorf("the number %d is out of range", n)
		}
	}
	for _, m := range macs {
		if hw, err := net.ParseMAC(m); err != nil || len(hw) != 6 || hw.String() != m {
			return fmt.Errorf("%.40q is no MAC address like 52:54:00:00:00:11", m)
		}
	}
	if h.System.Serial != "" && strings.TrimSpace(h.System.Serial) == "" {
		return errors.New("its serial number is empty space")
	}
	return nil
}

// HardwareText makes a text one that a Hardware may have: what isn't printable ASCII is left out, and what is too long cut off.
func HardwareText(s string) string {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	return strings.TrimSpace(clean[:min(len(clean), MaxHardwareText)])
}

// Public is what anyone on the provisioning network may see of it: not the serial number and UUID by which a node's configuration is
// claimed.
func (h Hardware) Public() Hardware {
	h.System.Serial, h.System.UUID = "", ""
	return h
}

// Summary is the machine in a line: "QEMU Standard PC, 1 x QEMU CPU (2 cores, 4 threads), 2.0 GiB, 2 disks (40.0 GB, 1.0 TB), 2 NICs, UEFI". It
// has nothing of what Public leaves out.
func (h Hardware) Summary() string {
	var words []string
	if product := strings.TrimSpace(h.System.Vendor + " " + h.System.Product); product != "" {
		words = append(words, product)
	}
	model := h.CPU.Model
	if model == "" {
		model = "processor"
	}
	words = append(words, fmt.Sprintf("%d x %s (%s, %s)", h.CPU.Sockets, model, count(h.CPU.Cores, "core"), count(h.CPU.Threads, "thread")), fmt.Sprintf("%.1f GiB", float64(h.Memory)/(1<<30)))
	disks := count(len(h.Disks), "disk")
	var sizes []string
	for i, d := range h.Disks {
		if i == 4 {
			sizes = append(sizes, "...")
			break
		}
		sizes = append(sizes, DiskSize(d.Size))
	}
	if len(sizes) > 0 {
		disks += " (" + strings.Join(sizes, ", ") + ")"
	}
	return strings.Join(append(words, disks, count(len(h.NICs), "NIC"), h.Firmware.Kind()), ", ")
}

// Kind is UEFI or BIOS.
func (f Firmware) Kind() string {
	if f.UEFI {
		return "UEFI"
	}
	return "BIOS"
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// DiskSize is a number of bytes as drives are sold: 512.1 GB (10^9 bytes).
func DiskSize(n int64) string {
	switch {
	case n >= 1e12:
		return fmt.Sprintf("%.1f TB", float64(n)/1e12)
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}
