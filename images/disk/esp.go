package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/diskfs/go-diskfs/filesystem/fat12"
	"github.com/diskfs/go-diskfs/filesystem/fat32"

	"github.com/slipway-os/slipway/images/bootspec"
)

// loaderConfig is systemd-boot's: a second for whoever wants the menu, and nobody types kernel arguments into it.
const loaderConfig = "timeout 1\nconsole-mode keep\neditor no\n"

// volumeLabel of the ESP's file system, at most 11 characters.
const volumeLabel = "SLIPWAY"

// bootFile is a file on the ESP.
type bootFile struct {
	path    string
	content Content
}

func (l Layout) bootFiles() []bootFile {
	plain := func(data []byte) Content {
		return Content{int64(len(data)), func(w io.Writer) error { _, err := w.Write(data); return err }}
	}
	files := []bootFile{
		{bootspec.RemovableLoader(l.Arch), plain(l.Loader)},
		{bootspec.LoaderConfig, plain([]byte(loaderConfig))},
	}
	for _, s := range l.Slots {
		files = append(files, bootFile{path.Join(bootspec.UKIDirectory, bootspec.BootEntry(s.Image, l.bootTries())), s.UKI})
	}
	return files
}

// bootTries is how often a new image is tried: with one slot there is no other to turn to, and the loader must not try to
// write to a CD-ROM. (QEMU's USB CD-ROM answers nothing more after a write, so that nothing boots.)
func (l Layout) bootTries() int {
	if l.OneSlot {
		return 0
	}
	return bootspec.BootTries
}

// writeESP makes the ESP's file system and all its files.
func writeESP(f medium, l Layout, p partition) error {
	size, err := fatSize(p.size, int64(l.SectorSize))
	if err != nil {
		return err
	}
	if f.dense {
		// Allocation tables have two entries of four bytes for each cluster, of 512 bytes at least: 1/64 of the partition.
		// The rest is for the boot sectors before and the first directories behind them.
		if err := f.zero(p.start, min(p.size, p.size/64+2*mib)); err != nil {
			return err
		}
	}
	store := &storage{medium: f}
	fs, err := fat32.Create(store, size, p.start, int64(l.SectorSize), volumeLabel, true)
	if err != nil {
		return fmt.Errorf("cannot make file system: %w", err)
	}
	for _, file := range l.bootFiles() { // folders first: they are close to each other
		if err := fs.Mkdir(path.Dir(file.path)); err != nil {
			return fmt.Errorf("cannot make folder of %s: %w", file.path, err)
		}
	}
	for _, file := range l.bootFiles() {
		if err := writeFile(fs, store, p.start, file); err != nil {
			return fmt.Errorf("cannot write %s: %w", file.path, err)
		}
	}
	v, err := openFAT(io.NewSectionReader(f, p.start, p.size), p.size)
	if err != nil {
		return err
	}
	id := l.derive("volume id")
	return settle(f, p.start, v, [4]byte(id[:]), l.Epoch)
}

// writeFile has go-diskfs reserve the file's clusters, and writes the content there itself: the library writes a file
// cluster by cluster and both allocation tables with each call.
func writeFile(fs *fat32.FileSystem, store *storage, start int64, file bootFile) error {
	handle, err := fs.OpenFile(file.path, os.O_CREATE|os.O_RDWR)
	if err != nil {
		return err
	}
	defer handle.Close()
	store.reserving = true
	_, err = handle.Write(make([]byte, file.content.Size))
	store.reserving = false
	if err != nil {
		return err
	}
	reserved, ok := handle.(*fat12.File)
	if !ok {
		return errors.New("its clusters are not told")
	}
	ranges, err := reserved.GetDiskRanges()
	if err != nil {
		return err
	}
	var spans []span
	left := file.content.Size
	for _, r := range ranges {
		n := min(int64(r.Length), left) // the last cluster is not full
		spans, left = append(spans, span{start + int64(r.Offset), n}), left-n
	}
	if left != 0 {
		return fmt.Errorf("%d bytes have no clusters", left)
	}
	return file.content.copyTo(newSparse(store.medium, spans...))
}

// fatSize is how much of a partition its file system takes. go-diskfs makes, for some sizes, an allocation table that is
// up to two entries too small for its clusters (its issue 418), which fsck.vfat and firmware refuse: a few clusters less
// are then the right size. The sums are those of its fat32.Create.
func fatSize(partition, sector int64) (int64, error) {
	const reserved = 32
	perCluster := int64(1)
	switch {
	case partition > 32<<30:
		return 0, fmt.Errorf("an ESP of %d bytes is over the limit of 32 GiB", partition)
	case partition > 16<<30:
		perCluster = max(16<<10/sector, 1)
	case partition > 8<<30:
		perCluster = max(8<<10/sector, 1)
	case partition > 260<<20:
		perCluster = max(4<<10/sector, 1)
	}
	for total := partition / sector; total > reserved; total -= perCluster {
		denominator := sector*perCluster + 8
		table := (4*(total-reserved) + denominator - 1) / denominator
		clusters := (total - reserved - 2*table) / perCluster
		if clusters < fat32Min {
			break
		}
		if clusters+clusterMin <= table*sector/4 {
			return total * sector, nil
		}
	}
	least := map[int64]int64{512: 34, 4096: 260}[sector]
	return 0, fmt.Errorf("an ESP of %d MiB is too small for FAT32 with sectors of %d bytes: make it %d MiB or more", partition/mib, sector, least)
}
