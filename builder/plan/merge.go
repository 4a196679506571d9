package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/document"
)

// merger makes one definition of its documents. The later one wins: single values override, lists add, `remove` takes away.
type merger struct {
	def    *Definition
	root   *part // the last one: the definition itself
	faults document.Faults
}

// place is where a value stands.
type place struct {
	source *document.Source
	path   string
}

func (m *merger) fault(at place, hint, format string, args ...any) {
	m.faults = append(m.faults, at.source.Fault(at.path, fmt.Sprintf(format, args...), hint))
}

func (m *merger) add(p *part) {
	m.root = p
	m.remove(p)
	d := &p.document
	for _, f := range []struct {
		field string
		set   func()
	}{
		{"version", func() { m.def.Version = d.Version }},
		{"mirror", func() { m.def.Mirror = d.Mirror }},
		{"snapshot", func() { m.def.Snapshot = d.Snapshot }},
		{"kernel", func() { m.def.Kernel = d.Kernel }},
		{"compression.algorithm", func() { m.def.Compression.Algorithm = d.Compression.Algorithm }},
		{"compression.level", func() { m.def.Compression.Level = d.Compression.Level }},
		{"compression.blockSize", func() { m.def.Compression.BlockSize = d.Compression.BlockSize }},
		{"compression.releaseLevel", func() { m.def.Compression.ReleaseLevel = d.Compression.ReleaseLevel }},
	} {
		if p.source.Has(f.field) {
			f.set()
			m.def.places[f.field] = place{p.source, f.field}
		}
	}
	m.addLists(p)
	put(m, p, "archives", &m.def.Archives, d.Archives, archiveKey)
	put(m, p, "containerImages", &m.def.ContainerImages, d.ContainerImages, imageKey)
	put(m, p, "files", &m.def.Files, d.Files, fileKey)
	put(m, p, "absent", &m.def.Absent, p.absences(), absenceKey)
	m.putFirmware(p)
}

// addLists adds a document's lists of texts.
func (m *merger) addLists(p *part) {
	ours, all := stringLists(&p.document), stringLists(m.def)
	for i, list := range ours {
		for j, value := range *list.values {
			m.addText(all[i], value, place{p.source, document.Index(list.name, j)})
		}
	}
}

// addText puts a text at the end of a list, and nowhere else: the later one counts where order does.
func (m *merger) addText(list stringList, value string, at place) {
	*list.values = append(without(*list.values, value), value)
	m.def.places[document.Key(list.name, value)] = at
}

// absences are a document's, with where they are declared.
func (p *part) absences() []Absence {
	list := slices.Clone(p.document.Absent)
	for i := range list {
		list[i].By = p.name + ", " + document.Index("absent", i)
	}
	return list
}

// putFirmware adds entries; a module that is in one already is the later one's.
func (m *merger) putFirmware(p *part) {
	for i, f := range p.document.Firmware {
		at := document.Index("firmware", i)
		for j, module := range f.Modules {
			m.dropModule(module)
			m.def.places[document.Key("firmware", module)] = place{p.source, document.Index(at+".modules", j)}
		}
		m.def.Firmware = append(m.def.Firmware, Firmware{Modules: slices.Clone(f.Modules), Reason: f.Reason, By: p.name + ", " + at})
	}
}

// dropModule takes a module out of the entry that has it, and the entry too when it was the last one.
func (m *merger) dropModule(module string) (there bool) {
	for i := range m.def.Firmware {
		f := &m.def.Firmware[i]
		before := len(f.Modules)
		f.Modules = without(f.Modules, module)
		there = there || len(f.Modules) < before
	}
	m.def.Firmware = slices.DeleteFunc(m.def.Firmware, func(f Firmware) bool { return len(f.Modules) == 0 })
	return there
}

func archiveKey(a Archive) string      { return a.Name + " " + a.Suite }
func imageKey(i ContainerImage) string { return i.Name }
func fileKey(f FileSource) string      { return f.Path }
func absenceKey(a Absence) string      { return a.From }

// put adds elements that have a key: one whose key is there already takes that one's place.
func put[T any](m *merger, p *part, list string, all *[]T, ours []T, key func(T) string) {
	for i, element := range ours {
		k := key(element)
		if at := slices.IndexFunc(*all, func(t T) bool { return key(t) == k }); at >= 0 {
			(*all)[at] = element
		} else {
			*all = append(*all, element)
		}
		m.def.places[document.Key(list, k)] = place{p.source, document.Index(list, i)}
	}
}

// stringList is a list of texts of a definition.
type stringList struct {
	name   string
	values *[]string
}

// stringLists are all of them, in one order.
func stringLists(d *Definition) []stringList {
	return []stringList{
		{"packages", &d.Packages}, {"omit", &d.Omit}, {"tools", &d.Tools}, {"kernelArguments", &d.KernelArguments},
		{"initrd.modules", &d.Initrd.Modules}, {"initrd.components", &d.Initrd.Components},
		{"pruneModules", &d.PruneModules}, {"exclude", &d.Exclude}, {"firmwareFiles", &d.FirmwareFiles},
	}
}

func without(list []string, value string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return s == value })
}

// remove takes away what the document doesn't want of those before it.
func (m *merger) remove(p *part) {
	r := p.document.Remove
	m.removeLists(p)
	drop(m, p, "archives", &m.def.Archives, r.Archives, archiveKey)
	drop(m, p, "containerImages", &m.def.ContainerImages, r.ContainerImages, imageKey)
	drop(m, p, "files", &m.def.Files, r.Files, fileKey)
	drop(m, p, "absent", &m.def.Absent, r.Absent, absenceKey)
	for i, module := range r.Firmware {
		m.removed(p, "firmware", i, module, m.dropModule(module))
	}
}

// removeLists is remove of the lists of texts.
func (m *merger) removeLists(p *part) {
	r := p.document.Remove
	d := Definition{Packages: r.Packages, Omit: r.Omit, Tools: r.Tools, KernelArguments: r.KernelArguments, Initrd: r.Initrd,
		PruneModules: r.PruneModules, Exclude: r.Exclude, FirmwareFiles: r.FirmwareFiles}
	all := stringLists(m.def)
	for i, list := range stringLists(&d) {
		for j, value := range *list.values {
			m.removed(p, list.name, j, value, takeOut(all[i].values, value))
		}
	}
}

// takeOut takes a text out of a list, and tells whether it was there.
func takeOut(list *[]string, value string) bool {
	before := len(*list)
	*list = without(*list, value)
	return len(*list) < before
}

func drop[T any](m *merger, p *part, list string, all *[]T, keys []string, key func(T) string) {
	for i, k := range keys {
		before := len(*all)
		*all = slices.DeleteFunc(*all, func(t T) bool { return key(t) == k })
		m.removed(p, list, i, k, before > len(*all))
	}
}

func (m *merger) removed(p *part, list string, i int, value string, there bool) {
	if !there {
		m.fault(place{p.source, document.Index("remove."+list, i)}, "what is removed is what an included definition has", "no included definition has %q in its %s", value, list)
	}
}

// at is where a value of the whole stands, or where it would in the definition itself.
func (m *merger) at(key string) place {
	if at, ok := m.def.places[key]; ok {
		return at
	}
	return place{m.root.source, key}
}

// finish checks what can only be said of the whole, and reads files.
func (m *merger) finish(l *loader) document.Faults {
	if l.broken || m.root == nil {
		return m.faults
	}
	d := m.def
	m.checkVersion()
	if len(d.Archives) == 0 {
		m.fault(m.at("archives"), "name at least one suite", "there are no archives")
	}
	for _, name := range d.Packages {
		if slices.Contains(d.Omit, name) {
			m.fault(m.at(document.Key("packages", name)), "take it out of one of them", "%s is in omit too", name)
		}
	}
	m.checkKernel()
	m.checkCompression()
	m.checkReferences()
	m.readFiles(l)
	m.addVariants(l)
	return m.uncovered(l)
}

// uncovered leaves out what decoding or checking the documents has said of the same value already.
func (m *merger) uncovered(l *loader) document.Faults {
	return slices.DeleteFunc(m.faults, func(f document.Fault) bool {
		return slices.ContainsFunc(l.faults, func(o document.Fault) bool {
			return o.File == f.File && o.Path != "" && (o.Path == f.Path || strings.HasPrefix(f.Path, o.Path+".") || strings.HasPrefix(f.Path, o.Path+"["))
		})
	})
}
