package initramfs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/slipway-os/slipway/agent/bootentry"
	"github.com/slipway-os/slipway/agent/drives"
	"github.com/slipway-os/slipway/agent/install"
	"github.com/slipway-os/slipway/agent/media"
	"github.com/slipway-os/slipway/agent/provision"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

// install puts this image onto the disk that the node document names and restarts the machine from there, unless it runs
// from there already. It returns only when nothing is to be installed, or when it failed.
func (b *boot) install(ctx context.Context) error {
	if b.image != nil {
		defer b.image.Close() // the loop device has it
	}
	node, err := provision.NodeDocument(b.config)
	if err != nil {
		return stopError{err}
	}
	if node.Install == nil {
		return nil
	}
	if b.runsFrom(node.Install.Disk) {
		b.settle()
		return nil
	}
	if _, err := os.Stat("/sys/firmware/efi"); err != nil && b.args[bootspec.ArgSource] == "" {
		return stopError{errors.New("cannot install: this machine booted by legacy BIOS, and the disk would boot by UEFI only (set its firmware to UEFI, or remove install: from the node)")}
	}
	drive, err := b.chooseTarget(ctx, node.Install.Disk)
	if err != nil && b.runsFromFixed() {
		b.log.Warn("no disk to install on, the node goes on from the one it booted from: correct install: in its document", "booted from", b.medium.Drive.Path, "cause", err)
		return nil
	}
	if err != nil {
		return stopError{fmt.Errorf("cannot install: %w", err)}
	}
	if err := b.installOn(ctx, drive, node); err != nil {
		return stopError{fmt.Errorf("cannot install on %s: %w", drive.Path, err)}
	}
	return nil
}

// runsFrom says whether the machine has booted from the disk that is meant. A stick is meant only by its name: a rule
// about sizes may fit it too.
func (b *boot) runsFrom(match bootspec.DiskMatch) bool {
	if b.medium == nil {
		return false
	}
	_, _, err := drives.Choose(match, []drives.Drive{b.medium.Drive}, notPortable(match))
	return err == nil
}

// runsFromFixed says whether the machine has booted from a disk that stays in it. When such a disk is no longer the one that is
// meant (another controller gives it another name), that is no reason to leave a node down that can run.
func (b *boot) runsFromFixed() bool {
	return b.medium != nil && !b.medium.Drive.Optical && notPortable(bootspec.DiskMatch{})(b.medium.Drive) == ""
}

// notPortable keeps rules that name no drive off those that come and go.
func notPortable(match bootspec.DiskMatch) func(drives.Drive) string {
	named := match.Serial != "" || match.WWN != "" || match.Path != ""
	return func(d drives.Drive) string {
		if !named && (d.Removable || d.Transport == "usb") {
			return "portable, and not named by serial, wwn or path"
		}
		return ""
	}
}

// settle takes the mark of an installation away that was whole, but cut off before it was.
func (b *boot) settle() {
	f, err := os.OpenFile(b.medium.Drive.Path, os.O_RDWR, 0)
	if err == nil {
		err = install.ClearMarker(f)
		f.Close()
	}
	if err != nil {
		b.log.Warn("the installation may begin again when the machine boots from the network", "cause", err)
	}
}

// chooseTarget finds the disk and shows the table it was decided by.
func (b *boot) chooseTarget(ctx context.Context, match bootspec.DiskMatch) (drives.Drive, error) {
	// What the rest of the image needs is known only to be at least this.
	need, err := install.Need(install.Image{Root: b.root, Arch: runtime.GOARCH, Loader: []byte{0}, UKI: []byte{0}})
	if err != nil {
		return drives.Drive{}, err
	}
	portable := notPortable(match)
	exclude := func(d drives.Drive) string {
		switch {
		case b.medium != nil && d.Name == b.medium.Drive.Name:
			return "the machine booted from it"
		case d.Size > 0 && d.Size < need:
			return "too small: " + drives.Size(need) + " are needed"
		}
		return portable(d)
	}
	ctx, cancel := context.WithTimeout(ctx, driveLimit)
	defer cancel()
	b.moreModules()
	if match.Smallest {
		select {
		case <-time.After(smallestPatience):
		case <-ctx.Done():
		}
	}
	d, table, err := drives.Await(ctx, "/sys", match, exclude)
	for _, line := range table.Lines() {
		b.log.Info(line)
	}
	return d, err
}

// smallestPatience is how long disks may take to appear when the smallest of all is meant.
const smallestPatience = 5 * time.Second

// installOn looks at the disk, and writes it or leaves it.
func (b *boot) installOn(ctx context.Context, drive drives.Drive, node bootspec.Node) error {
	device, err := os.OpenFile(drive.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	found, err := install.Look(device, drive.Size, node.Cluster, node.Name)
	if err != nil {
		return err
	}
	for _, m := range found.Marks {
		b.log.Info("on " + drive.Path + ": " + m.String())
	}
	write, err := install.Decide(found, node.Install.Overwrite, b.again)
	if err != nil {
		return err
	}
	if found.Begun {
		b.log.Warn("an installation on this disk was cut off, it begins again", "disk", drive.Path)
	}
	if !write {
		b.log.Info("this node is installed there already, the machine restarts from it", "disk", drive.Path, "id", found.ID)
		return b.restartFrom(ctx, drive, found.Disk, "was installed already, on "+drive.Path)
	}
	d, words, err := b.writeDisk(ctx, device, drive, node)
	if err != nil {
		return err
	}
	return b.restartFrom(ctx, drive, d, words)
}

// writeDisk installs and says in words what it did.
func (b *boot) writeDisk(ctx context.Context, device *os.File, drive drives.Drive, node bootspec.Node) (*disk.Disk, string, error) {
	image, err := b.installImage(ctx)
	if err != nil {
		return nil, "", err
	}
	where := strings.TrimSpace(fmt.Sprintf("%s (%s) %s", drive.Path, drives.Size(drive.Size), drive.Serial))
	b.log.Info("installing", "disk", where, "image", image.Root.Image)
	b.sender.Report(bootspec.EventInstalling, "on "+where)
	began := time.Now()
	j := install.Job{
		Device: device, Size: drive.Size, SectorSize: drive.SectorSize, Image: image, Seed: rand.Text(),
		Config:   bootspec.Config{Cluster: node.Cluster, Node: node.Name, Document: b.config},
		Flush:    func() error { return install.FlushDevice(device) },
		Progress: b.progress(image.Root.Size),
	}
	d, err := j.Run(ctx)
	if err != nil {
		return nil, "", err
	}
	bytes, took := image.Root.Size+int64(len(image.UKI)), time.Since(began)
	words := fmt.Sprintf("on %s: %d MB in %.1f s (%.0f MB/s), read back", where, bytes/1e6, took.Seconds(), float64(bytes)/1e6/took.Seconds())
	if b.vouched != "" {
		words += "; " + b.vouched
	}
	b.log.Info("installed " + words)
	return d, words, nil
}

// progress shows every few seconds how far it is and how fast.
func (b *boot) progress(total int64) func(int64) {
	began := time.Now()
	spoken := began
	return func(done int64) {
		if time.Since(spoken) > 5*time.Second {
			spoken = time.Now()
			b.log.Info(fmt.Sprintf("installing: %d of %d MB, %.0f MB/s", done/1e6, total/1e6, float64(done)/1e6/time.Since(began).Seconds()))
		}
	}
}

// reportPatience is how long a restart waits for its report: without it the boot server would have the machine boot from
// the network once more, which finds the installation there.
const reportPatience = time.Minute

// restartFrom makes firmware boot a disk, reports, and restarts the machine.
func (b *boot) restartFrom(ctx context.Context, drive drives.Drive, d *disk.Disk, words string) error {
	if err := setBootEntry(d); err != nil {
		// The loader is where firmware looks by itself, too.
		b.log.Warn(err.Error()+": the machine boots this disk only if it is in the firmware's boot order", "disk", drive.Path)
	}
	b.sender.Report(bootspec.EventInstalled, words)
	wait, cancel := context.WithTimeout(ctx, reportPatience)
	defer cancel()
	if err := b.sender.Flush(wait); err != nil {
		b.log.Warn(err.Error())
	}
	restart(b, 2*time.Second)
	return errors.New("the machine did not restart")
}

// setBootEntry makes the disk first in the firmware's order, and next in any case.
func setBootEntry(d *disk.Disk) error {
	esp, ok := d.Partition(bootspec.LabelESP)
	if !ok {
		return errors.New("the disk has no ESP")
	}
	sector := int64(d.SectorSize)
	_, err := bootentry.Set(media.EFIVariables, bootentry.Partition{
		Number: esp.Index, Start: esp.Start / sector, Size: esp.Size / sector, GUID: esp.GUID,
	}, bootspec.RemovableLoader(runtime.GOARCH))
	if err != nil {
		return err
	}
	return bootentry.Next(media.EFIVariables)
}

// installImage is this image: what runs, from where it came.
func (b *boot) installImage(ctx context.Context) (install.Image, error) {
	image := install.Image{Root: b.root, Arch: runtime.GOARCH, CopyRoot: b.copyRoot}
	var err error
	if image.Loader, err = os.ReadFile(filepath.Join(sysroot, bootspec.Loader(image.Arch))); err != nil {
		return image, fmt.Errorf("the image has no boot loader: %w", err)
	}
	if b.medium != nil {
		image.UKI, err = b.mediumUKI()
		b.vouched = "copied from the medium"
	} else {
		image.UKI, err = b.serverUKI(ctx)
	}
	if err != nil {
		return image, err
	}
	if err := install.CheckUKI(image.UKI, b.root, b.args[bootspec.ArgUKI]); err != nil {
		return image, fmt.Errorf("unified kernel image: %w", err)
	}
	b.log.Info("the kernel image to install is the one that this machine booted, to the last byte", "sha256", b.args[bootspec.ArgUKI])
	return image, nil
}

// copyRoot copies the root image: from memory, or from the medium, squashfs through dm-verity and the tree from its
// partition. The whole is compared with its digest when it is read back.
func (b *boot) copyRoot(w io.Writer) error {
	if b.medium == nil {
		_, err := io.CopyBuffer(w, struct{ io.Reader }{io.NewSectionReader(b.image, 0, b.root.Size)}, make([]byte, 1<<20))
		return err
	}
	tree, err := b.medium.Device(b.medium.Verity, false)
	if err != nil {
		return err
	}
	for _, piece := range []struct {
		device string
		size   int64
	}{{b.device, b.root.Data}, {tree, b.root.Size - b.root.Data}} {
		f, err := os.Open(piece.device)
		if err != nil {
			return err
		}
		n, err := io.CopyBuffer(w, struct{ io.Reader }{io.LimitReader(f, piece.size)}, make([]byte, 1<<20))
		f.Close()
		if err == nil && n != piece.size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("cannot copy %s: %w", piece.device, err)
		}
	}
	return nil
}
