package sbom

import (
	"bytes"
	"encoding/json"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/github/go-spdx/v2/spdxexp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

const systemdCopyright = `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: systemd

Files: *
Copyright: many
License: LGPL-2.1+

Files: src/basic/siphash24.c
Copyright: one
License: CC0-1.0

Files: src/odd.c
Copyright: two
License: odd or Expat
 You may do
 .
 odd things.

License: LGPL-2.1+
 On Debian systems see /usr/share/common-licenses/LGPL-2.1.
`

// agentBuild is what a program says that was built in one module, of another's package, with a module that took another's place.
const agentBuild = "path\tgithub.com/opencontainers/runc\nmod\tslipway.local/runc\t(devel)\t\n" +
	"dep\tgithub.com/opencontainers/runc\tv1.4.3\th1:KVoXO9bZhzVTWPkzHUvMcIUfcyFrmx0V+lB9SJcsjIQ=\n" +
	"dep\tgolang.org/x/net\tv0.1.0\n=>\tgolang.org/x/net\tv0.2.0\th1:KVoXO9bZhzVTWPkzHUvMcIUfcyFrmx0V+lB9SJcsjIQ=\n"

func image(t *testing.T) Image {
	t.Helper()
	self, err := debug.ParseBuildInfo(agentBuild)
	if err != nil {
		t.Fatal(err)
	}
	self.GoVersion = "go1.26.8 X:nodwarf5"
	digest := strings.Repeat("ab", 32)
	return Image{
		Name: "slipway-worker-0.1.0-amd64", Version: "0.1.0", Root: digest, Created: 1700000000,
		Distribution: Distribution{ID: "debian", Version: "13", Name: "Debian GNU/Linux"},
		Packages: []Package{
			{Name: "udev", Version: "257.13-1~deb13u1", Arch: "amd64", SHA256: digest, Source: "systemd", Path: "debian/pool/main/s/systemd/udev.deb",
				Maintainer: "Debian systemd Maintainers <systemd@example.org>", Homepage: "https://systemd.io",
				PreDepends: "libc6 (>= 2.34)", Depends: "libudev1 (= 257.13-1~deb13u1) | absent", Copyright: []byte(systemdCopyright)},
			{Name: "libc6", Version: "2.41-12", Arch: "amd64", SHA256: digest, Source: "glibc", Maintainer: "A Person <a@example.org>", Copyright: []byte("free text")},
			{Name: "libudev1t64", Version: "1:257+x", Arch: "amd64", SHA256: digest, Source: "systemd (257.13-1)", Provides: "libudev1 (= 257.13-1~deb13u1)", Depends: "missing"},
		},
		Components: []Component{
			{Name: "agent", Version: "v1", Key: digest, InImage: true, Programs: []Program{{Path: "/usr/bin/agent", SHA256: digest, Build: self}}},
			{Name: "pause", Version: "v2", Key: digest, Programs: []Program{{Path: "/pause", SHA256: digest}}},
		},
		ContainerImages: []ContainerImage{{Name: "pause", Reference: "slipway.local/pause:0.1.0", Digest: "sha256:" + digest, Component: "pause"}},
	}
}

func encoded(t *testing.T, i Image) []byte {
	t.Helper()
	text, err := i.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestSchema: the document is what the schema of the SPDX project says (spdx-spec, version 2.3, CC BY 3.0).
func TestSchema(t *testing.T) {
	f, err := os.Open("testdata/spdx-schema.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := jsonschema.UnmarshalJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("spdx.json", text); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("spdx.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(encoded(t, image(t)), &doc); err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(doc); err != nil {
		t.Error(err)
	}
	doc["packages"].([]any)[0].(map[string]any)["primaryPackagePurpose"] = "NONSENSE"
	if schema.Validate(doc) == nil {
		t.Error("the schema takes anything: this test checks nothing")
	}
}

func read(t *testing.T, text []byte) *v2_3.Document {
	t.Helper()
	doc := &v2_3.Document{}
	if err := spdxjson.ReadInto(bytes.NewReader(text), doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// TestRelationships in words a person would use, by names: whoever looks for what a thing is in or made of finds it.
func TestRelationships(t *testing.T) {
	doc := read(t, encoded(t, image(t)))
	names := map[string]string{"DOCUMENT": "the document"}
	for _, p := range doc.Packages {
		names[string(p.PackageSPDXIdentifier)] = p.PackageName
	}
	have := map[string]bool{}
	for _, r := range doc.Relationships {
		a, b := names[string(r.RefA.ElementRefID)], names[string(r.RefB.ElementRefID)]
		if a == "" || b == "" {
			t.Errorf("%v %s %v leads nowhere", r.RefA, r.Relationship, r.RefB)
		}
		have[a+" "+r.Relationship+" "+b] = true
	}
	for _, want := range []string{
		"the document DESCRIBES slipway-worker-0.1.0-amd64",
		"slipway-worker-0.1.0-amd64 CONTAINS udev", "slipway-worker-0.1.0-amd64 CONTAINS agent", "slipway-worker-0.1.0-amd64 CONTAINS slipway.local/pause",
		"slipway.local/pause CONTAINS pause", "udev GENERATED_FROM systemd", "udev DEPENDS_ON libc6", "udev DEPENDS_ON libudev1t64",
		"agent CONTAINS agent", "agent GENERATED_FROM github.com/opencontainers/runc", "agent DEPENDS_ON stdlib", "agent DEPENDS_ON golang.org/x/net", "agent DEPENDS_ON slipway.local/runc",
	} {
		if !have[want] {
			t.Errorf("it does not say: %s", want)
		}
	}
	if have["slipway-worker-0.1.0-amd64 CONTAINS pause"] {
		t.Error("a component that is only in a container image is said to be in the root image")
	}
}

func TestPackages(t *testing.T) {
	doc := read(t, encoded(t, image(t)))
	got := map[string]string{}
	for _, p := range doc.Packages {
		for _, r := range p.PackageExternalReferences {
			got[r.Locator] = p.PackageLicenseDeclared
		}
		if p.PackageLicenseDeclared != unknown {
			if ok, bad := spdxexp.ValidateLicenses([]string{p.PackageLicenseDeclared}); !ok {
				t.Errorf("%s: %v is no SPDX expression", p.PackageName, bad)
			}
		}
	}
	reference := ""
	for _, l := range doc.OtherLicenses {
		reference = l.LicenseIdentifier
		if l.LicenseName != "odd" || l.ExtractedText != "The copyright file names this licence and gives no text of it: odd" {
			t.Errorf("%+v", l)
		}
	}
	for purl, license := range map[string]string{
		"pkg:deb/debian/udev@257.13-1~deb13u1?arch=amd64&distro=debian-13":                                     "CC0-1.0 AND LGPL-2.1-or-later AND (" + reference + " OR MIT)",
		"pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13":                                             unknown,
		"pkg:deb/debian/libudev1t64@1:257%2Bx?arch=amd64&distro=debian-13":                                     unknown,
		"pkg:deb/debian/systemd@257.13-1?arch=source&distro=debian-13":                                         unknown,
		"pkg:deb/debian/systemd@257.13-1~deb13u1?arch=source&distro=debian-13":                                 unknown,
		"pkg:golang/stdlib@1.26.8":                                                                             unknown,
		"pkg:golang/golang.org/x/net@v0.2.0":                                                                   unknown,
		"pkg:golang/github.com/opencontainers/runc@v1.4.3":                                                     unknown,
		"pkg:oci/pause@sha256:" + strings.Repeat("ab", 32) + "?repository_url=slipway.local%2Fpause&tag=0.1.0": unknown,
	} {
		if have, ok := got[purl]; !ok || have != license {
			t.Errorf("%s: licence %q, there: %v; want %q", purl, have, ok, license)
		}
	}
}

func TestEqualImagesHaveEqualDocuments(t *testing.T) {
	first := image(t)
	second := image(t)
	slices.Reverse(second.Packages)
	slices.Reverse(second.Components)
	a, b := encoded(t, first), encoded(t, second)
	if !bytes.Equal(a, b) {
		t.Error("the order of the parts shows in the document")
	}
	second.Packages[0].Version = "other"
	if read(t, a).DocumentNamespace == read(t, encoded(t, second)).DocumentNamespace {
		t.Error("two documents have one namespace")
	}
}

// TestIdentifiers: what differs only in letters that identifiers can't have stays apart.
func TestIdentifiers(t *testing.T) {
	i := image(t)
	i.Packages = append(i.Packages, Package{Name: "lib+x", Version: "1", Arch: "amd64"}, Package{Name: "lib-x", Version: "2", Arch: "amd64"})
	found := 0
	for _, p := range read(t, encoded(t, i)).Packages {
		if p.PackageName == "lib+x" && p.PackageVersion == "1" && p.PrimaryPackagePurpose == "" || p.PackageName == "lib-x" && p.PackageVersion == "2" && p.PrimaryPackagePurpose == "" {
			found++
		}
	}
	if found != 2 {
		t.Errorf("%d of two packages with similar names are there", found)
	}
}

// TestPatchedModules: a module that was patched for a build is told by its own name and version, and that it was patched.
func TestPatchedModules(t *testing.T) {
	info := &debug.BuildInfo{GoVersion: "go1.26.8", Path: "example.com/x/cmd", Main: debug.Module{Path: "example.com/x", Version: "v1.2.3", Replace: &debug.Module{Path: "./patched/0", Version: "(devel)"}},
		Deps: []*debug.Module{{Path: "example.com/y", Version: "v0.1.0", Sum: "h1:y", Replace: &debug.Module{Path: "example.com/z", Version: "v0.2.0", Sum: "h1:z"}}}}
	want := []Module{
		{Path: "example.com/x", Version: "v1.2.3", Main: true, Patched: true},
		{Path: "example.com/z", Version: "v0.2.0", Sum: "h1:z"},
		{Path: "stdlib", Version: "1.26.8"},
	}
	if got := Modules(info, "v9"); !slices.Equal(got, want) {
		t.Errorf("modules are %+v", got)
	}
}
