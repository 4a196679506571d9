package hardware

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/agent/network"
	"github.com/slipway-os/slipway/images/bootspec"
)

func put(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// server is a machine of two sockets with two cores of two threads each.
func server(t *testing.T) Machine {
	t.Helper()
	m := Machine{Sys: t.TempDir(), Proc: t.TempDir(), Links: []network.LinkState{
		{Name: "eth0", Kind: bootspec.KindPhysical, MAC: "52:54:00:00:00:99", Driver: "virtio_net", PCI: "0000:00:03.0", Carrier: true},
		{Name: "ib0", Kind: bootspec.KindPhysical, MAC: "80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0f:b2:bd"},
		{Name: "veth1", Kind: "veth", MAC: "52:54:00:00:00:98"},
		{Name: "eth1", Kind: bootspec.KindPhysical, MAC: "52:54:00:00:01:99"},
	}}
	put(t, m.Sys, map[string]string{
		"class/dmi/id/sys_vendor": "Maker\n", "class/dmi/id/product_name": "Model \x1b[31m9\n", "class/dmi/id/product_serial": "S1\n",
		"class/dmi/id/product_uuid": "4c4c4544-0042-3010-8051-b4c04f4e3132\n", "class/dmi/id/bios_version": "1.2\n",
		secureBoot: "\x06\x00\x00\x00\x01", setupMode: "\x06\x00\x00\x00\x00", "class/tpm/tpm0/tpm_version_major": "2\n",
		"devices/system/memory/block_size_bytes": "8000000\n", "devices/system/memory/memory0/online": "1\n",
		"devices/system/memory/memory1/online": "1\n", "devices/system/memory/memory9/online": "0\n",
		"class/net/eth0/speed": "25000\n", "class/net/eth1/speed": "-1\n",
		"devices/pci0000:00/0000:00:04.0/virtio1/block/vda/size": "2048\n", "devices/pci0000:00/0000:00:04.0/virtio1/block/vda/queue/logical_block_size": "512\n",
		"devices/pci0000:00/0000:00:04.0/virtio1/block/vda/queue/physical_block_size": "4096\n", "devices/pci0000:00/0000:00:04.0/virtio1/block/vda/queue/rotational": "1\n",
		"devices/pci0000:00/0000:00:04.0/virtio1/block/vda/serial": "D1\n", "devices/pci0000:00/0000:00:04.0/virtio1/block/vda/device/vendor": "0x1af4\n",
	})
	if err := os.MkdirAll(filepath.Join(m.Sys, "block"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../devices/pci0000:00/0000:00:04.0/virtio1/block/vda", filepath.Join(m.Sys, "block/vda")); err != nil {
		t.Fatal(err)
	}
	for i, place := range []string{"0 0", "0 0", "0 1", "0 1", "1 0", "1 0", "1 1", "1 1"} {
		socket, core, _ := strings.Cut(place, " ")
		folder := "devices/system/cpu/cpu" + string(rune('0'+i)) + "/topology/"
		put(t, m.Sys, map[string]string{folder + "physical_package_id": socket, folder + "core_id": core})
	}
	put(t, m.Sys, map[string]string{"devices/system/cpu/cpu8/online": "0"})
	put(t, m.Proc, map[string]string{"cpuinfo": "processor\t: 0\nmodel name\t: Processor X\nflags\t\t: fpu aes vmx lm\n\nprocessor\t: 1\nmodel name\t: Processor X\n", "meminfo": "MemTotal:       1000 kB\n"})
	return m
}

func TestReadTellsTheMachine(t *testing.T) {
	m := server(t)
	got, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	want := bootspec.Hardware{
		Version:  bootspec.HardwareVersion,
		System:   bootspec.System{Vendor: "Maker", Product: "Model [31m9", Serial: "S1", UUID: "4c4c4544-0042-3010-8051-b4c04f4e3132"},
		Firmware: bootspec.Firmware{UEFI: true, SecureBoot: "on", Version: "1.2"},
		CPU:      bootspec.CPU{Model: "Processor X", Sockets: 2, Cores: 4, Threads: 8, Flags: []string{"vmx", "aes"}},
		Memory:   256 << 20, TPM: "2.0",
		Disks: []bootspec.HardwareDisk{{Name: "vda", Serial: "D1", Bus: "pci-0000:00:04.0", Transport: "virtio", Size: 1 << 20, SectorSize: 512, PhysicalSector: 4096, Rotational: true}},
		NICs: []bootspec.HardwareNIC{
			{Name: "eth0", MAC: "52:54:00:00:00:99", Driver: "virtio_net", PCI: "0000:00:03.0", Carrier: true, Speed: 25000}, {Name: "eth1", MAC: "52:54:00:00:01:99"},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// TestReadIsTaken: what this machine is, and one of which nothing is known, is what a server takes.
func TestReadIsTaken(t *testing.T) {
	links, err := network.Links()
	if err != nil {
		t.Fatal(err)
	}
	bare := Machine{Sys: t.TempDir(), Proc: t.TempDir()}
	put(t, bare.Sys, map[string]string{"block/none/size": "1"})
	for _, m := range []Machine{{Sys: "/sys", Proc: "/proc", Links: links}, bare, server(t)} {
		h, err := m.Read()
		if err != nil {
			t.Fatal(err)
		}
		h.MAC = "52:54:00:00:00:99"
		data, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bootspec.ParseHardware(strings.NewReader(string(data))); err != nil {
			t.Errorf("%s: %v", data, err)
		}
	}
}
