package bootentry

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var esp = Partition{Number: 1, Start: 2048, Size: 1048576, GUID: "12345678-9abc-def0-1122-334455667788"}

// variables makes a folder like efivarfs: names without the vendor's GUID, and contents in hexadecimal.
// A plain file keeps its tail when less is written; efivarfs replaces a variable whole: no case here shortens one.
func variables(t *testing.T, all map[string]string) string {
	t.Helper()
	folder := t.TempDir()
	for name, content := range all {
		data, err := hex.DecodeString(strings.ReplaceAll(content, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, name+global), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func content(t *testing.T, folder, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(folder, name+global))
	if errors.Is(err, os.ErrNotExist) {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(data)
}

// Load options: attributes of the variable, active, 4 bytes of device path (the end node), description.
const (
	pxe     = "07000000 01000000 0400 5000 5800 4500 0000 7fff0400"
	slipway = "07000000 01000000 0400 5300 6c00 6900 7000 7700 6100 7900 0000 7fff0400"
)

func TestSet(t *testing.T) {
	for _, tt := range []struct {
		name  string
		have  map[string]string
		entry string
		order string
		next  string // of Next, afterwards
		gone  string
	}{
		{"first of all", map[string]string{"Other": "07000000"}, "Boot0000", "07000000" + "0000", "0000", ""},
		{"before the network", map[string]string{"Boot0000": pxe, "Boot0001": pxe, "Boot0003": pxe, "BootOrder": "07000000 0300 0000 0100"},
			"Boot0002", "07000000" + "0200" + "0300" + "0000" + "0100", "0200", ""},
		{"instead of an earlier one", map[string]string{"Boot0000": pxe, "Boot0001": slipway, "Boot0005": slipway, "BootOrder": "07000000 0000 0500"},
			"Boot0001", "07000000" + "0100" + "0000", "0100", "Boot0005"},
		{"nonsense among them", map[string]string{"Boot0000": "07", "Boot0001": "07000000 0100", "BootOrder": "07000000 01"},
			"Boot0002", "07000000" + "0200", "0200", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			folder := variables(t, tt.have)
			name, err := Set(folder, esp, "EFI/BOOT/BOOTX64.EFI")
			if err != nil || name != tt.entry {
				t.Fatalf("got %s %v, want %s", name, err, tt.entry)
			}
			if got := content(t, folder, "BootOrder"); got != tt.order {
				t.Errorf("order is %s, want %s", got, tt.order)
			}
			if tt.gone != "" && content(t, folder, tt.gone) != "none" {
				t.Errorf("%s is still there", tt.gone)
			}
			// As efibootmgr -v -l '\EFI\BOOT\BOOTX64.EFI' writes it.
			want := "07000000" + "01000000" + "5e00" + "53006c006900700077006100790000" + "00" +
				"04012a00" + "01000000" + "0008000000000000" + "0000100000000000" + "78563412bc9af0de1122334455667788" + "0202" +
				"04043000" + hex.EncodeToString(text(`\EFI\BOOT\BOOTX64.EFI`)) + "7fff0400"
			if got := content(t, folder, name); got != want {
				t.Errorf("option is\n%s, want\n%s", got, want)
			}
			if err := Next(folder); err != nil {
				t.Fatal(err)
			}
			if got := content(t, folder, "BootNext"); got != "07000000"+tt.next {
				t.Errorf("next is %s", got)
			}
			again, err := Set(folder, esp, "EFI/BOOT/BOOTX64.EFI")
			if err != nil || again != name || content(t, folder, "BootOrder") != tt.order {
				t.Errorf("done twice: %s %v, order %s", again, err, content(t, folder, "BootOrder"))
			}
		})
	}
}

func TestNoFirmware(t *testing.T) {
	for _, folder := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		if _, err := Set(folder, esp, "EFI/BOOT/BOOTX64.EFI"); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", folder, err)
		}
	}
	if err := Next(variables(t, map[string]string{"Boot0000": pxe})); err == nil {
		t.Error("something of others would boot next")
	}
}
