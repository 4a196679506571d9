// Package media finds the medium that a machine boots from, a disk, a USB stick or a CD-ROM, and gives access to the
// partitions on it: the slot with the image that was booted, the node's configuration, the state.
//
// Words: a medium is a drive with our partition table; the slot that counts is the one whose GUIDs tell the root hash of the
// kernel that runs. A table is read by images/disk, not by the kernel, which sees none on a CD-ROM.
//
// It verifies nothing of what a slot holds: that is dm-verity's work, and the GUIDs only say where to look. It makes no file
// system (agent/storage).
package media

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/slipway-os/slipway/agent/drives"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

// Medium is a drive that holds the image that was booted.
type Medium struct {
	Drive        drives.Drive
	Disk         *disk.Disk
	Root, Verity disk.Partition // of the slot that counts
}

// ErrNotFound is what errors wrap when no drive holds the image, or none that may be meant.
var ErrNotFound = errors.New("this image is on no drive that it may have been booted from")

// Search says which medium is looked for.
type Search struct {
	List     func() ([]drives.Drive, error) // the drives that are there now
	RootHash string                         // of the image that was booted, 64 hexadecimal digits
	ESP      string                         // GUID of the partition that the loader came from; empty: not known
	Optical  bool                           // the loader came from no partition: a CD-ROM is wanted, if there is one
	Again    func()                         // called between two looks (load drivers of what has appeared); may be nil
	Log      *slog.Logger
	Pause    time.Duration // between two looks; zero: 300 ms
}

// seen is what was found on a drive.
type seen struct {
	drive drives.Drive
	disk  *disk.Disk
	err   error
}

// Find looks until the medium is there, or ctx ends: USB drives take seconds to appear. The error says of each drive why it
// is not the one.
func (s Search) Find(ctx context.Context) (*Medium, error) {
	if s.Pause == 0 {
		s.Pause = 300 * time.Millisecond
	}
	known, told := map[string]seen{}, false
	for {
		list, err := s.List()
		if err != nil {
			return nil, err
		}
		all := s.look(list, known)
		ended := ctx.Err() != nil
		m, err := s.decide(all, ended)
		if err == nil || ended || !errors.Is(err, ErrNotFound) {
			return m, err
		}
		if !told {
			told = true
			s.Log.Info("waiting for the medium that this machine boots from", "drives", len(all))
		}
		select {
		case <-ctx.Done():
		case <-time.After(s.Pause):
		}
		if s.Again != nil {
			s.Again()
		}
	}
}

// look reads the tables of drives that are new or could not be read before.
func (s Search) look(list []drives.Drive, known map[string]seen) []seen {
	var all []seen
	for _, d := range list {
		if d.Size == 0 {
			continue
		}
		k, ok := known[d.Name]
		if !ok || k.err != nil || k.drive.Size != d.Size {
			k.disk, k.err = readDrive(d)
		}
		k.drive = d
		known[d.Name] = k
		all = append(all, k)
	}
	return all
}

func readDrive(d drives.Drive) (*disk.Disk, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return disk.Read(f, d.Size)
}

// decide chooses among what was seen. At the end of the patience, a medium that is not quite what was looked for is taken if
// nothing else can be meant.
func (s Search) decide(all []seen, ended bool) (*Medium, error) {
	var found []*Medium
	var why []string
	for _, k := range all {
		m, reason := s.holds(k)
		if m == nil {
			why = append(why, k.drive.Path+": "+reason)
			continue
		}
		found = append(found, m)
	}
	meant := s.meant(found)
	if len(meant) == 0 && ended && s.Optical {
		meant = found
	}
	switch {
	case len(meant) == 1:
		return meant[0], nil
	case len(meant) > 1:
		return nil, fmt.Errorf("image and boot loader are the same on %s: remove all but one, or flash them again", paths(meant))
	}
	for _, m := range found {
		why = append(why, m.Drive.Path+": it holds the image, but is not what the boot loader came from")
	}
	if len(why) == 0 {
		why = []string{"there are no drives"}
	}
	return nil, fmt.Errorf("%w: %s", ErrNotFound, strings.Join(why, "; "))
}

// meant are those of the found ones that the loader may have come from.
func (s Search) meant(found []*Medium) []*Medium {
	var list []*Medium
	for _, m := range found {
		_, same := m.Disk.ByGUID(s.ESP)
		if s.ESP != "" && same || s.ESP == "" && (!s.Optical || m.Drive.Optical) {
			list = append(list, m)
		}
	}
	return list
}

// holds tells whether a drive has the image, or why not.
func (s Search) holds(k seen) (*Medium, string) {
	if k.err != nil {
		return nil, "cannot read its partition table: " + k.err.Error()
	}
	root, err := bootspec.SlotGUID(s.RootHash)
	if err != nil {
		return nil, err.Error()
	}
	tree, err := bootspec.VerityGUID(s.RootHash)
	if err != nil {
		return nil, err.Error()
	}
	m := &Medium{Drive: k.drive, Disk: k.disk}
	var ok bool
	if m.Root, ok = k.disk.ByGUID(root); !ok {
		return nil, "no partition with this image"
	}
	if m.Verity, ok = k.disk.ByGUID(tree); !ok {
		return nil, fmt.Sprintf("partition %s has this image, but there is none with its verity tree", m.Root.Label)
	}
	return m, ""
}

func paths(list []*Medium) string {
	var words []string
	for _, m := range list {
		words = append(words, m.Drive.Path)
	}
	return strings.Join(words, " and ")
}

// Config reads the node's configuration. bootspec.ErrNoConfig: none was ever written.
func (m *Medium) Config() (bootspec.Config, error) {
	p, ok := m.Disk.Partition(bootspec.LabelConfig)
	if !ok {
		return bootspec.Config{}, fmt.Errorf("%s has no partition %s: flash it again", m.Drive.Path, bootspec.LabelConfig)
	}
	f, err := os.Open(m.Drive.Path)
	if err != nil {
		return bootspec.Config{}, fmt.Errorf("cannot read the node's configuration: %w", err)
	}
	defer f.Close()
	c, err := bootspec.ReadConfig(p.Of(f))
	if err != nil {
		return bootspec.Config{}, fmt.Errorf("partition %s of %s: %w", p.Label, m.Drive.Path, err)
	}
	return c, nil
}
