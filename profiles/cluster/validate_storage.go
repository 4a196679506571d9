package cluster

import (
	"path"
	"regexp"
	"strings"

	"github.com/slipway-os/slipway/images/document"
)

const (
	mib         = 1 << 20
	leastVolume = 16 * mib // bytes: below it, mkfs makes a file system without a journal
)

var (
	volumeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$`)
	contentID  = regexp.MustCompile(`^[0-9a-f]{8,64}$`)
	wwn        = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.:_-]{7,127}$`)
	serial     = regexp.MustCompile(`^[!-~]([ -~]{0,126}[!-~])?$`)
	devicePath = regexp.MustCompile(`^(/dev/[A-Za-z0-9][A-Za-z0-9._-]*|[a-z][a-z0-9]*-[A-Za-z0-9][A-Za-z0-9:._-]*)$`)
)

// formats are the file systems of volumes, the default first: those whose mkfs is in the image.
func formats() []string { return []string{"ext4"} }

// storage checks the storage of a node, or of all of them.
func (k *check) storage(at string, s *Storage, all bool) {
	if s == nil {
		return
	}
	if s.State != nil {
		k.disk(at+".state", s.State, all)
	}
	names, mounts, rests := taken{}, taken{}, map[Disk]string{}
	for i, v := range s.Data {
		at := document.Index(at+".data", i)
		k.volumeName(at+".name", v.Name)
		k.unique(names, "name", v.Name, at+".name")
		k.chosen(at+".disk", v.Disk, all)
		k.volumeMount(at+".mount", v.Mount)
		k.unique(mounts, "mount point", v.Mount, at+".mount")
		if v.Format != "" {
			k.oneOf(at+".format", "file system", v.Format, formats())
		}
		k.overwrite(at+".overwrite", v.Overwrite, all)
		k.volumeSize(at+".size", v, rests)
	}
}

func (k *check) volumeName(at, name string) {
	const hint = "use 1 to 20 of a-z, 0-9 and -, not - at either end"
	switch {
	case name == "":
		k.fault(at, hint, "is missing")
	case !volumeName.MatchString(name):
		k.fault(at, hint, "%q is not a volume's name", name)
	}
}

func (k *check) volumeMount(at, mount string) {
	const hint = "write it like /var/lib/data"
	if mount == "" {
		k.fault(at, hint, "is missing")
		return
	}
	if path.Clean(mount) == mount && plainPath(mount) {
		for _, top := range []string{"/var/", "/srv/", "/opt/", "/home/"} {
			if strings.HasPrefix(mount, top) {
				return
			}
		}
	}
	k.fault(at, hint, "%q is not below /var, /srv, /opt or /home", mount)
}

// plainPath says whether a path has nothing that units and mount tables would have to escape.
func plainPath(p string) bool {
	return strings.Trim(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") == "" && len(p) < 256
}

// volumeSize checks a size, and that only one volume takes the rest of a disk.
func (k *check) volumeSize(at string, v Volume, rests map[Disk]string) {
	switch {
	case v.Size != 0 && v.Size < leastVolume:
		k.fault(at, "use 16MiB or more", "%s is too small for a file system", v.Size)
	case v.Size == 0 && v.Disk != nil && !k.faulty(at):
		if first, ok := rests[*v.Disk]; ok {
			k.fault(at, "give one of them a size", "is missing, and volume %s takes the rest of this disk already", first)
			return
		}
		rests[*v.Disk] = v.Name
	}
}

// install checks the installation of a node, or of all of them.
func (k *check) install(at string, i *Install, all bool) {
	switch {
	case i == nil:
	case i.Skip && all:
		k.fault(at+".skip", "remove install, or write skip on the node that is none of the others", "says that no node is installed")
	case i.Skip && i.Disk != nil:
		k.fault(at+".skip", "remove one of them", "the node has a disk to install to")
	case i.Skip:
	default:
		k.chosen(at+".disk", i.Disk, all)
		k.overwrite(at+".overwrite", i.Overwrite, all)
	}
}

const (
	chooseDisk = "write what chooses it, like disk: {serial: S3Z8NB0K} or disk: {smallest: true}"
	ownDisk    = "write it in the node's own install or storage"
)

func (k *check) overwrite(at, id string, all bool) {
	switch {
	case id == "":
	case all:
		k.fault(at, ownDisk, "an id is of what is on one machine's disk, and this is for all nodes")
	case !contentID.MatchString(id):
		k.fault(at, "write the one that the refused installation told, like 3f9a2c71d0b4", "%q is no id of a disk's content", id)
	}
}

// chosen checks a disk that must be given.
func (k *check) chosen(at string, d *Disk, all bool) {
	if d == nil {
		k.fault(at, chooseDisk, "is missing")
		return
	}
	k.disk(at, d, all)
}

func (k *check) disk(at string, d *Disk, all bool) {
	if *d == (Disk{}) && !k.faulty(at) {
		k.fault(at, chooseDisk, "chooses no disk")
	}
	if d.Serial != "" && !serial.MatchString(d.Serial) {
		k.fault(at+".serial", "write it without white space at its ends, as the disk's label or lsblk -o SERIAL has it", "%q is no serial number", d.Serial)
	} else if d.Serial != "" && all {
		k.fault(at+".serial", ownDisk, "a serial number is one machine's disk, and this is for all nodes")
	}
	if d.WWN != "" && !wwn.MatchString(d.WWN) {
		k.fault(at+".wwn", "write it like 0x5000c500a1b2c3d4 or eui.0025385b71b0e5a1, as lsblk -o WWN has it", "%q is no World Wide Name", d.WWN)
	} else if d.WWN != "" && all {
		k.fault(at+".wwn", ownDisk, "a World Wide Name is one machine's disk, and this is for all nodes")
	}
	k.diskPath(at+".path", d.Path)
	if d.MaxSize != 0 && d.MaxSize < d.MinSize {
		k.fault(at+".maxSize", "make maxSize the larger one", "no disk is at least %s and at most %s", d.MinSize, d.MaxSize)
	}
}

func (k *check) diskPath(at, p string) {
	rest, link := strings.CutPrefix(p, "/dev/disk/")
	byPath, bus := strings.CutPrefix(rest, "by-path/")
	switch {
	case p == "":
	case link && bus:
		k.fault(at, "write "+byPath, "%q is a link that udev makes, and there is no udev yet when disks are chosen", p)
	case link:
		k.fault(at, "choose the disk by serial, wwn, or a path like /dev/sda", "%q is a link that udev makes, and there is no udev yet when disks are chosen", p)
	case !devicePath.MatchString(p):
		k.fault(at, "write it like /dev/sda, or pci-0000:00:04.0", "%q is no disk's path", p)
	}
}
