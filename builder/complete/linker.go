package complete

import (
	"path"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// linker looks for libraries as glibc's ld.so(8) does: the DT_RPATH of who needs one and of those who loaded it, the DT_RUNPATH
// of who needs one, what ldconfig's cache has where there is one, the folders it was built with.
//
// Folders of glibc-hwcaps don't count: what is only there is not found on every processor.
type linker struct {
	check   *checker
	place   place
	objects map[string]*object // by path
	order   []*object
	triplet string // x86_64-linux-gnu
	folders []string
}

var triplets = map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}

func newLinker(c *checker, p place) *linker {
	l := &linker{check: c, place: p, objects: map[string]*object{}, triplet: triplets[c.Arch]}
	l.folders = append(l.cached(), "/lib/"+l.triplet, "/usr/lib/"+l.triplet, "/lib", "/usr/lib")
	return l
}

// cached are the folders of ld.so.conf, which count only where ldconfig has made a cache of them: ld.so itself never reads
// that file.
func (l *linker) cached() []string {
	if _, ok := l.place.tree.Resolve("etc/ld.so.cache"); !ok {
		return nil
	}
	return l.configured("etc/ld.so.conf", 0)
}

func (l *linker) configured(file string, depth int) []string {
	text, err := l.place.tree.ReadFile(file)
	if err != nil || depth > 8 {
		return nil
	}
	var folders []string
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		switch {
		case len(words) == 2 && words[0] == "include":
			for _, e := range l.place.tree.All() {
				if matches(strings.TrimPrefix(words[1], "/"), e.Path) {
					folders = append(folders, l.configured(e.Path, depth+1)...)
				}
			}
		case len(words) == 1 && strings.HasPrefix(words[0], "/"):
			folders = append(folders, words[0])
		}
	}
	return folders
}

func (l *linker) note(kind Kind, e *rootfs.Entry, how, to string, v verdict) {
	l.check.note(Reference{Kind: kind, Where: l.place.name, From: e.Path, Origin: e.Origin, How: how, To: to}, v)
}

// link does what ld.so would for every program, and then for what no program loads by itself: plugins and the like.
func (l *linker) link() {
	loaded := map[string]bool{}
	for _, o := range l.order {
		if o.interpreter != "" {
			l.interpret(o)
			l.load(o, loaded)
		}
	}
	for _, o := range l.order {
		if !loaded[o.entry.Path] {
			l.load(o, loaded)
		}
	}
}

func (l *linker) interpret(o *object) {
	v := program(l.place.tree, o.interpreter, nil)
	if e, ok := l.place.tree.Resolve(o.interpreter); v.ok() && (!ok || l.objects[e.Path] == nil) {
		v = verdict{"is no ELF file for the image's processors", advice}
	}
	l.note(Interpreter, o.entry, "is started by", o.interpreter, v)
}

// mapped is an object in a process, with who loaded it.
type mapped struct {
	*object
	loader *mapped
}

// load loads an object's libraries breadth first, as ld.so does: one name is looked for once in a process.
func (l *linker) load(start *object, loaded map[string]bool) {
	queue := []*mapped{{start, nil}}
	have := map[string]*object{start.soname: start}
	for len(queue) > 0 {
		m := queue[0]
		queue = queue[1:]
		loaded[m.entry.Path] = true
		for _, name := range slices.Concat(m.needed, m.dlopens) {
			found := have[name]
			if found == nil {
				if found = l.find(name, m); found == nil {
					l.note(Library, m.entry, "is linked to", name, l.lost(name))
					continue
				}
				if !slices.ContainsFunc(queue, func(q *mapped) bool { return q.object == found }) {
					queue = append(queue, &mapped{found, m})
				}
				have[name] = found
				if found.soname != "" {
					have[found.soname] = found
				}
			}
			l.note(Library, m.entry, "is linked to", name, verdict{})
			l.versions(m.object, name, found)
		}
	}
}

// versions compares the versions that a library has with those that are wanted of it, where it has any.
func (l *linker) versions(o *object, name string, library *object) {
	for _, want := range o.wants {
		if want.Name != name || len(library.versions) == 0 {
			continue
		}
		for _, n := range want.Needs {
			const weak = 2 // VER_FLG_WEAK
			if !library.versions[n.Dep] && uint16(n.Flags)&weak == 0 {
				l.note(Library, o.entry, "is linked to", name+" with "+n.Dep, verdict{
					"/" + library.entry.Path + " (" + library.entry.Origin + ") has not", "take both from the same archive, or build the program against the older library"})
			}
		}
	}
}

// find is the library that ld.so takes, nil when there is none.
func (l *linker) find(name string, m *mapped) *object {
	if strings.Contains(name, "/") {
		return l.at(name)
	}
	var folders []string
	if len(m.runpath) == 0 {
		for by := m; by != nil; by = by.loader {
			folders = append(folders, l.expand(by.rpath, by.object)...)
		}
	}
	folders = slices.Concat(folders, l.expand(m.runpath, m.object), l.folders)
	for _, f := range folders {
		if o := l.at(path.Join(f, name)); o != nil {
			return o
		}
	}
	return nil
}

func (l *linker) at(name string) *object {
	e, ok := l.place.tree.Resolve(strings.TrimPrefix(name, "/"))
	if !ok {
		return nil
	}
	return l.objects[e.Path]
}

// expand replaces ld.so's tokens (dynamic string tokens, ld.so(8)); $PLATFORM is the processor.
func (l *linker) expand(folders []string, o *object) []string {
	processor, _, _ := strings.Cut(l.triplet, "-")
	tokens := strings.NewReplacer("$ORIGIN", o.folder(), "${ORIGIN}", o.folder(), "$LIB", "lib/"+l.triplet, "${LIB}", "lib/"+l.triplet,
		"$PLATFORM", processor, "${PLATFORM}", processor)
	out := make([]string, len(folders))
	for i, f := range folders {
		out[i] = tokens.Replace(f)
	}
	return out
}

// lost is the verdict on a library that ld.so doesn't find. It may be somewhere.
func (l *linker) lost(name string) verdict {
	for _, e := range l.place.tree.All() {
		if path.Base(e.Path) != name || e.Type == rootfs.Directory {
			continue
		}
		file, ok := l.place.tree.Resolve(e.Path)
		switch {
		case !ok:
			return verdict{"is only a link that leads nowhere: /" + e.Path + " -> " + e.Link, advice}
		case l.objects[file.Path] == nil:
			return verdict{"is in the image as /" + e.Path + ", but is no library for its processors", advice}
		}
		return verdict{"is in the image as /" + e.Path + ", where ld.so doesn't look (" + strings.Join(l.folders, ", ") + ")",
			"put it into /usr/lib, or link the program with an rpath; ld.so.conf counts only where the image has ld.so.cache"}
	}
	return missing("add the package that has the library; a definition that omits it (omit) must exclude what needs it")
}
