package bootspec_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// someHardware is a machine as a rack has them.
func someHardware() bootspec.Hardware {
	return bootspec.Hardware{
		Version: bootspec.HardwareVersion, MAC: "52:54:00:00:00:99", Image: "slipway-worker-0.1.0-amd64",
		System:   bootspec.System{Vendor: "Dell Inc.", Product: "PowerEdge R650", Serial: "ABC1234", UUID: "4c4c4544-0042-3010-8051-b4c04f4e3132"},
		Firmware: bootspec.Firmware{UEFI: true, SecureBoot: "off", Vendor: "Dell Inc.", Version: "1.2.3", Date: "01/02/2025"},
		CPU:      bootspec.CPU{Model: "Intel(R) Xeon(R) Gold 6330 CPU @ 2.00GHz", Sockets: 2, Cores: 56, Threads: 112, Flags: []string{"aes", "vmx"}},
		Memory:   256 << 30, TPM: "2.0",
		Disks: []bootspec.HardwareDisk{{Name: "sda", Model: "SSD", Serial: "S3Z8", WWN: "naa.5000c500a1b2c3d4", Bus: "pci-0000:00:17.0", Transport: "ata", Size: 480e9, SectorSize: 512, PhysicalSector: 4096}},
		NICs:  []bootspec.HardwareNIC{{Name: "eth0", MAC: "52:54:00:00:00:99", Driver: "ixgbe", PCI: "0000:3b:00.0", Carrier: true, Speed: 10000}, {Name: "eth1", MAC: "52:54:00:00:01:99"}},
	}
}

func TestHardwareComesBack(t *testing.T) {
	want := someHardware()
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := bootspec.ParseHardware(strings.NewReader(string(data)))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	const line = "Dell Inc. PowerEdge R650, 2 x Intel(R) Xeon(R) Gold 6330 CPU @ 2.00GHz (56 cores, 112 threads), 256.0 GiB, 1 disk (480.0 GB), 2 NICs, UEFI"
	if got.Summary() != line {
		t.Error(got.Summary())
	}
	public, _ := json.Marshal(got.Public())
	if strings.Contains(string(public), "ABC1234") || strings.Contains(string(public), "4c4c4544") || got.System.Serial == "" {
		t.Errorf("what binds a claim is public: %s", public)
	}
}

// TestHardwareIsStrict: a machine that nobody knows can't bring anything but hardware.
func TestHardwareIsStrict(t *testing.T) {
	for want, spoil := range map[string]func(*bootspec.Hardware){
		"version 2 of it":        func(h *bootspec.Hardware) { h.Version = 2 },
		`"52:54:00:00:00" is no`: func(h *bootspec.Hardware) { h.MAC = "52:54:00:00:00" },
		`"52-54-00-00-00-99" is`: func(h *bootspec.Hardware) { h.NICs[0].MAC = "52-54-00-00-00-99" },
		"is no PCI address":      func(h *bootspec.Hardware) { h.NICs[0].PCI = "../../x" },
		"is no UUID":             func(h *bootspec.Hardware) { h.System.UUID = "x" },
		"is no printable text":   func(h *bootspec.Hardware) { h.Disks[0].Serial = "a\x1b[2Jb" },
		"at most 128 bytes":      func(h *bootspec.Hardware) { h.CPU.Model = strings.Repeat("x", 129) },
		"no printable text of":   func(h *bootspec.Hardware) { h.System.Product = "two\nlines" },
		"the number -1 is out":   func(h *bootspec.Hardware) { h.Disks[0].Size = -1 },
		"129 disks":              func(h *bootspec.Hardware) { h.Disks = make([]bootspec.HardwareDisk, 129) },
		"65 network cards":       func(h *bootspec.Hardware) { h.NICs = make([]bootspec.HardwareNIC, 65) },
		"over 65536 bytes": func(h *bootspec.Hardware) {
			h.CPU.Flags = []string{strings.Repeat("x", bootspec.MaxHardware)}
		},
	} {
		h := someHardware()
		spoil(&h)
		data, _ := json.Marshal(h)
		if _, err := bootspec.ParseHardware(strings.NewReader(string(data))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want: %s", err, want)
		}
	}
}

func FuzzHardware(f *testing.F) {
	data, _ := json.Marshal(someHardware())
	f.Add(data)
	f.Add([]byte(`{"version":1,"mac":"52:54:00:00:00:99","disks":[{"serial":"\u001b"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := bootspec.ParseHardware(strings.NewReader(string(data)))
		if err != nil {
			return
		}
		again, err := json.Marshal(h)
		if err != nil || len(again) > 4*bootspec.MaxHardware || strings.ContainsFunc(h.Summary(), func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q, %d bytes, %v", h.Summary(), len(again), err)
		}
	})
}
