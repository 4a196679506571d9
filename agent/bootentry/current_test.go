package bootentry

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// Device paths of network boots: PciRoot(0x0)/Pci(0x2,0x0)/MAC(525400000021,0x1)[/Vlan(100)]/IPv4(...), as OVMF writes them.
const (
	pathPCI  = "02010c00 d041030a 00000000 01010600 0002 "
	pathMAC  = "030b2500 525400000021 0000000000000000000000000000000000000000000000000000 01 "
	pathVLAN = "03140600 6400 "
	pathIPv4 = "030c1b00 00000000 00000000 0000 0000 0000 00 00000000 00000000 "
	pathEnd  = "7fff0400"
)

// option is a load option with a device path, as efivarfs shows it.
func option(path string) string {
	size := len(strings.ReplaceAll(path, " ", "")) / 2
	return "07000000 01000000 " + hex.EncodeToString([]byte{byte(size), byte(size >> 8)}) + " 5500 4500 4600 4900 0000 " + path
}

// TestBooted: which card firmware has booted over, and with which tag; nothing where it was none, an error where what it says is damaged.
func TestBooted(t *testing.T) {
	const current = "06000000 0300"
	const card, none = "52:54:00:00:00:21 vlan 0", " vlan 0"
	for _, tt := range []struct {
		name string
		have map[string]string
		want string // or a part of the error
	}{
		{"no variables", nil, none},
		{"a card", map[string]string{"BootCurrent": current, "Boot0003": option(pathPCI + pathMAC + pathIPv4 + pathEnd)}, card},
		{"a VLAN", map[string]string{"BootCurrent": current, "Boot0003": option(pathPCI + pathMAC + pathVLAN + pathIPv4 + pathEnd)}, "52:54:00:00:00:21 vlan 100"},
		{"a VLAN with a priority", map[string]string{"BootCurrent": current, "Boot0003": option(pathMAC + "03140600 64e0" + pathEnd)}, "52:54:00:00:00:21 vlan 100"},
		{"without an end", map[string]string{"BootCurrent": current, "Boot0003": option(pathMAC + pathVLAN)}, "52:54:00:00:00:21 vlan 100"},
		{"a disk", map[string]string{"BootCurrent": current, "Boot0003": option(pathPCI + pathEnd)}, none},
		{"a VLAN of no card", map[string]string{"BootCurrent": current, "Boot0003": option(pathVLAN + pathEnd)}, none},
		{"another one is current", map[string]string{"BootCurrent": "06000000 0400", "Boot0003": option(pathMAC + pathVLAN + pathEnd)}, none},
		{"cut off number", map[string]string{"BootCurrent": "06000000 03"}, "BootCurrent has 1 bytes"},
		{"cut off option", map[string]string{"BootCurrent": current, "Boot0003": "07000000 0100"}, "Boot0003: it is cut off"},
		{"endless description", map[string]string{"BootCurrent": current, "Boot0003": "07000000 01000000 0400 5500 45"}, "description doesn't end"},
		{"cut off path", map[string]string{"BootCurrent": current, "Boot0003": "07000000 01000000 4400 0000 " + pathMAC}, "path is cut off"},
		{"a node that is too long", map[string]string{"BootCurrent": current, "Boot0003": option("030bff00 5254")}, "path is damaged"},
		{"a node without a length", map[string]string{"BootCurrent": current, "Boot0003": option("030b0000 5254")}, "path is damaged"},
		{"a short node", map[string]string{"BootCurrent": current, "Boot0003": option("030b0600 5254 " + pathEnd)}, none},
	} {
		t.Run(tt.name, func(t *testing.T) {
			card, err := Booted(variables(t, tt.have))
			got := fmt.Sprintf("%v vlan %d", card.MAC, card.VLAN)
			if err != nil {
				got = err.Error()
			}
			if got != tt.want && (err == nil || !strings.Contains(got, tt.want)) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// FuzzCardOf: whatever firmware has written, reading it ends, with a tag that a VLAN can have.
func FuzzCardOf(f *testing.F) {
	for _, path := range []string{pathMAC + pathVLAN + pathEnd, pathPCI + pathMAC + pathIPv4 + pathEnd, "030bff00 5254"} {
		data, err := hex.DecodeString(strings.ReplaceAll(option(path)[len("07000000 "):], " ", ""))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, option []byte) {
		c, err := cardOf(option)
		if c.VLAN < 0 || c.VLAN > 4095 || c.VLAN != 0 && (len(c.MAC) != 6 || err != nil) {
			t.Errorf("%x: got %+v, %v", option, c, err)
		}
	})
}
