package component

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFaultsOfDefinition(t *testing.T) {
	const wrong = `apiVersion: slipway.dev/v9
kind: Komponent
metadata: {name: Upper}
version: "not one"
module: /etc
colour: red
builds:
  - package: -o
    output: usr/bin/a
    links: [/usr/bin/b, /usr/bin/b]
    tags: ["a b"]
hostLibraries: {libx.so: x-dev}
`
	_, err := parse("component.yaml", []byte(wrong))
	wantFault(t, err,
		`component.yaml:1:13: apiVersion: unknown version "slipway.dev/v9"`,
		"component.yaml:2:7: kind", "component.yaml:3:18: metadata.name", "component.yaml:4:10: version",
		"component.yaml:5:9: module", "component.yaml:6:1: colour", "component.yaml:8:14: builds[0].package",
		"component.yaml:9:13: builds[0].output", "component.yaml:10:25: builds[0].links[1]: /usr/bin/b is taken",
		"component.yaml:11:12: builds[0].tags[0]", "hostLibraries")
}

func TestNameIsTheFolders(t *testing.T) {
	fs := hello()
	fs["components/other/component.yaml"] = helloSpec
	images := t.TempDir()
	fs.write(t, images)
	_, err := Load(images)
	wantFault(t, err, "components/other/component.yaml", `"hello"`, `"other"`)
}

func TestNoComponents(t *testing.T) {
	_, err := Load(t.TempDir())
	wantFault(t, err, "no components/NAME/component.yaml")
}

// The definitions that ship are right, and each nested module has what pins it.
func TestShippedComponents(t *testing.T) {
	specs, err := Load(filepath.Join("..", "..", "images"))
	if err != nil {
		t.Fatal(err)
	}
	for name, spec := range specs {
		mod, err := os.ReadFile(filepath.Join(spec.ModuleDir(), "go.mod"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want := "module github.com/slipway-os/slipway/images/components/" + filepath.Base(spec.ModuleDir()) + "\n"; spec.own() && !strings.HasPrefix(string(mod), want) {
			t.Errorf("%s: go.mod doesn't begin with %q", name, want)
		}
	}
	worker, plane := specs["kube-worker"], specs["kube-control-plane"]
	if slices.Contains(worker.Builds[0].Links, "/usr/bin/kube-apiserver") {
		t.Error("a worker has kube-apiserver")
	}
	if !slices.Contains(worker.Builds[0].Links, "/usr/bin/flanneld") || !slices.Contains(plane.Builds[0].Links, "/usr/bin/flanneld") {
		t.Error("a node is without flanneld")
	}
	if worker.Version != plane.Version {
		t.Errorf("workers run %s, control planes %s", worker.Version, plane.Version)
	}
}

// A component of a module that holds more than it needs depends on its own packages only.
func TestModuleAround(t *testing.T) {
	fs := files{
		"images/components/agent/component.yaml": "apiVersion: slipway.dev/v1alpha1\nkind: Component\nmetadata: {name: agent}\n" +
			"version: v1\nmodule: ../../..\nbuilds:\n  - {package: ./agent, output: /usr/bin/agent}\n",
		"go.mod":           "module example.com/product\n\ngo 1.26.0\n",
		"agent/main.go":    "package main\n\nimport \"example.com/product/words\"\n\nfunc main() { println(words.Hello) }\n",
		"words/words.go":   "package words\n\nconst Hello = \"hello\"\n",
		"builder/other.go": "package builder\n",
	}
	root := t.TempDir()
	fs.write(t, root)
	b := &bench{T: t, images: filepath.Join(root, "images"), cache: t.TempDir()}
	first := b.build("agent")
	files{"builder/other.go": "package builder // changed\n"}.write(t, root)
	if again := b.build("agent"); again.Key != first.Key {
		t.Error("a package the agent doesn't import changed its key")
	}
	files{"words/words.go": "package words\n\nconst Hello = \"good day\"\n"}.write(t, root)
	if again := b.build("agent"); again.Key == first.Key {
		t.Error("a package the agent imports changed, but not its key")
	}
}

// Components of one module beside theirs depend on all of it; the module may be patched.
func TestModuleBeside(t *testing.T) {
	spec := func(name string) string {
		return "apiVersion: slipway.dev/v1alpha1\nkind: Component\nmetadata: {name: " + name + "}\nversion: v1\nmodule: ../both\nbuilds:\n  - {package: ./" + name + ", output: /usr/bin/" + name + "}\n"
	}
	main := "package main\n\nimport \"example.com/both/words\"\n\nfunc main() { println(words.Hello) }\n"
	b := newBench(t, files{
		"components/one/component.yaml": spec("one"), "components/two/component.yaml": spec("two"),
		"components/both/go.mod": "module example.com/both\n\ngo 1.26.0\n", "components/both/words/words.go": "package words\n\nconst Hello = \"hello\"\n",
		"components/both/one/main.go": main, "components/both/two/main.go": main,
	})
	one, two := b.build("one"), b.build("two")
	if one.Key == two.Key {
		t.Error("two components have one key")
	}
	files{"components/both/words/words.go": "package words\n\nconst Hello = \"good day\"\n"}.write(t, b.images)
	if b.build("one").Key == one.Key || b.build("two").Key == two.Key {
		t.Error("the module changed, and not a component's key")
	}
}
