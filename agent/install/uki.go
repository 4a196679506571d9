package install

import (
	"bytes"
	"debug/pe"
	"errors"
	"fmt"

	"github.com/slipway-os/slipway/images/bootspec"
)

// MaxUKI bounds a unified kernel image in bytes: it is held in memory, twice for a moment.
const MaxUKI = 512 << 20

// maxCmdline bounds its kernel command line in bytes.
const maxCmdline = 64 << 10

// CheckUKI wants a unified kernel image to boot this root image and no other, and to be the very file that the machine booted, whose
// digest is that of bootspec.ArgUKI on its command line: what is installed is what runs, wherever it was read.
func CheckUKI(uki []byte, root bootspec.Root, digest string) error {
	file, err := pe.NewFile(bytes.NewReader(uki))
	if err != nil {
		return fmt.Errorf("it is no unified kernel image: %w", err)
	}
	defer file.Close()
	section := file.Section(".cmdline")
	if section == nil {
		return errors.New("it is no unified kernel image: it has no kernel command line")
	}
	if section.Size > maxCmdline || section.VirtualSize > maxCmdline {
		return fmt.Errorf("its kernel command line is over %d bytes", maxCmdline)
	}
	text, err := section.Data()
	if err != nil {
		return fmt.Errorf("cannot read its kernel command line: %w", err)
	}
	got, err := bootspec.ParseRoot(string(bytes.TrimRight(text[:min(len(text), int(section.VirtualSize))], "\x00")))
	if err != nil {
		return fmt.Errorf("its kernel command line: %w", err)
	}
	if got != root {
		return fmt.Errorf("it boots image %s with root hash %s, this machine runs %s with %s", got.Image, got.Hash, root.Image, root.Hash)
	}
	return bootspec.CheckUKIDigest(uki, digest)
}
