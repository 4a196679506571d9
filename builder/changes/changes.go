// Package changes tells what differs between two images: Debian packages, components with their Go modules, container
// images, the kernel with its modules and configuration, systemd units, files, modes and owners, and sizes.
//
// It reads what a bake writes beside an image (the manifest, the list of files, the bill of materials, the kernel's
// configuration) and never the image itself, so two images are compared in a second, on a machine that has neither. Each of these files
// is compared with its manifest's digest while it is read. What is not there is named, not passed over.
//
// Comparing is pure; the result is a value for programs (JSON), and Text and Markdown write it for people.
package changes

import (
	"cmp"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/inventory"
	"github.com/slipway-os/slipway/images/manifest"
)

// How a thing has changed.
const (
	Added      = "added"
	Removed    = "removed"
	Upgraded   = "upgraded"
	Downgraded = "downgraded"
	Rebuilt    = "rebuilt" // the same version, other bytes
	Changed    = "changed"
	Enabled    = "enabled"
	Disabled   = "disabled"
	Masked     = "masked"
	Unmasked   = "unmasked"
)

// Comparison is what differs between two releases, or two images.
type Comparison struct {
	Equal  bool     `json:"equal"` // every artifact has the same bytes
	Images []Pair   `json:"images"`
	Only   []Single `json:"only"` // images that one side alone has
}

// Single is an image without a counterpart.
type Single struct {
	ID
	How string `json:"how"` // added, removed
}

// ID names an image.
type ID struct {
	Role    string `json:"role"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
}

// Pair is what differs between an image and its counterpart.
type Pair struct {
	From            ID       `json:"from"`
	To              ID       `json:"to"`
	NotCompared     []Gap    `json:"notCompared"`
	Packages        []Change `json:"packages"`
	Components      []Change `json:"components"`
	GoModules       []Module `json:"goModules"`
	ContainerImages []Change `json:"containerImages"`
	Kernel          *Change  `json:"kernel,omitempty"` // its release, where that differs
	Cmdline         []Change `json:"cmdline"`          // kernel arguments, without those that name the images
	KernelConfig    []Change `json:"kernelConfig"`     // options: y, m, n, a value; empty where a kernel doesn't have the option
	KernelModules   []File   `json:"kernelModules"`    // paths without the kernel's release and the file's compression
	Units           []Unit   `json:"units"`
	Files           []File   `json:"files"` // all but kernel modules
	Modes           []Mode   `json:"modes"`
	Artifacts       []SizeOf `json:"artifacts"`
	Origins         []SizeOf `json:"origins"` // compressed bytes in the root image, by who brought them
	before, after   *Image   // for words
}

// Gap is something that could not be compared.
type Gap struct {
	What  string `json:"what"`
	Image ID     `json:"image"`
	Side  string `json:"side"` // from, to
	Why   string `json:"why"`
}

// Change is a thing with a value before and after. Before is empty where it was added, After where it was removed.
type Change struct {
	Name   string `json:"name"`
	Was    string `json:"was,omitempty"` // its name before, where that was another
	How    string `json:"how"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Module is a Go module whose version differs in some components.
type Module struct {
	Change
	Components []string `json:"components"`
}

// Unit is something that became of a systemd unit.
type Unit struct {
	Name   string `json:"name"`
	How    string `json:"how"`
	Detail string `json:"detail,omitempty"` // the drop-in that changed; the unit that wants it
}

// File is a path that differs in type, content or target.
type File struct {
	Path   string           `json:"path"` // as it is now; of a removed one, as it was
	In     string           `json:"in"`   // root, initrd
	How    string           `json:"how"`
	Origin string           `json:"origin,omitempty"` // who brings it now; of a removed one, who brought it
	Before *inventory.Entry `json:"before,omitempty"`
	After  *inventory.Entry `json:"after,omitempty"`
}

// Mode is a path that both have, with other mode, owner or extended attributes: 0755 0:0, mode, user and group.
type Mode struct {
	Path   string `json:"path"`
	In     string `json:"in"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// SizeOf is how many bytes something takes before and after.
type SizeOf struct {
	Name   string `json:"name"`
	How    string `json:"how,omitempty"` // empty: the same bytes, or bytes that are not told apart
	Before int64  `json:"before"`
	After  int64  `json:"after"`
}

// Image is what is known of an image. What its folder lacks is nil, and in Gaps.
type Image struct {
	Manifest *manifest.Manifest
	Files    *inventory.Inventory
	Modules  map[string][]GoModule // by component
	Config   map[string]string
	Gaps     map[string]string // what is missing, and why
}

// GoModule is a Go module in a component.
type GoModule struct{ Path, Version, Sum string }

// ID names the image.
func (i *Image) ID() ID {
	return ID{Role: i.Manifest.Role, Version: i.Manifest.Version, Arch: i.Manifest.Arch}
}

// String is role/arch version.
func (i ID) String() string { return i.Role + "/" + i.Arch + " " + i.Version }

func (i ID) place() string { return i.Role + "/" + i.Arch }

// Releases compares images with their counterparts, of the same role and architecture. With one image on each side these are
// counterparts whatever they are.
func Releases(from, to []*Image) *Comparison {
	c := &Comparison{Equal: true, Images: []Pair{}, Only: []Single{}}
	if len(from) == 1 && len(to) == 1 {
		c.add(from[0], to[0])
		return c
	}
	for _, a := range from {
		i := slices.IndexFunc(to, func(b *Image) bool { return b.ID().place() == a.ID().place() })
		if i < 0 {
			c.Only = append(c.Only, Single{a.ID(), Removed})
			continue
		}
		c.add(a, to[i])
	}
	for _, b := range to {
		if !slices.ContainsFunc(from, func(a *Image) bool { return a.ID().place() == b.ID().place() }) {
			c.Only = append(c.Only, Single{b.ID(), Added})
		}
	}
	c.Equal = c.Equal && len(c.Only) == 0
	return c
}

func (c *Comparison) add(a, b *Image) {
	p := Images(a, b)
	c.Images = append(c.Images, p)
	c.Equal = c.Equal && p.equal()
}

// equal: the artifacts' digests vouch for all that went in, and the rest of the manifest for what is not in an artifact.
func (p *Pair) equal() bool {
	return p.From == p.To && !slices.ContainsFunc(p.Artifacts, func(s SizeOf) bool { return s.How != "" }) &&
		len(p.Packages)+len(p.Components)+len(p.ContainerImages)+len(p.Cmdline) == 0
}

// Images compares two images.
func Images(a, b *Image) Pair {
	p := Pair{
		From: a.ID(), To: b.ID(), NotCompared: gaps(a, b),
		Packages: packages(a.Manifest, b.Manifest), Components: components(a.Manifest, b.Manifest),
		GoModules: []Module{}, ContainerImages: containerImages(a.Manifest, b.Manifest), Cmdline: cmdline(a.Manifest, b.Manifest),
		KernelConfig: []Change{}, KernelModules: []File{}, Units: []Unit{}, Files: []File{}, Modes: []Mode{},
		Artifacts: artifacts(a.Manifest, b.Manifest), Origins: []SizeOf{},
	}
	if a.Modules != nil && b.Modules != nil {
		p.GoModules = goModules(a.Modules, b.Modules)
	}
	if a.Config != nil && b.Config != nil {
		p.KernelConfig = config(a.Config, b.Config)
	}
	if a.Files != nil && b.Files != nil {
		p.Kernel = kernel(a.Files, b.Files)
		p.KernelModules, p.Files, p.Modes = files(a.Files, b.Files)
		p.Units = units(a.Files.Root, b.Files.Root)
		p.Origins = origins(a.Files.Root, b.Files.Root)
	}
	return p
}

func gaps(a, b *Image) []Gap {
	list := []Gap{}
	for _, side := range []struct {
		name  string
		image *Image
	}{{"from", a}, {"to", b}} {
		for _, what := range sortedKeys(side.image.Gaps) {
			list = append(list, Gap{What: what, Image: side.image.ID(), Side: side.name, Why: side.image.Gaps[what]})
		}
	}
	return list
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// bothKeys are the keys of either map, sorted.
func bothKeys[V any](a, b map[string]V) []string {
	keys := sortedKeys(a)
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

func sortChanges(list []Change) []Change {
	slices.SortStableFunc(list, func(x, y Change) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Before, y.Before))
	})
	return list
}
