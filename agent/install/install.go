// Package install puts the image that runs onto a disk: it looks at what the disk holds, decides whether that may go, writes
// the same layout that disk images have (images/disk), and reads all of it back before there is a partition table.
//
// Words: foreign is what the same node of the same cluster has not installed itself; the marker is a note in the gap
// before the first partition, written before anything else changes and taken away last: a disk with it is in the middle of
// an installation, and whoever finds it begins again. So a power cut leaves what was there before, or the marker, or an
// empty disk, or the finished installation.
//
// Which disk is meant is decided in agent/drives, what a disk holds is told by agent/signature, firmware is told by
// agent/bootentry. The first stage (agent/initramfs) puts these together.
package install

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

// Image is what is installed.
type Image struct {
	Root   bootspec.Root
	Arch   string // Go's name
	Loader []byte // systemd-boot
	UKI    []byte // checked by CheckUKI
	// CopyRoot writes the whole root image: Root.Size bytes. It may be called once.
	CopyRoot func(io.Writer) error
}

// Job is one installation.
type Job struct {
	Device     disk.Device
	Size       int64 // bytes
	SectorSize int   // bytes
	Image      Image
	Config     bootspec.Config
	Seed       string // random: disk and ESP have GUIDs of their own in each installation
	// Flush makes what is read next come from the device; nil: it does anyhow.
	Flush func() error
	// Progress is told how many bytes of the root image are written; it may be nil.
	Progress func(done int64)
}

const mib = 1 << 20

// Layout is how an image is installed. Partitions have room for later versions twice as large.
func Layout(image Image, sectorSize int, seed string) disk.Layout {
	atLeast := func(least, size int64) int64 { return (max(least, size) + 64*mib - 1) / (64 * mib) * (64 * mib) }
	uki := int64(len(image.UKI))
	return disk.Layout{
		Arch: image.Arch, SectorSize: sectorSize, Loader: image.Loader, Seed: seed,
		Sizes: disk.Sizes{ESP: atLeast(512*mib, 6*uki), Root: atLeast(512*mib, 2*image.Root.Data)},
		Slots: []disk.Slot{{
			Image: image.Root.Image, RootHash: image.Root.Hash, Data: image.Root.Data,
			UKI:  disk.Content{Size: uki, CopyTo: func(w io.Writer) error { _, err := w.Write(image.UKI); return err }},
			Root: disk.Content{Size: image.Root.Size, CopyTo: image.CopyRoot},
		}},
	}
}

// Need is how many bytes a disk must have.
func Need(image Image) (int64, error) { return disk.Need(Layout(image, 512, "need")) }

// Run installs. Nothing is written when the layout doesn't fit. It returns the disk as its partition table tells it.
func (j Job) Run(ctx context.Context) (*disk.Disk, error) {
	image := j.Image
	image.CopyRoot = func(w io.Writer) error { return j.Image.CopyRoot(&meter{ctx: ctx, to: w, told: j.Progress}) }
	layout := Layout(image, j.SectorSize, j.Seed)
	need, err := disk.Need(layout)
	if err != nil {
		return nil, err
	}
	if n := len(j.Config.Document); n == 0 || n > bootspec.MaxConfig {
		return nil, fmt.Errorf("a node configuration of %d bytes can't be kept on a disk: the limit is %d", n, bootspec.MaxConfig)
	}
	if j.Size < need {
		return nil, fmt.Errorf("%w: it has %d MiB, and %d MiB are needed", disk.ErrSmall, j.Size/mib, need/mib)
	}
	mark := newMarker(j.Config.Cluster, j.Config.Node, j.Seed)
	if err := mark.write(j.Device); err != nil {
		return nil, err
	}
	device := marked{j.Device, mark}
	if err := j.forget(device); err != nil {
		return nil, err
	}
	if err := disk.EncodeDeviceReady(device, j.Size, layout, j.finish); err != nil {
		return nil, err
	}
	if err := ClearMarker(j.Device); err != nil {
		return nil, err
	}
	d, err := disk.Read(j.Device, j.Size)
	if err != nil {
		return nil, fmt.Errorf("cannot read the new partition table: %w", err)
	}
	return d, nil
}

// forget takes both old partition tables away, durably, before anything that they tell of changes: a system that is still
// found is still whole.
func (j Job) forget(device disk.Device) error {
	for _, at := range []int64{0, j.Size - mib} {
		if _, err := device.WriteAt(make([]byte, mib), at); err != nil {
			return fmt.Errorf("cannot wipe what was on the disk: %w", err)
		}
	}
	if err := device.Sync(); err != nil {
		return fmt.Errorf("cannot wipe what was on the disk: %w", err)
	}
	return nil
}

// finish writes the configuration and compares everything with what it should be, before the tables are written.
func (j Job) finish(d *disk.Disk) error {
	place, ok := d.Partition(bootspec.LabelConfig)
	if !ok {
		return fmt.Errorf("there is no partition %s", bootspec.LabelConfig)
	}
	if err := bootspec.WriteConfig(place.Of(j.Device), j.Config, j.Device.Sync); err != nil {
		return err
	}
	if j.Flush != nil {
		if err := j.Flush(); err != nil {
			return fmt.Errorf("cannot read back: %w", err)
		}
	}
	if err := Verify(j.Device, d, j.Image, j.Config); err != nil {
		return fmt.Errorf("what was written reads differently, the disk is not to be trusted: %w", err)
	}
	return nil
}

// Verify compares what is on a disk with an image and a configuration.
func Verify(device disk.Device, d *disk.Disk, image Image, config bootspec.Config) error {
	if err := verifyRoot(device, d, image.Root); err != nil {
		return err
	}
	esp, ok := d.Partition(bootspec.LabelESP)
	if !ok {
		return errors.New("there is no ESP")
	}
	entry := bootspec.UKIDirectory + "/" + bootspec.BootEntry(image.Root.Image, bootspec.BootTries)
	for path, want := range map[string][]byte{entry: image.UKI, bootspec.RemovableLoader(image.Arch): image.Loader} {
		content, size, err := disk.OpenBootFile(device, esp, path)
		if err != nil {
			return err
		}
		got, err := io.ReadAll(io.LimitReader(content, size))
		if err != nil {
			return fmt.Errorf("cannot read %s of the ESP: %w", path, err)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s of the ESP is not what was written", path)
		}
	}
	place, ok := d.Partition(bootspec.LabelConfig)
	if !ok {
		return fmt.Errorf("there is no partition %s", bootspec.LabelConfig)
	}
	got, err := bootspec.ReadConfig(place.Of(device))
	if err != nil {
		return err
	}
	if got.Cluster != config.Cluster || got.Node != config.Node || !bytes.Equal(got.Document, config.Document) {
		return errors.New("the configuration is not the one that was written")
	}
	return nil
}

func verifyRoot(device io.ReaderAt, d *disk.Disk, root bootspec.Root) error {
	guid, err := bootspec.SlotGUID(root.Hash)
	if err != nil {
		return err
	}
	tree, err := bootspec.VerityGUID(root.Hash)
	if err != nil {
		return err
	}
	data, ok := d.ByGUID(guid)
	hashes, ok2 := d.ByGUID(tree)
	if !ok || !ok2 || data.Size < root.Data || hashes.Size < root.Size-root.Data {
		return errors.New("there is no slot with the root image")
	}
	h := sha256.New()
	for _, piece := range []struct{ start, size int64 }{{data.Start, root.Data}, {hashes.Start, root.Size - root.Data}} {
		if _, err := io.CopyBuffer(h, struct{ io.Reader }{io.NewSectionReader(device, piece.start, piece.size)}, make([]byte, 1<<20)); err != nil {
			return fmt.Errorf("cannot read the root image: %w", err)
		}
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != root.Digest {
		return fmt.Errorf("SHA-256 of the root image is %s, not %s", got, root.Digest)
	}
	return nil
}

// meter passes on what is written, tells how much it was, and ends with ctx.
type meter struct {
	ctx  context.Context
	to   io.Writer
	told func(int64)
	done int64
}

func (m *meter) Write(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.to.Write(p)
	m.done += int64(n)
	if m.told != nil {
		m.told(m.done)
	}
	return n, err
}
