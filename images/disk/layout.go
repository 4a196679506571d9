package disk

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Layout says all that an image depends on.
type Layout struct {
	Arch       string // Go's name: amd64, arm64
	SectorSize int    // bytes: 512 or 4096
	Sizes      Sizes
	Loader     []byte // systemd-boot (systemd-bootx64.efi)
	Slots      []Slot // of A, then of B; a slot that is not given is left empty
	Epoch      int64  // time of all files on the ESP, in seconds since 1970; FAT knows 1980 to 2107 and even seconds
	OneSlot    bool   // without slot B: media that are flashed anew, not upgraded
	Seed       string // what the GUIDs and the FAT's volume id follow from; must not be empty
}

// Sizes are those of partitions, in bytes, multiples of 1 MiB. One that is zero is the default.
type Sizes struct {
	ESP    int64 // 512 MiB
	Root   int64 // of each slot, the squashfs: 512 MiB
	Verity int64 // of each slot, the verity tree: 1/64 of Root, at least 8 MiB (a tree takes 1/127 of its data)
	State  int64 // in the image; it grows on the node: 64 MiB
}

// Slot is what a slot holds.
type Slot struct {
	Image    string // artifact base name: slipway-worker-0.1.0-amd64
	RootHash string // dm-verity root hash, 64 hexadecimal digits
	UKI      Content
	Root     Content // squashfs and verity tree, whole blocks of 4096 bytes
	Data     int64   // bytes of Root that are squashfs (bootspec.Root.Data); the verity tree is the rest
}

// Content is a known number of bytes.
type Content struct {
	Size   int64
	CopyTo func(io.Writer) error // may be called once for each image
}

func (c Content) copyTo(s *sparse) error {
	if err := c.CopyTo(s); err != nil {
		return err
	}
	return s.Close()
}

// ErrFull is what errors wrap about a partition that would have too little room for the next version.
var ErrFull = errors.New("too little room to grow")

const (
	mib = 1 << 20
	// alignment of partitions: a multiple of the erase blocks and RAID stripes that matter.
	alignment = 1 * mib
	// maxSize of a disk image: what a protective MBR's 32 bits of 512-byte sectors describe.
	maxSize = 2 << 40
)

// plan is a layout with everything decided.
type plan struct {
	size       int64
	guid       string
	partitions []partition // ESP, root A, verity A, root B, verity B, config, state; the ESP and the slots come first
}

// slot is the partitions of a slot: 0 is A.
func (p plan) slot(i int) (root, tree *partition) { return &p.partitions[1+2*i], &p.partitions[2+2*i] }

type partition struct {
	label, kind, guid string
	attributes        uint64
	start, size       int64 // bytes
}

func (s Sizes) orDefaults() Sizes {
	s.ESP, s.Root, s.State = cmp.Or(s.ESP, 512*mib), cmp.Or(s.Root, 512*mib), cmp.Or(s.State, 64*mib)
	s.Verity = cmp.Or(s.Verity, max(8*mib, (s.Root/64+alignment-1)/alignment*alignment))
	return s
}

// resolve checks a layout and decides where everything lies.
func (l Layout) resolve() (plan, error) {
	if err := l.check(); err != nil {
		return plan{}, err
	}
	s := l.Sizes.orDefaults()
	if err := errors.Join(s.check(l.SectorSize), l.checkRoom(s)); err != nil {
		return plan{}, err
	}
	p := plan{guid: l.guid("disk"), partitions: l.partitions(s)}
	at := int64(alignment)
	for i := range p.partitions {
		part := &p.partitions[i]
		part.guid, part.start = l.guid(part.label), at
		at += part.size
	}
	for i, slot := range l.Slots {
		root, tree := p.slot(i)
		root.guid, _ = bootspec.SlotGUID(slot.RootHash) // checked
		tree.guid, _ = bootspec.VerityGUID(slot.RootHash)
	}
	p.size = at + alignment // the backup table is at its end
	if p.size > maxSize {
		return plan{}, fmt.Errorf("a disk image of %d bytes is over the limit of %d", p.size, int64(maxSize))
	}
	return p, nil
}

// partitions are all of them in their order, not placed yet.
func (l Layout) partitions(s Sizes) []partition {
	const kept = bootspec.PartitionReadOnly | bootspec.PartitionNoAuto
	slot := func(root, tree string) []partition {
		return []partition{
			{label: root, kind: bootspec.PartitionTypeRoot(l.Arch), size: s.Root, attributes: kept},
			{label: tree, kind: bootspec.PartitionTypeVerity(l.Arch), size: s.Verity, attributes: kept},
		}
	}
	list := append([]partition{{label: bootspec.LabelESP, kind: bootspec.PartitionTypeESP, size: s.ESP}},
		slot(bootspec.LabelRootA, bootspec.LabelVerityA)...)
	if !l.OneSlot {
		list = append(list, slot(bootspec.LabelRootB, bootspec.LabelVerityB)...)
	}
	return append(list,
		partition{label: bootspec.LabelConfig, kind: bootspec.PartitionTypeConfig, size: bootspec.ConfigPlaceSize, attributes: bootspec.PartitionNoAuto},
		partition{label: bootspec.LabelState, kind: bootspec.PartitionTypeState, size: s.State})
}

func (l Layout) check() error {
	switch {
	case l.SectorSize != 512 && l.SectorSize != 4096:
		return fmt.Errorf("sectors of %d bytes are not known (512, 4096)", l.SectorSize)
	case bootspec.PartitionTypeRoot(l.Arch) == "":
		return fmt.Errorf("architecture %q is not known (amd64, arm64)", l.Arch)
	case len(l.Loader) == 0:
		return errors.New("there is no boot loader to put on it")
	case len(l.Slots) < 1 || len(l.Slots) > l.slots():
		return fmt.Errorf("%d images do not go into %d slots", len(l.Slots), l.slots())
	case len(l.Slots) == 2 && (l.Slots[0].Image == l.Slots[1].Image || l.Slots[0].RootHash == l.Slots[1].RootHash):
		return fmt.Errorf("image %s would be in both slots", l.Slots[0].Image)
	case l.Seed == "":
		return errors.New("there is no seed to make GUIDs from")
	}
	for _, slot := range l.Slots {
		if err := slot.check(); err != nil {
			return fmt.Errorf("image %q: %w", slot.Image, err)
		}
	}
	return nil
}

func (l Layout) slots() int {
	if l.OneSlot {
		return 1
	}
	return 2
}

func (s Slot) check() error {
	if _, _, ok := bootspec.ParseBootEntry(bootspec.BootEntry(s.Image, bootspec.BootTries)); !ok {
		return errors.New("that is no image name (slipway-ROLE-VERSION-ARCH)")
	}
	if _, err := bootspec.SlotGUID(s.RootHash); err != nil {
		return err
	}
	if s.Root.Size <= 0 || s.Root.Size%bootspec.VerityBlockSize != 0 {
		return fmt.Errorf("a root image of %d bytes is not whole blocks of %d", s.Root.Size, bootspec.VerityBlockSize)
	}
	if s.Data <= 0 || s.Data >= s.Root.Size || s.Data%bootspec.VerityBlockSize != 0 {
		return fmt.Errorf("a root image of %d bytes cannot have its verity tree at byte %d", s.Root.Size, s.Data)
	}
	if s.UKI.Size <= 0 {
		return fmt.Errorf("a unified kernel image has %d bytes", s.UKI.Size)
	}
	return nil
}

func (s Sizes) check(sector int) error {
	for _, p := range []struct {
		name string
		size int64
	}{{"ESP", s.ESP}, {"root", s.Root}, {"verity", s.Verity}, {"state", s.State}} {
		if p.size < alignment || p.size%alignment != 0 || p.size > maxSize {
			return fmt.Errorf("%s partition: %d bytes are not a multiple of %d up to %d", p.name, p.size, alignment, int64(maxSize))
		}
	}
	_, err := fatSize(s.ESP, int64(sector))
	return err
}

// fullest is how much of a partition may be in use, in percent: what is upgraded must have room for the next version.
func (l Layout) fullest() int64 {
	if l.OneSlot {
		return 100
	}
	return 80
}

// checkRoom wants every partition of a slot, and the ESP with a unified kernel image for each slot, to have room to grow.
func (l Layout) checkRoom(s Sizes) error {
	var largest int64
	for i, slot := range l.Slots {
		root := []string{bootspec.LabelRootA, bootspec.LabelRootB}[i]
		tree := []string{bootspec.LabelVerityA, bootspec.LabelVerityB}[i]
		if err := errors.Join(l.room(root, slot.Data, s.Root), l.room(tree, slot.Root.Size-slot.Data, s.Verity)); err != nil {
			return err
		}
		largest = max(largest, slot.UKI.Size)
	}
	images := int64(l.slots())
	return l.room(fmt.Sprintf("%s with %d kernel images", bootspec.LabelESP, images), int64(len(l.Loader))+images*largest, s.ESP)
}

func (l Layout) room(what string, used, size int64) error {
	fullest := l.fullest()
	if used <= size/100*fullest || fullest == 100 && used <= size {
		return nil
	}
	want := slices.Max([]int64{size + alignment, (used*100/fullest + alignment) / alignment * alignment})
	return fmt.Errorf("%w: %s: %d bytes would fill it to %d %%, and at most %d %% are allowed: make it %d MiB or more",
		ErrFull, what, used, (used*100+size-1)/size, fullest, want/mib)
}

// derive is bytes that follow from the seed and what they are for.
func (l Layout) derive(what string) [sha256.Size]byte {
	return sha256.Sum256([]byte("slipway disk\x00" + what + "\x00" + l.Seed))
}

// guid is a GUID of version 8, our own (RFC 9562, section 5.8).
func (l Layout) guid(what string) string {
	b := l.derive(what)
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
