package initramfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/slipway-os/slipway/agent/drives"
	"github.com/slipway-os/slipway/agent/media"
	"github.com/slipway-os/slipway/agent/provision"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

// mediumLimit is how long a slow medium is waited for: a USB hub behind a hub takes ten seconds.
const mediumLimit = time.Minute

// chooseSource decides where the root image comes from: from a medium when the boot loader that is on our media has started
// this kernel, else from the network. A kernel argument can say it.
func (b *boot) chooseSource(context.Context) error {
	if err := (mount{"efivarfs", media.EFIVariables, "efivarfs", 0, ""}).do(); err != nil {
		b.log.Debug("no EFI variables", "cause", err) // BIOS, or a direct boot
	}
	loader, local, err := media.ReadLoader(media.EFIVariables)
	if err != nil {
		return err
	}
	switch said := b.args[bootspec.ArgSource]; said {
	case "":
		b.local = local
	case bootspec.SourceDisk, bootspec.SourceNetwork:
		b.local = said == bootspec.SourceDisk
	default:
		return stopError{fmt.Errorf("kernel argument %s: %q is not known (%s, %s)", bootspec.ArgSource, said, bootspec.SourceDisk, bootspec.SourceNetwork)}
	}
	if !b.local {
		return nil
	}
	b.search = media.Search{
		List: func() ([]drives.Drive, error) { return drives.List("/sys") }, RootHash: b.root.Hash,
		ESP: loader.ESP, Optical: local && loader.ESP == "", Again: b.moreModules, Log: b.log,
	}
	b.log.Info("booting from a medium", "loader", loader.Name, "ESP", loader.ESP)
	return nil
}

// moreModules loads the drivers of devices that have appeared.
func (b *boot) moreModules() {
	if err := b.loader.Coldplug("/sys/devices"); err != nil {
		b.log.Warn(err.Error())
	}
}

// findMedium finds the drive and fits its partition table to it.
func (b *boot) findMedium(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, mediumLimit)
	defer cancel()
	m, err := b.search.Find(limit)
	if err != nil {
		return err
	}
	b.medium = m
	d := m.Drive
	b.log.Info("medium found", "drive", d.Path, "model", d.Model, "serial", d.Serial, "size", drives.Size(d.Size), "slot", m.Root.Label)
	if m.Disk.Recovered {
		b.log.Warn("the first copy of the partition table is damaged, the second is used", "drive", d.Path)
	}
	if m.Disk.Unreadable != "" {
		b.log.Warn("the ESP cannot be read: the machine may not boot from this medium again; flash it anew", "drive", d.Path, "cause", m.Disk.Unreadable)
	}
	if d.Optical || d.ReadOnly {
		return nil
	}
	switch state, changed, err := m.Grow(); {
	case err != nil: // what is there can still be booted
		b.log.Warn("the state partition stays as large as it is", "cause", err)
	case changed:
		b.log.Info("partition table fitted to the drive", "state", drives.Size(state.Size))
	}
	return nil
}

// activateSlot puts dm-verity over the slot with this image.
func (b *boot) activateSlot(context.Context) error {
	m := b.medium
	if m.Root.Size < b.root.Data || m.Verity.Size < b.root.Size-b.root.Data {
		return fmt.Errorf("partitions %s and %s of %s are too small for this image: flash it again", m.Root.Label, m.Verity.Label, m.Drive.Path)
	}
	data, err := m.Device(m.Root, false)
	if err != nil {
		return err
	}
	hashes, err := m.Device(m.Verity, false)
	if err != nil {
		return err
	}
	f, err := os.Open(hashes)
	if err != nil {
		return fmt.Errorf("cannot read partition %s: %w", m.Verity.Label, err)
	}
	defer f.Close()
	table, err := verityTable(f, 0, b.root)
	if err != nil {
		return fmt.Errorf("partition %s of %s: %w: flash it again", m.Verity.Label, m.Drive.Path, err)
	}
	return b.verify(table.params(data, hashes, 0))
}

// readConfig takes the node's configuration from the medium. A medium without one boots as a machine from the network does:
// the boot server knows it.
func (b *boot) readConfig(ctx context.Context) error {
	config, err := b.medium.Config()
	if errors.Is(err, bootspec.ErrNoConfig) {
		b.log.Info("no configuration on the medium: asking the boot server")
		if err := b.findServer(ctx); err != nil {
			return err
		}
		if err := b.discover(ctx); err != nil {
			return err
		}
		b.sender.Report(bootspec.EventRootLoaded, b.root.Image)
		return b.claimConfig(ctx)
	}
	if err != nil {
		return stopError{err}
	}
	b.config, b.configured = config.Document, true
	node, err := provision.NodeDocument(b.config)
	if err != nil {
		return stopError{fmt.Errorf("configuration of %s on the medium: %w", config.Node, err)}
	}
	b.log.Info("configuration read from the medium", "cluster", config.Cluster, "node", config.Node, "generation", config.Generation)
	b.lease.MAC = reportingMAC(node)
	if err := b.startReports(ctx, "", b.client, b.lease.MAC); err != nil {
		return err
	}
	b.sender.Report(bootspec.EventAgentUp, "from "+b.medium.Drive.Path)
	b.sender.Report(bootspec.EventRootLoaded, b.root.Image)
	b.sender.Report(bootspec.EventConfigClaimed, "from "+b.medium.Drive.Path)
	return nil
}

// reportingMAC is the address by which the boot server knows a node that has not asked it for anything: the first that
// its document matches a link by.
func reportingMAC(n bootspec.Node) string {
	for _, l := range n.Network.Links {
		if l.Match != nil && l.Match.MAC != "" {
			return l.Match.MAC
		}
	}
	return ""
}

// espDevice is the partition with the boot entries, if it can be written; else nothing.
func (b *boot) espDevice() string { return b.writable(bootspec.LabelESP) }

// configDevice is the partition that the node's configuration came from, if it can be written; else nothing.
func (b *boot) configDevice() string {
	if !b.configured {
		return ""
	}
	return b.writable(bootspec.LabelConfig)
}

// writable is the device of a partition of the medium; empty: there is none that can be written.
func (b *boot) writable(label string) string {
	if b.medium == nil || b.medium.Drive.Optical || b.medium.Drive.ReadOnly {
		return ""
	}
	p, ok := b.medium.Disk.Partition(label)
	if !ok {
		return ""
	}
	device, err := b.medium.Device(p, true)
	if err != nil {
		b.log.Warn("a partition of the medium cannot be written", "label", label, "cause", err)
		return ""
	}
	return device
}

// minState is the least that a node's state has room in, in bytes. An ISO has less; on a stick it grows.
const minState = 32 << 20

// statePartition is the state partition of the medium; ok is false when it has none that can be written, or it is too small.
func (b *boot) statePartition() (p disk.Partition, ok bool) {
	if b.medium == nil || b.medium.Drive.Optical || b.medium.Drive.ReadOnly {
		return disk.Partition{}, false
	}
	p, ok = b.medium.Disk.Partition(bootspec.LabelState)
	return p, ok && p.Size >= minState
}
