package cluster

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Storage is where a node keeps what lasts.
type Storage struct {
	State *Disk    `yaml:"state"` // of the state partition; default: the disk the node booted from, else memory
	Data  []Volume `yaml:"data"`
}

// Volume is a file system of its own on a node.
type Volume struct {
	Name      string `yaml:"name"` // 1..20 bytes, a DNS label; the partition is slipway-data-NAME
	Disk      *Disk  `yaml:"disk"`
	Size      Size   `yaml:"size"`      // 0: the rest of the disk
	Format    string `yaml:"format"`    // default ext4
	Mount     string `yaml:"mount"`     // below /var, /srv, /opt or /home
	Overwrite string `yaml:"overwrite"` // id of the disk's foreign content that may be destroyed
}

// Install makes a node install itself to a disk when it boots from elsewhere.
type Install struct {
	Disk      *Disk  `yaml:"disk"`
	Overwrite string `yaml:"overwrite"` // id of the disk's foreign content that may be destroyed; only for one node
	Skip      bool   `yaml:"skip"`      // this node is not installed though the others are; only for one node
}

// Disk chooses one disk of a machine, by all that is set.
type Disk struct {
	Serial   string `yaml:"serial"`
	WWN      string `yaml:"wwn"`
	Path     string `yaml:"path"` // /dev/sda, or where it is plugged in: pci-0000:00:04.0
	MinSize  Size   `yaml:"minSize"`
	MaxSize  Size   `yaml:"maxSize"`
	Smallest bool   `yaml:"smallest"` // the smallest of those that match
}

// Size is a number of bytes.
type Size int64

var units = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6},
}

// UnmarshalText reads a whole number, at least 1, with its unit: 20GiB.
func (s *Size) UnmarshalText(text []byte) error {
	refused := wrong{fmt.Sprintf("%q is not a size", text), "write it like 20GiB; units are MiB, GiB, TiB, MB, GB, TB"}
	for _, u := range units {
		number, ok := strings.CutSuffix(string(text), u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimRight(number, " "), 10, 64)
		if err != nil || n < 1 || n > math.MaxInt64/u.bytes {
			return refused
		}
		*s = Size(n * u.bytes)
		return nil
	}
	return refused
}

// String is the size with the largest unit that leaves it whole.
func (s Size) String() string {
	for _, u := range units {
		if s > 0 && int64(s)%u.bytes == 0 {
			return fmt.Sprintf("%d%s", int64(s)/u.bytes, u.name)
		}
	}
	return fmt.Sprintf("%d bytes", int64(s))
}

// NodeStorage is a node's storage as its node document has it; nil: the document says nothing of it.
func (c *Cluster) NodeStorage(n *Node) *bootspec.Storage {
	s := n.Storage
	if s == nil {
		s = c.Storage
	}
	if s == nil {
		return nil
	}
	out := &bootspec.Storage{}
	if s.State != nil {
		match := s.State.match()
		out.State = &match
	}
	for _, v := range s.Data {
		volume := bootspec.Volume{
			Name: v.Name, Disk: v.Disk.match(), Size: int64(v.Size) / mib * mib, Format: v.Format, Mount: v.Mount, Overwrite: v.Overwrite,
		}
		if volume.Format == "" {
			volume.Format = formats()[0]
		}
		out.Data = append(out.Data, volume)
	}
	return out
}

// NodeInstall is a node's installation as its node document has it; nil: it is not installed.
func (c *Cluster) NodeInstall(n *Node) *bootspec.Install {
	i := n.Install
	if i == nil {
		i = c.Install
	}
	if i == nil || i.Skip {
		return nil
	}
	return &bootspec.Install{Disk: i.Disk.match(), Overwrite: i.Overwrite}
}

// Live takes installation and storage out of the document: its nodes run from memory. It says whether there was any.
func (c *Cluster) Live() bool {
	had := c.Install != nil || c.Storage != nil
	c.Install, c.Storage = nil, nil
	for i := range c.Nodes {
		n := &c.Nodes[i]
		had = had || n.Install != nil || n.Storage != nil
		n.Install, n.Storage = nil, nil
	}
	return had
}

func (d *Disk) match() bootspec.DiskMatch {
	return bootspec.DiskMatch{
		Serial: d.Serial, WWN: d.WWN, Path: d.Path, MinSize: int64(d.MinSize), MaxSize: int64(d.MaxSize), Smallest: d.Smallest,
	}
}
