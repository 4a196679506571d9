package install

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/slipway-os/slipway/agent/signature"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

// Found is what a disk holds.
type Found struct {
	Marks []signature.Mark
	ID    string // of the marks; empty: there are none
	// Begun says that an installation of this node was cut off: whatever is left there was given up by it.
	Begun bool
	// Own says that this node is installed there already: Disk is its partition table.
	Own  bool
	Disk *disk.Disk
}

// Look looks at a disk of size bytes for a node.
func Look(r io.ReaderAt, size int64, cluster, node string) (Found, error) {
	var f Found
	var err error
	if f.Marks, err = signature.Find(r, size); err != nil {
		return f, err
	}
	f.ID = signature.ID(f.Marks)
	c, n, ok, err := readMarker(r)
	if err != nil {
		return f, err
	}
	if ok && c == cluster && n == node {
		f.Begun = true
		return f, nil
	}
	d, err := disk.Read(r, size)
	if err != nil || !ours(d) {
		return f, nil
	}
	place, _ := d.Partition(bootspec.LabelConfig)
	config, err := bootspec.ReadConfig(section{io.NewSectionReader(r, place.Start, place.Size)})
	if err == nil && config.Cluster == cluster && config.Node == node {
		f.Own, f.Disk = true, d
	}
	return f, nil
}

type section struct{ io.ReaderAt }

// ours says whether a disk has all of an installation's partitions and no other: a volume with data on it is nobody's to
// give up but the operator's.
func ours(d *disk.Disk) bool {
	want := map[string]bool{
		bootspec.LabelESP: true, bootspec.LabelRootA: true, bootspec.LabelVerityA: true, bootspec.LabelRootB: true,
		bootspec.LabelVerityB: true, bootspec.LabelConfig: true, bootspec.LabelState: true,
	}
	for _, p := range d.Partitions {
		if !want[p.Label] {
			return false
		}
		delete(want, p.Label)
	}
	delete(want, bootspec.LabelRootB) // a disk that was flashed may have one slot
	delete(want, bootspec.LabelVerityB)
	return len(want) == 0
}

// ErrForeign is what errors wrap about a disk with data that nobody has given up.
var ErrForeign = errors.New("it holds data that this node has not installed")

// Decide says whether a disk is to be written; if not, and there is no error, the node is installed there already.
//
// Overwrite is the id that the operator confirmed: of foreign data, or of this node's own installation, to install again.
// Again is the boot server's word to install again. An installation that is there is never written over by itself: it has
// the node's state, and a boot server that lost its own must not cost a node its.
func Decide(f Found, overwrite string, again bool) (write bool, err error) {
	switch {
	case f.Begun || f.ID == "" || f.ID == overwrite:
		return true, nil
	case f.Own:
		return again, nil
	}
	var words []string
	for _, m := range f.Marks {
		words = append(words, m.String())
	}
	err = fmt.Errorf("%w: %s (to destroy all of it, write overwrite: %q in the node's install in the cluster document)",
		ErrForeign, strings.Join(words, "; "), f.ID)
	if overwrite != "" {
		err = fmt.Errorf("%w; overwrite: %q there is of other data", err, overwrite)
	}
	return false, err
}
