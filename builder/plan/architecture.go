package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/document"
)

// architecture is a document NAME-ARCH.yaml beside a definition NAME.yaml (images/definition-arm64.yaml): what is different
// in the images of one architecture. What it doesn't speak of is as the definition has it, and images of others don't
// change with it.
type architecture struct {
	APIVersion      string   `yaml:"apiVersion"`
	Kind            string   `yaml:"kind"` // ImageArchitecture
	Arch            string   `yaml:"arch"` // Go's name, as in the file's name
	Packages        edit     `yaml:"packages"`
	Omit            edit     `yaml:"omit"`
	Libraries       []string `yaml:"libraries"` // see Definition
	KernelArguments edit     `yaml:"kernelArguments"`
	Initrd          struct {
		Modules edit `yaml:"modules"`
	} `yaml:"initrd"`
	PruneModules edit `yaml:"pruneModules"`
	Exclude      edit `yaml:"exclude"`

	source *document.Source
	digest string // of the document's bytes
}

// edit changes a list: what is dropped must be there, what is added goes behind the rest.
type edit struct {
	Drop []string `yaml:"drop"`
	Add  []string `yaml:"add"`
}

// edits are all of them, by the name of the definition's list.
func (a *architecture) edits() map[string]edit {
	return map[string]edit{
		"packages": a.Packages, "omit": a.Omit, "kernelArguments": a.KernelArguments, "initrd.modules": a.Initrd.Modules,
		"pruneModules": a.PruneModules, "exclude": a.Exclude,
	}
}

const architectureSuffix = ".yaml"

var architectureName = regexp.MustCompile(`^[a-z0-9]+$`)

// loadArchitectures reads the documents of architectures beside a definition's document.
func (l *loader) loadArchitectures(p *part) {
	dir, base := path.Split(p.name)
	entries, err := fs.ReadDir(l.images, path.Clean(dir))
	if err != nil {
		l.fail(document.Fault{File: l.shown(p.name), Message: fmt.Sprintf("cannot look for documents of architectures beside it: %v", reason(err))})
		return
	}
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), strings.TrimSuffix(base, path.Ext(base))+"-")
		arch, yaml := strings.CutSuffix(rest, architectureSuffix)
		if ours && yaml && architectureName.MatchString(arch) {
			l.loadArchitecture(p, dir+e.Name(), arch)
		}
	}
}

func (l *loader) loadArchitecture(p *part, name, arch string) {
	data, err := readSmall(l.images, name, document.MaxSize+1)
	if errors.Is(err, fs.ErrNotExist) {
		return // a link to nothing, as editors leave them
	}
	if err != nil {
		l.fail(document.Fault{File: l.shown(name), Message: fmt.Sprintf("cannot read it: %v", reason(err))})
		return
	}
	a := &architecture{}
	source, err := document.Decode(l.shown(name), data, a)
	if a.Kind == "Image" && !source.Has("arch") {
		return // another definition, which has such a name
	}
	l.names = append(l.names, name)
	c := &checker{source: source}
	c.architecture(a, arch)
	l.faults = append(l.faults, joined(source, err, c.faults)...)
	sum := sha256.Sum256(data)
	a.source, a.digest = source, hex.EncodeToString(sum[:])
	a.Arch = arch // as the file says, where the document says something else
	p.architectures = append(p.architectures, a)
}

// architecture checks what can be seen in the document alone.
func (c *checker) architecture(a *architecture, arch string) {
	if a.APIVersion != APIVersion {
		c.fault("apiVersion", "use "+APIVersion, "unknown version %q", a.APIVersion)
	}
	if a.Kind != "ImageArchitecture" {
		c.fault("kind", "use ImageArchitecture", "unknown kind %q", a.Kind)
	}
	if a.Arch != arch {
		c.fault("arch", "as in the file's name", "%q is not %q", a.Arch, arch)
	}
	c.edit("packages", a.Packages, packageName)
	c.edit("omit", a.Omit, packageName)
	c.each("libraries", a.Libraries, "", packageName)
	c.edit("kernelArguments", a.KernelArguments, kernelArgument)
	c.edit("initrd.modules", a.Initrd.Modules, match(module, "a module's name"))
	c.edit("pruneModules", a.PruneModules, checkPattern)
	c.edit("exclude", a.Exclude, checkPattern)
}

func (c *checker) edit(list string, e edit, check func(string) error) {
	c.each(list+".add", e.Add, "", check)
	c.each(list+".drop", e.Drop, "", func(string) error { return nil })
}

// variant is what a definition has for one architecture.
type variant struct {
	lists   Definition // of those that documents of architectures change
	digests []string   // of those documents, in the order they are read in
}

// addVariants makes the definition's variants, one for each architecture that any of its documents has a document for.
func (m *merger) addVariants(l *loader) {
	arches := map[string]bool{}
	for _, p := range l.parts {
		for _, a := range p.architectures {
			arches[a.Arch] = true
		}
	}
	m.def.variants = map[string]*variant{}
	for _, arch := range slices.Sorted(maps.Keys(arches)) {
		m.def.variants[arch] = m.variant(l, arch)
	}
}

// variant merges the definition's documents again, each followed by the architecture's beside it. So what an included one
// changes for an architecture is there for the next one to change.
func (m *merger) variant(l *loader, arch string) *variant {
	v := &variant{}
	v.lists.places = map[string]place{}
	vm := &merger{def: &v.lists}
	own := map[*document.Source]bool{}
	for _, p := range l.parts {
		vm.removeLists(p)
		vm.faults = nil // the definition's own: what is removed may be one that an architecture has dropped already
		vm.addLists(p)
		for _, a := range p.architectures {
			if a.Arch == arch {
				own[a.source] = true
				m.faults = append(m.faults, vm.edit(p, a)...)
				v.digests = append(v.digests, a.digest)
			}
		}
	}
	for _, name := range v.lists.Packages {
		if !slices.Contains(v.lists.Omit, name) || slices.Contains(m.def.Packages, name) && slices.Contains(m.def.Omit, name) {
			continue
		}
		at := v.lists.places[document.Key("packages", name)]
		if !own[at.source] {
			at = v.lists.places[document.Key("omit", name)]
		}
		m.fault(at, "take it out of one of them", "%s is in packages and in omit", name)
	}
	return v
}

// edit changes the lists as an architecture's document says.
func (m *merger) edit(p *part, a *architecture) document.Faults {
	m.faults = nil
	edits := a.edits()
	for _, list := range stringLists(m.def) {
		e, before := edits[list.name], slices.Clone(*list.values)
		for i, value := range e.Drop {
			if !takeOut(list.values, value) {
				m.fault(place{a.source, document.Index(list.name+".drop", i)}, "", "%q is not in %s", value, path.Base(p.name))
			}
		}
		for i, value := range e.Add {
			at := place{a.source, document.Index(list.name+".add", i)}
			if slices.Contains(before, value) {
				m.fault(at, "", "%q is in %s already", value, path.Base(p.name))
			}
			m.addText(list, value, at)
		}
	}
	for _, name := range a.Libraries {
		m.def.Libraries = append(without(m.def.Libraries, name), name)
	}
	return m.faults
}

// For is the definition for images of an architecture.
func (d *Definition) For(arch string) *Definition {
	v := d.variants[arch]
	if v == nil {
		return d
	}
	changed := *d
	changed.Packages, changed.Omit, changed.Libraries = v.lists.Packages, v.lists.Omit, v.lists.Libraries
	changed.KernelArguments, changed.Initrd.Modules = v.lists.KernelArguments, v.lists.Initrd.Modules
	changed.PruneModules, changed.Exclude = v.lists.PruneModules, v.lists.Exclude
	sum := sha256.Sum256([]byte(d.digest + strings.Join(v.digests, "")))
	changed.digest = hex.EncodeToString(sum[:])
	return &changed
}

// bakesOthers says whether machines of an architecture bake images of others too: those that the definition itself is for. The
// programs of one with a document of its own are in no other architecture's plan, so that locking it changes none.
func (d *Definition) bakesOthers(arch string) bool { return d.variants[arch] == nil }
