// Package hardware reads what a machine is made of, as /sys and /proc tell it, into a bootspec.Hardware: processors, memory, drives,
// network cards, firmware, TPM. It only reads; what it can't learn it leaves out.
package hardware

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-os/slipway/agent/drives"
	"github.com/slipway-os/slipway/agent/network"
	"github.com/slipway-os/slipway/images/bootspec"
)

// Machine is where it is read from.
type Machine struct {
	Sys, Proc string              // /sys and /proc
	Links     []network.LinkState // of the machine (network.Links)
}

// Read reads it. MAC and Image are the caller's to fill in. The error names the drive that can't be read.
func (m Machine) Read() (bootspec.Hardware, error) {
	list, err := drives.List(m.Sys)
	if err != nil {
		return bootspec.Hardware{}, err
	}
	return bootspec.Hardware{
		Version: bootspec.HardwareVersion, System: m.system(), Firmware: m.firmware(), CPU: m.cpu(), Memory: m.memory(), TPM: m.tpm(),
		Disks: m.disks(list), NICs: m.nics(),
	}, nil
}

// sys is the content of a file below /sys; empty: it can't be read.
func (m Machine) sys(path ...string) string {
	return text(filepath.Join(append([]string{m.Sys}, path...)...))
}

// maxFile bounds what is read of a file of one value, in bytes.
const maxFile = 4096

func text(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return bootspec.HardwareText(string(data[:min(len(data), maxFile)]))
}

func (m Machine) system() bootspec.System {
	dmi := func(name string) string { return m.sys("class/dmi/id", name) }
	s := bootspec.System{Vendor: dmi("sys_vendor"), Product: dmi("product_name"), Serial: dmi("product_serial"), UUID: dmi("product_uuid"), Board: dmi("board_name")}
	if s.Product == "" { // boards without SMBIOS have a device tree
		s.Product = m.sys("firmware/devicetree/base/model")
	}
	return s
}

// secureBoot and setupMode are variables of UEFI (specification 2.10, section 3.3): four bytes of attributes, then one of value.
const (
	secureBoot = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	setupMode  = "firmware/efi/efivars/SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c"
)

func (m Machine) firmware() bootspec.Firmware {
	f := bootspec.Firmware{Vendor: m.sys("class/dmi/id/bios_vendor"), Version: m.sys("class/dmi/id/bios_version"), Date: m.sys("class/dmi/id/bios_date")}
	if _, err := os.Stat(filepath.Join(m.Sys, "firmware/efi")); err != nil {
		return f
	}
	f.UEFI = true
	secure, known := m.variable(secureBoot)
	setup, _ := m.variable(setupMode)
	switch {
	case secure:
		f.SecureBoot = "on"
	case setup:
		f.SecureBoot = "setup"
	case known:
		f.SecureBoot = "off"
	}
	return f
}

// variable is a UEFI variable of one truth value.
func (m Machine) variable(path string) (value, known bool) {
	data, err := os.ReadFile(filepath.Join(m.Sys, path))
	if err != nil || len(data) != 5 {
		return false, false
	}
	return data[4] == 1, true
}

// tpm is the version of the first TPM; one whose driver isn't loaded shows by the firmware's table.
func (m Machine) tpm() string {
	switch m.sys("class/tpm/tpm0/tpm_version_major") {
	case "2":
		return "2.0"
	case "1":
		return "1.2"
	}
	if _, err := os.Stat(filepath.Join(m.Sys, "firmware/acpi/tables/TPM2")); err == nil {
		return "2.0"
	}
	return ""
}

// memory is that of all blocks that are online, which counts what the kernel has taken for itself; else what the kernel has left.
func (m Machine) memory() int64 {
	size, err := strconv.ParseInt(m.sys("devices/system/memory/block_size_bytes"), 16, 64)
	blocks, _ := filepath.Glob(filepath.Join(m.Sys, "devices/system/memory/memory[0-9]*/online"))
	if err == nil && size > 0 && len(blocks) > 0 {
		total := int64(0)
		for _, b := range blocks {
			if text(b) == "1" {
				total += size
			}
		}
		return total
	}
	data, err := os.ReadFile(filepath.Join(m.Proc, "meminfo"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "MemTotal:" {
			kib, _ := strconv.ParseInt(fields[1], 10, 50)
			return kib << 10
		}
	}
	return 0
}

// flagsThatMatter are the processors' flags that say what may run: virtualisation, cryptography, vectors, and whether this is a virtual
// machine. x86 and arm64.
var flagsThatMatter = []string{
	"vmx", "svm", "hypervisor", "aes", "sha_ni", "pclmulqdq", "sse4_2", "avx", "avx2", "avx512f", "avx512vl", "amx_tile", "rdrand", "pdpe1gb", "sgx", "sev", "tdx",
	"asimd", "sha2", "sha512", "pmull", "atomics", "sve", "sve2", "cpuid",
}

func (m Machine) cpu() bootspec.CPU {
	c := bootspec.CPU{Flags: []string{}}
	data, err := os.ReadFile(filepath.Join(m.Proc, "cpuinfo"))
	if err != nil {
		return c
	}
	values := map[string]string{}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(line, ":")
		if key = strings.TrimSpace(key); values[key] == "" {
			values[key] = strings.TrimSpace(value)
		}
	}
	c.Model = bootspec.HardwareText(values["model name"])
	if c.Model == "" && values["CPU part"] != "" {
		c.Model = bootspec.HardwareText(fmt.Sprintf("%s, implementer %s part %s", runtime.GOARCH, values["CPU implementer"], values["CPU part"]))
	}
	have := strings.Fields(values["flags"] + " " + values["Features"])
	for _, f := range flagsThatMatter {
		if slices.Contains(have, f) {
			c.Flags = append(c.Flags, f)
		}
	}
	m.topology(&c)
	return c
}

// topology counts sockets, cores and threads.
func (m Machine) topology(c *bootspec.CPU) {
	folders, _ := filepath.Glob(filepath.Join(m.Sys, "devices/system/cpu/cpu[0-9]*"))
	sockets, cores := map[string]bool{}, map[string]bool{}
	for _, f := range folders {
		socket := text(filepath.Join(f, "topology/physical_package_id"))
		if socket == "" {
			continue // offline
		}
		c.Threads++
		sockets[socket] = true
		cores[socket+"/"+text(filepath.Join(f, "topology/die_id"))+"/"+text(filepath.Join(f, "topology/core_id"))] = true
	}
	c.Sockets, c.Cores = len(sockets), len(cores)
}

func (m Machine) disks(list []drives.Drive) []bootspec.HardwareDisk {
	disks := []bootspec.HardwareDisk{}
	clean := bootspec.HardwareText
	for _, d := range list[:min(len(list), bootspec.MaxDisks)] {
		queue := filepath.Join(m.Sys, "block", d.Name, "queue")
		physical, _ := strconv.Atoi(text(filepath.Join(queue, "physical_block_size")))
		disks = append(disks, bootspec.HardwareDisk{
			Name: clean(d.Name), Model: clean(d.Model), Serial: clean(d.Serial), WWN: clean(d.WWN), Bus: clean(d.Bus), Transport: clean(d.Transport),
			Size: d.Size, SectorSize: d.SectorSize, PhysicalSector: max(0, physical), Rotational: text(filepath.Join(queue, "rotational")) == "1",
			Removable: d.Removable, ReadOnly: d.ReadOnly, Optical: d.Optical, Partitions: len(d.Partitions),
		})
	}
	return disks
}

// macLength is that of an Ethernet address in its text form.
const macLength = len("52:54:00:00:00:11")

func (m Machine) nics() []bootspec.HardwareNIC {
	nics := []bootspec.HardwareNIC{}
	for _, l := range m.Links {
		if l.Kind != bootspec.KindPhysical || len(l.MAC) != macLength || len(nics) == bootspec.MaxNICs {
			continue
		}
		speed, _ := strconv.Atoi(m.sys("class/net", l.Name, "speed")) // -1, or not to be read: nobody knows
		nics = append(nics, bootspec.HardwareNIC{
			Name: bootspec.HardwareText(l.Name), MAC: l.MAC, Driver: bootspec.HardwareText(l.Driver), PCI: l.PCI, Carrier: l.Carrier, Speed: max(0, speed),
		})
	}
	return nics
}
