package sbom

import (
	"cmp"
	"runtime/debug"
	"strings"

	"github.com/package-url/packageurl-go"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// Module is a Go module in a program.
type Module struct {
	Path    string `json:"path"`
	Version string `json:"version"`       // v1.2.3; of the standard library Go's own: 1.26.8
	Sum     string `json:"sum,omitempty"` // as in go.sum (h1:...); none for the standard library and for what the project itself brings
	Main    bool   `json:"main,omitempty"`
	Patched bool   `json:"patched,omitempty"` // its component has changed it
}

// stdlib is by what name databases of vulnerabilities have Go's standard library.
const stdlib = "stdlib"

// sumPrefix is what stands before a module's sum in a document.
const sumPrefix = "go.sum: "

// Modules are the modules that were linked into a program: the one with its main package (Main), the others, and the standard
// library. A replaced module is the one that took its place; one that was replaced by a folder of the build is itself, patched. local is the version of a module that has none because the
// program was built in it.
func Modules(info *debug.BuildInfo, local string) []Module {
	var list []Module
	add := func(m *debug.Module) {
		patched := m.Replace != nil && strings.HasPrefix(m.Replace.Path, "./")
		if m.Replace != nil && !patched {
			m = m.Replace
		}
		version := m.Version
		if version == "(devel)" {
			version = ""
		}
		list = append(list, Module{Path: m.Path, Version: cmp.Or(version, local), Sum: m.Sum, Patched: patched})
	}
	if info.Main.Path != "" {
		add(&info.Main)
	}
	for _, m := range info.Deps {
		add(m)
	}
	main := -1
	for i, m := range list {
		if (info.Path == m.Path || strings.HasPrefix(info.Path, m.Path+"/")) && (main < 0 || len(m.Path) > len(list[main].Path)) {
			main = i
		}
	}
	if main >= 0 {
		list[main].Main = true
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ") // what follows are experiments
	return append(list, Module{Path: stdlib, Version: version})
}

func (w *writer) addModules(program common.ElementID, c Component, p Program) {
	for _, m := range Modules(p.Build, c.Version) {
		how := dependsOn
		if m.Main {
			how = generatedFrom
		}
		w.relate(program, how, w.addModule(m, m.Path == p.Build.Main.Path))
	}
}

// addModule adds a module. One that programs are built in has no address: it is not published under its version.
func (w *writer) addModule(m Module, local bool) common.ElementID {
	about := v2_3.Package{PackageName: m.Path, PackageVersion: m.Version, PrimaryPackagePurpose: "LIBRARY"}
	switch {
	case m.Patched:
		about.PackageSourceInfo = "patched before it was compiled: patches in the component's folder"
	case m.Sum != "":
		about.PackageSourceInfo = sumPrefix + m.Sum
	}
	var purl string
	if !local || m.Sum != "" {
		namespace, name := "", m.Path
		if i := strings.LastIndexByte(m.Path, '/'); i >= 0 {
			namespace, name = m.Path[:i], m.Path[i+1:]
		}
		purl = packageurl.NewPackageURL(packageurl.TypeGolang, namespace, name, m.Version, nil, "").ToString()
	}
	return w.add(w.id("GoModule", m.Path+"@"+m.Version), about, purl)
}
