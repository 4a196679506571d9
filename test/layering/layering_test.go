// Package layering holds the rules of who imports whom. It has no code, only a test: an allow-list with a row for each
// package of the module. A package without a row fails, and so does an import that its row doesn't have.
package layering

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/slipway-os/slipway/"

// sources are the imports of each package of the module, without those of tests.
func sources(t *testing.T) map[string]map[string]bool {
	t.Helper()
	root := os.DirFS("../..")
	packages := map[string]map[string]bool{}
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			// Components are modules of their own, and so is test/cosign; hidden folders and results are no packages.
			if name == "images/components" || name == "test/cosign" || name == "out" || name == "bin" || entry.Name() == "testdata" || strings.HasPrefix(entry.Name(), ".") && name != "." {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		return addImports(packages, root, name)
	})
	if err != nil {
		t.Fatal(err)
	}
	return packages
}

func addImports(packages map[string]map[string]bool, root fs.FS, name string) error {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return err
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly)
	if err != nil {
		return err
	}
	dir := path.Dir(name)
	if packages[dir] == nil {
		packages[dir] = map[string]bool{}
	}
	for _, i := range file.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return err
		}
		packages[dir][p] = true
	}
	return nil
}

// standard tells whether an import is of the standard library.
func standard(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return !strings.Contains(first, ".")
}

func TestEveryImportIsAllowed(t *testing.T) {
	packages := sources(t)
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		row, ok := allowed[name]
		if !ok {
			t.Errorf("package %s has no row in the allow-list: add one, and a sentence to docs/architecture.md", name)
			continue
		}
		for _, i := range slices.Sorted(maps.Keys(packages[name])) {
			if !standard(i) && !permitted(i, row) {
				t.Errorf("%s imports %s, which its row does not allow", name, strings.TrimPrefix(i, module))
			}
		}
	}
	for name := range allowed {
		if packages[name] == nil {
			t.Errorf("the allow-list has a row for %s, which is no package", name)
		}
	}
}

func TestArchitecturePageKnowsEveryPackage(t *testing.T) {
	page, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range sources(t) {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/architecture.md has no row for %s", name)
		}
	}
}

// permitted: packages of this module exactly, others by module.
func permitted(importPath string, row []string) bool {
	if own, ok := strings.CutPrefix(importPath, module); ok {
		return slices.Contains(row, own)
	}
	return slices.ContainsFunc(row, func(r string) bool { return importPath == r || strings.HasPrefix(importPath, r+"/") })
}

// reaches are all packages of the module that a package imports, however indirectly.
func reaches(packages map[string]map[string]bool, from string, seen map[string]bool) map[string]bool {
	for i := range packages[from] {
		if own, ok := strings.CutPrefix(i, module); ok && !seen[own] {
			seen[own] = true
			reaches(packages, own, seen)
		}
	}
	return seen
}

func TestBuilderAndAgentAreApart(t *testing.T) {
	packages := sources(t)
	for name := range packages {
		for other := range reaches(packages, name, map[string]bool{}) {
			switch {
			case strings.HasPrefix(name, "builder/") && strings.HasPrefix(other, "agent/"),
				strings.HasPrefix(name, "agent/") && strings.HasPrefix(other, "builder/"),
				strings.HasPrefix(name, "agent/") && strings.HasPrefix(other, "profiles/"),
				strings.HasPrefix(name, "images/") && !strings.HasPrefix(other, "images/"),
				strings.HasPrefix(name, "profiles/") && !strings.HasPrefix(other, "profiles/") && !strings.HasPrefix(other, "images/"):
				t.Errorf("%s reaches %s", name, other)
			}
		}
	}
}

func TestImagesKnowNoCluster(t *testing.T) {
	packages := sources(t)
	for _, name := range []string{"builder/plan", "builder/bake", "profiles/role"} {
		reached := reaches(packages, name, map[string]bool{})
		for _, not := range []string{"profiles/cluster", "builder/pki", "builder/nodeconfig"} {
			if reached[not] {
				t.Errorf("%s reaches %s: an image must not depend on a cluster", name, not)
			}
		}
	}
}

// runners are the packages that may start processes, and what they are there for.
var runners = map[string]string{
	"builder/bake":               "zstd of the locked packages",
	"builder/checkout":           "git",
	"builder/component":          "go",
	"builder/internal/fixture":   "docker-registry, for tests",
	"builder/squashfs":           "mksquashfs",
	"builder/toolset":            "programs of locked packages",
	"builder/unxz":               "xz, where there is one",
	"builder/nodes":              "etcd of an image, for a drill",
	"builder/power":              "ipmitool",
	"builder/rack":               "QEMU, the boot server, kubectl",
	"agent/backup":               "slipway-etcd",
	"agent/manage":               "journalctl, slipway-etcd",
	"agent/provision":            "ignition",
	"agent/storage":              "mkfs, e2fsck",
	"agent/units":                "journalctl",
	"test/figures":               "slipway",
	"builder/kv/etcdkv/etcdtest": "etcd of an image, for tests",
	"test/thousand":              "slipway, ip and nft",
	"images/bootspec/tpmtest":    "swtpm, for tests",
}

func TestOnlyFewPackagesStartProcesses(t *testing.T) {
	for name, imports := range sources(t) {
		if imports["os/exec"] && runners[name] == "" {
			t.Errorf("%s starts processes, and isn't among those that may", name)
		}
	}
}

func TestBuilderAsksNoClock(t *testing.T) {
	// These talk to the world as it is now; nothing of theirs reaches an artifact.
	live := []string{"builder/depot", "builder/rack", "builder/slipway", "builder/netboot", "builder/tftp", "builder/archive", "builder/component",
		"builder/kv/etcdkv/etcdtest", "builder/kv/kvtest"}
	err := filepath.WalkDir("../../builder", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		dir := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(name)), "../../")
		text, err := os.ReadFile(name)
		for _, word := range []string{"time.Now(", `"math/rand"`, `"math/rand/v2"`} {
			if strings.Contains(string(text), word) && !slices.Contains(live, dir) {
				t.Errorf("%s has %s: clock and entropy are arguments in what makes artifacts", strings.TrimPrefix(name, "../../"), word)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
