package bake

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/slipway-os/slipway/builder/iso"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

const mib = 1 << 20

// encodeISO writes a disk image with one slot that is no larger than it must be: firmware reads it over the network from
// a management controller. Then it gets what makes it a CD-ROM.
func (b *baker) encodeISO(f *os.File, d diskFormat) error {
	layout := b.diskLayout(d)
	layout.OneSlot = true
	layout.Sizes = disk.Sizes{
		ESP:   max(40*mib, wholeMiB(int64(len(b.uki)+len(b.loader)))+8*mib), // no FAT32 is smaller; its tables need some
		Root:  wholeMiB(b.root.Data),
		State: mib, // the node's state is in memory, or grows to the end of the stick
	}
	if err := disk.Encode(f, layout); err != nil {
		return err
	}
	size, err := disk.Need(layout)
	if err != nil {
		return err
	}
	about, err := disk.Read(f, size)
	if err != nil {
		return err
	}
	esp, ok := about.Partition(bootspec.LabelESP)
	if !ok {
		return fmt.Errorf("there is no partition %s", bootspec.LabelESP)
	}
	return iso.Add(f, iso.Volume{
		Label: isoLabel(b.Plan.Role, b.Plan.Version), System: "SLIPWAY", Size: size, Boot: iso.Extent{Start: esp.Start, Size: esp.Size},
		Files: []iso.File{{Name: "README.TXT", Data: []byte(b.isoReadme())}}, Epoch: b.Plan.Epoch,
	})
}

func wholeMiB(n int64) int64 { return (n + mib - 1) / mib * mib }

// isoLabel is a volume's name, such as SLIPWAY_WORKER_0_1_0.
func isoLabel(role, version string) string {
	label := regexp.MustCompile(`[^A-Z0-9]+`).ReplaceAllString(strings.ToUpper("slipway "+role+" "+version), "_")
	return label[:min(len(label), 32)]
}

// isoReadme is for who opens the CD-ROM or the file and wonders. Lines end as on every system's CD-ROMs.
func (b *baker) isoReadme() string {
	return strings.ReplaceAll(fmt.Sprintf(`%s

This is a bootable image of a Slipway node. There are no files to copy here:
the image is a whole disk with its own partition table.

As virtual media: give the .iso file to the management controller as CD-ROM
and boot from it. To put a node's configuration on a copy of it:

    slipway flash %s.iso node.iso --cluster cluster.yaml --node NAME

As a USB stick: the same bytes, written to the whole device and not copied as
files (no "ISO mode"):

    slipway flash %s.iso /dev/sdX --cluster cluster.yaml --node NAME

It boots with UEFI only. A machine with legacy BIOS boots from the network.
`, b.base(), b.base(), b.base()), "\n", "\r\n")
}
