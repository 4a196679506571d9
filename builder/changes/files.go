package changes

import (
	"fmt"
	"maps"
	"strings"

	"github.com/slipway-os/slipway/builder/inventory"
	"github.com/slipway-os/slipway/builder/kmod"
	"github.com/slipway-os/slipway/images/manifest"
)

// Where a file lies.
const (
	InRoot   = "root"
	InInitrd = "initrd"
)

// modulesFolder has a folder for each kernel.
const modulesFolder = "usr/lib/modules/"

// kernelRelease is the kernel's, by the only folder of its modules; empty where there is none, or several.
func kernelRelease(list []inventory.Entry) string {
	found := ""
	for _, e := range list {
		rest, ok := strings.CutPrefix(e.Path, modulesFolder)
		name, _, _ := strings.Cut(rest, "/")
		switch {
		case !ok || name == found:
		case found != "":
			return ""
		default:
			found = name
		}
	}
	return found
}

// kernel compares releases.
func kernel(a, b *inventory.Inventory) *Change {
	x, y := kernelRelease(a.Root), kernelRelease(b.Root)
	if x == y {
		return nil
	}
	c := &Change{Name: "kernel", How: debian(x, y), Before: x, After: y}
	switch {
	case x == "":
		c.How = Added
	case y == "":
		c.How = Removed
	}
	return c
}

// byPath has entries by their paths, without the kernel's release in them.
func byPath(list []inventory.Entry) map[string]*inventory.Entry {
	folder := modulesFolder + kernelRelease(list)
	all := map[string]*inventory.Entry{}
	for i, e := range list {
		key := e.Path
		if folder != modulesFolder && (key == folder || strings.HasPrefix(key, folder+"/")) {
			key = modulesFolder + "*" + strings.TrimPrefix(key, folder)
		}
		all[key] = &list[i]
	}
	return all
}

// files compares what lies in root image and initrd.
func files(a, b *inventory.Inventory) (modules, others []File, modes []Mode) {
	modules, others, modes = []File{}, []File{}, []Mode{}
	for _, place := range []struct {
		name string
		a, b []inventory.Entry
	}{{InRoot, a.Root, b.Root}, {InInitrd, a.Initrd, b.Initrd}} {
		before, after := moduleNames(byPath(place.a)), moduleNames(byPath(place.b))
		for _, key := range bothKeys(before, after) {
			x, y := before[key], after[key]
			if f, ok := file(x, y); ok {
				f.In = place.name
				if module, is := strings.CutPrefix(key, modulePrefix); is {
					f.Path = module
					modules = append(modules, f)
				} else {
					others = append(others, f)
				}
			}
			if x != nil && y != nil && attributes(x) != attributes(y) && x.Type == y.Type {
				modes = append(modes, Mode{Path: y.Path, In: place.name, Before: attributes(x), After: attributes(y)})
			}
		}
	}
	return modules, others, modes
}

// modulePrefix stands before the key of a kernel module, which can't be that of a file: paths are clean.
const modulePrefix = "//"

// moduleNames gives kernel modules keys without compression: e1000e.ko and e1000e.ko.xz are one.
func moduleNames(all map[string]*inventory.Entry) map[string]*inventory.Entry {
	out := map[string]*inventory.Entry{}
	for key, e := range all {
		if below, ok := strings.CutPrefix(key, modulesFolder+"*/"); ok && kmod.IsModule(key) {
			key = modulePrefix + strings.TrimPrefix(kmod.PlainName(below), "kernel/")
		}
		out[key] = e
	}
	return out
}

// file compares type, content and target; where the path is only on one side, the other is nil.
func file(a, b *inventory.Entry) (File, bool) {
	switch {
	case a == nil:
		return File{Path: b.Path, How: Added, Origin: b.Origin, After: b}, true
	case b == nil:
		return File{Path: a.Path, How: Removed, Origin: a.Origin, Before: a}, true
	case a.Type == b.Type && a.SHA256 == b.SHA256 && a.Size == b.Size && a.Link == b.Link:
		return File{}, false
	}
	return File{Path: b.Path, How: Changed, Origin: b.Origin, Before: a, After: b}, true
}

// attributes are mode, owner and extended attributes in words.
func attributes(e *inventory.Entry) string {
	text := fmt.Sprintf("%s %d:%d", e.Mode, e.UID, e.GID)
	for _, name := range sortedKeys(e.Xattrs) {
		text += " " + name + "=" + e.Xattrs[name]
	}
	return text
}

// origins compares compressed bytes by who brought them.
func origins(a, b []inventory.Entry) []SizeOf {
	sum := func(list []inventory.Entry) (bytes map[string]int64, names map[string]string) {
		bytes, names = map[string]int64{}, map[string]string{}
		for _, e := range list {
			key := originKey(e.Origin)
			names[key] = e.Origin
			bytes[key] += e.Packed
		}
		return bytes, names
	}
	before, was := sum(a)
	after, is := sum(b)
	names := maps.Clone(was)
	maps.Copy(names, is)
	list := []SizeOf{}
	for _, key := range sortedKeys(names) {
		if before[key] == after[key] {
			continue
		}
		list = append(list, SizeOf{Name: names[key], How: sizeHow(was[key] != "", is[key] != ""), Before: before[key], After: after[key]})
	}
	return list
}

func originKey(origin string) string {
	if name, ok := strings.CutPrefix(origin, "package "); ok {
		return "package " + packageKey(name)
	}
	return origin
}

func sizeHow(before, after bool) string {
	switch {
	case !before:
		return Added
	case !after:
		return Removed
	}
	return Changed
}

// artifacts compares files of an image by their kinds. All are listed: a size that stayed is worth knowing.
func artifacts(a, b *manifest.Manifest) []SizeOf {
	list := []SizeOf{}
	for _, x := range a.Artifacts {
		y, ok := b.Artifact(x.Kind)
		s := SizeOf{Name: x.Kind, Before: x.Size, After: y.Size}
		if !ok || x.SHA256 != y.SHA256 {
			s.How = sizeHow(true, ok)
		}
		list = append(list, s)
	}
	for _, y := range b.Artifacts {
		if _, ok := a.Artifact(y.Kind); !ok {
			list = append(list, SizeOf{Name: y.Kind, How: Added, After: y.Size})
		}
	}
	return list
}
