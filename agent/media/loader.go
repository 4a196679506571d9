package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"
)

// EFIVariables is where the kernel shows the firmware's variables (efivarfs).
const EFIVariables = "/sys/firmware/efi/efivars"

// loaderVendor is the vendor GUID of the variables of systemd-boot (systemd, "The Boot Loader Interface").
const loaderVendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// Loader is what the boot loader on a medium tells of itself.
type Loader struct {
	Name string // systemd-boot 257.7-1
	// ESP is the GUID of the partition it was loaded from, in lower case; empty when that is none of a GPT: a CD-ROM.
	ESP string
}

// ReadLoader tells whether systemd-boot started this kernel, from the variables in a folder (EFIVariables). Without it the
// machine booted from the network, or has other firmware than UEFI. Variables are volatile: they are of this boot.
func ReadLoader(folder string) (l Loader, ok bool, err error) {
	if l.Name, err = variable(folder, "LoaderInfo"); errors.Is(err, fs.ErrNotExist) {
		return Loader{}, false, nil
	} else if err != nil {
		return Loader{}, false, err
	}
	if l.ESP, err = variable(folder, "LoaderDevicePartUUID"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Loader{}, false, err
	}
	l.ESP = strings.ToLower(l.ESP)
	return l, true, nil
}

// maxVariable bounds a variable in bytes.
const maxVariable = 4096

// variable is a text: attributes (32 bits), then UTF-16 with a zero at its end.
func variable(folder, name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(folder, name+"-"+loaderVendor))
	if err != nil {
		return "", fmt.Errorf("cannot read EFI variable: %w", err)
	}
	if len(data) < 4 || len(data) > maxVariable || len(data)%2 != 0 {
		return "", fmt.Errorf("cannot read EFI variable %s: it has %d bytes", name, len(data))
	}
	var units []uint16
	for i := 4; i < len(data); i += 2 {
		u := binary.LittleEndian.Uint16(data[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, string(utf16.Decode(units))), nil
}
