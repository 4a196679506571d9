package flash

import (
	"errors"
	"fmt"
	"strings"
)

// Want is what a device must be.
type Want struct {
	Size       int64 // of the image in bytes; 0: not known
	SectorSize int   // of the image; 0: any
	// Serial, with Force, names a device that is not removable and may be written nevertheless.
	Serial string
	Force  bool
}

// ErrRefused is what errors about devices that must not be written wrap.
var ErrRefused = errors.New("refused")

// Refusals are all reasons not to write a device, with what to do; none: it may be written.
func (d Device) Refusals(w Want) []string {
	var list []string
	add := func(when bool, format string, args ...any) {
		if when {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	add(d.System, "this machine runs from it")
	for _, use := range d.Uses {
		add(true, "in use: %s", use)
	}
	add(d.ReadOnly, "it is read-only: look for a switch on it")
	add(d.Size < w.Size, "too small: it has %d bytes, and the image needs %d", d.Size, w.Size)
	add(w.SectorSize != 0 && d.SectorSize != w.SectorSize, "it has sectors of %d bytes, and the image is for %d: use the %s image",
		d.SectorSize, w.SectorSize, map[bool]string{true: "disk", false: "disk-4k"}[d.SectorSize == 512])
	named := w.Serial != "" && w.Serial == d.Serial
	add(w.Serial != "" && !named, "its serial number is %q, not %q", d.Serial, w.Serial)
	if !d.Removable && (!named || !w.Force) {
		if d.Serial == "" {
			add(true, "not removable, and it has no serial number to confirm it by")
		} else {
			add(true, "not removable: if you mean it, add --serial %q --force", d.Serial)
		}
	}
	return list
}

// Refuse is Refusals as an error.
func (d Device) Refuse(w Want) error {
	list := d.Refusals(w)
	if len(list) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s: %s", ErrRefused, d.Path, strings.Join(list, "; "))
}
