package bake

import (
	"debug/buildinfo"
	"maps"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/provenance"
	"github.com/slipway-os/slipway/builder/sbom"
	"github.com/slipway-os/slipway/images/manifest"
)

// writeProvenance says how the image of a manifest came to be. It lies beside and the manifest doesn't name it: the commit that a bake
// was made from isn't in the image.
func (b *baker) writeProvenance(m *manifest.Manifest) error {
	distribution, err := b.distribution()
	if err != nil {
		return err
	}
	build := provenance.Build{
		Origin: b.Origin, Manifest: m, Definition: b.Plan.Definition, Role: b.Plan.RoleDigest, Formats: b.Formats, RootSlot: b.Disk.Root,
		Epoch: b.Plan.Epoch, Distribution: distribution.ID, Modules: b.modulesOfPrograms(),
	}
	for _, p := range b.tools() {
		build.Tools = append(build.Tools, provenance.Package{Name: p.Name, Version: p.Version, Arch: p.Arch, SHA256: p.SHA256})
	}
	for _, i := range b.Plan.Foreign() {
		build.Foreign = append(build.Foreign, i.Digest)
	}
	text, err := build.Encode()
	if err != nil {
		return err
	}
	_, err = b.out.write(provenance.FileName(m.Role, m.Version, m.Arch), bytesTo(text))
	return err
}

// modulesOfPrograms are the modules that were linked into any program, by path and version. Those that were built in a folder
// have no sum: the component's inputs speak for them.
func (b *baker) modulesOfPrograms() []provenance.Module {
	all := map[string]provenance.Module{}
	for _, name := range b.componentNames() {
		for _, f := range b.components[name].Files {
			if f.Link != "" {
				continue
			}
			info, err := buildinfo.ReadFile(f.Source)
			if err != nil { // it was not made by Go
				continue
			}
			for _, m := range sbom.Modules(info, "") {
				if m.Version != "" {
					all[m.Path+" "+m.Version] = provenance.Module{Path: m.Path, Version: m.Version, Sum: m.Sum}
				}
			}
		}
	}
	return slices.SortedFunc(maps.Values(all), func(x, y provenance.Module) int {
		return strings.Compare(x.Path+" "+x.Version, y.Path+" "+y.Version)
	})
}
