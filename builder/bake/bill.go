package bake

import (
	"debug/buildinfo"
	"path"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/component"
	"github.com/slipway-os/slipway/builder/layer"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/builder/rootfs"
	"github.com/slipway-os/slipway/builder/sbom"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// writeSBOM writes the bill of materials.
func (b *baker) writeSBOM() error {
	b.step("write bill of materials")
	image := sbom.Image{
		Name: b.base(), Version: b.Plan.Version, Root: b.root.SHA256, Created: b.Plan.Epoch,
		Components: b.billComponents(), ContainerImages: b.billContainerImages(),
	}
	var err error
	if image.Distribution, err = b.distribution(); err != nil {
		return err
	}
	if image.Packages, err = b.billPackages(); err != nil {
		return err
	}
	text, err := image.Encode()
	if err != nil {
		return err
	}
	return b.out.artifact(manifest.KindSBOM, b.base()+bootspec.ExtSBOM, bytesTo(text))
}

// distribution is what the root tree's os-release says of whose packages these are.
func (b *baker) distribution() (sbom.Distribution, error) {
	text, err := b.tree.ReadFile("usr/lib/os-release")
	if err != nil {
		return sbom.Distribution{}, err
	}
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[name] = strings.Trim(value, `"'`)
	}
	return sbom.Distribution{ID: values["ID"], Version: values["VERSION_ID"], Name: values["NAME"]}, nil
}

func (b *baker) billPackages() ([]sbom.Package, error) {
	locked := map[string]plan.Package{}
	for _, p := range b.allPackages() {
		locked[p.Name] = p
	}
	var list []sbom.Package
	for _, l := range b.layers {
		p := locked[l.Package]
		copyright, err := b.copyright(l.Package)
		if err != nil {
			return nil, err
		}
		list = append(list, sbom.Package{
			Name: p.Name, Version: p.Version, Arch: p.Arch, SHA256: p.SHA256, Path: p.Path,
			Source: l.Source, Maintainer: l.Maintainer, Homepage: l.Homepage,
			PreDepends: l.PreDepends, Depends: l.Depends, Provides: l.Provides, Copyright: copyright,
		})
	}
	return list, nil
}

// copyright is a package's copyright file, as the package brings it: the image may leave it out. The folder it lies in may be
// a link to another package's (policy, chapter 12.5); nil: that one isn't in the image, or has none.
func (b *baker) copyright(name string) ([]byte, error) {
	const folder = "usr/share/doc/"
	for range 3 { // links to links are not to be
		i := slices.IndexFunc(b.layers, func(l *layer.Layer) bool { return l.Package == name })
		if i < 0 {
			return nil, nil
		}
		link := ""
		for _, e := range b.layers[i].Entries {
			switch {
			case e.Path == folder+name+"/copyright" && e.Type == rootfs.Regular:
				return e.Content.Bytes()
			case e.Type == rootfs.Symlink && e.Path == folder+name:
				link = path.Base(e.Link)
			case e.Type == rootfs.Symlink && e.Path == folder+name+"/copyright":
				link = path.Base(path.Dir(e.Link))
			}
		}
		name = link
	}
	return nil, nil
}

func (b *baker) billComponents() []sbom.Component {
	inImage := append(slices.Concat(b.Plan.Components, b.Plan.Initrd.Components), agent)
	var list []sbom.Component
	for _, name := range b.componentNames() {
		c := b.components[name]
		list = append(list, sbom.Component{
			Name: c.Name, Version: c.Version, Key: c.Key, InImage: slices.Contains(inImage, name), Programs: programs(c),
		})
	}
	return list
}

func programs(c component.Component) []sbom.Program {
	var list []sbom.Program
	for _, f := range c.Files {
		if f.Link != "" {
			continue
		}
		p := sbom.Program{Path: f.Path, SHA256: f.SHA256}
		if info, err := buildinfo.ReadFile(f.Source); err == nil { // else it was not made by Go, and the bill says so
			p.Build = info
		}
		list = append(list, p)
	}
	return list
}

func (b *baker) billContainerImages() []sbom.ContainerImage {
	var list []sbom.ContainerImage
	for n, i := range b.Plan.ContainerImages {
		list = append(list, sbom.ContainerImage{Name: i.Name, Reference: i.Reference, Digest: b.images[n].Digest, Component: i.Component})
	}
	return list
}
