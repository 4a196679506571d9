package plan

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func samplePlan() *Plan {
	pkg := func(name, version string) Package {
		return Package{Name: name, Version: version, Arch: "amd64", Path: "debian/pool/main/" + name + ".deb", Size: 10, SHA256: strings.Repeat("ab", 32)}
	}
	return &Plan{
		APIVersion: APIVersion, Kind: "Plan", Role: "worker", Version: "0.1.0", Arch: "amd64", Epoch: 1700000000,
		Packages: []Package{pkg("base-files", "13"), pkg("udev", "257-1")}, Kernel: pkg("linux-image", "6.12"),
		KernelArguments: []string{"quiet"}, Modules: []string{"overlay"}, Initrd: Initrd{Modules: []string{"loop"}},
		Tools: map[string][]Package{"amd64": {pkg("squashfs-tools", "4.6")}},
	}
}

func TestDifferencesNameTheField(t *testing.T) {
	for want, change := range map[string]func(*Plan){
		"version: 0.1.0 -> 0.2.0":                                         func(p *Plan) { p.Version = "0.2.0" },
		"epoch: 1700000000 -> 5":                                          func(p *Plan) { p.Epoch = 5 },
		"packages: udev 257-1 -> 258-1":                                   func(p *Plan) { p.Packages[1].Version = "258-1" },
		"packages: +nano 8 | packages: -udev 257-1":                       func(p *Plan) { p.Packages[1].Name, p.Packages[1].Version = "nano", "8" },
		"packages: another order":                                         func(p *Plan) { slices.Reverse(p.Packages) },
		"kernel: linux-image 6.12 is another file (SHA-256 abababababab":  func(p *Plan) { p.Kernel.SHA256 = strings.Repeat("0", 64) },
		"tools.amd64: squashfs-tools 4.6 -> 4.7":                          func(p *Plan) { p.Tools["amd64"][0].Version = "4.7" },
		"kernelArguments: +audit=0":                                       func(p *Plan) { p.KernelArguments = append(p.KernelArguments, "audit=0") },
		`initrd: {"modules":["loop"],"components":null} -> {"modules":[]`: func(p *Plan) { p.Initrd.Modules = []string{} },
		"compression: ":                                                   func(p *Plan) { p.Compression.Level = 7 },
		"":                                                                func(p *Plan) { p.Exclude = []string{} },
	} {
		now := samplePlan()
		change(now)
		if got := strings.Join(Differences(samplePlan(), now), " | "); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestDecodePlan(t *testing.T) {
	text := samplePlan().JSON()
	p, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.JSON(), text) {
		t.Error("not the same after reading it")
	}
	for name, bad := range map[string]string{
		"nothing": "", "two": string(text) + string(text), "unknown field": strings.Replace(string(text), `"role"`, `"rolle"`, 1),
		"another kind": strings.Replace(string(text), `"Plan"`, `"Lock"`, 1), "no digest": strings.Replace(string(text), strings.Repeat("ab", 32), "ab", 1),
		"a digest that leads out": strings.Replace(string(text), `"containerImages": null`, `"containerImages": [{"name": "x", "reference": "x:1", "digest": "sha256:../../x"}]`, 1),
		"another architecture":    strings.Replace(string(text), `"arch": "amd64"`, `"arch": "arm64"`, 1),
		"a path that leads out":   strings.Replace(string(text), "debian/pool", "../../pool", 1),
	} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// TestRestore: what a plan's JSON doesn't have comes from the definition, and from no other than the plan was made from.
func TestRestore(t *testing.T) {
	def, err := LoadDefinition(folder(map[string]string{"d.yaml": head + `include: [base.yaml]
files: [{path: /etc/x, content: a}, {path: /etc/y, link: x}]
containerImages:
  - {name: tool, reference: "r.example/tool:1", source: "r.example/tool@sha256:` + strings.Repeat("ab", 32) + `"}
`}), "d.yaml", "")
	if err != nil {
		t.Fatal(err)
	}
	made := samplePlan()
	made.Files = def.files
	if made.ContainerImages, err = def.images([]string{"pause", "tool"}, &ArchLock{Images: map[string]LockedImage{"tool": {"sha256:" + strings.Repeat("cd", 32), 9}}}); err != nil {
		t.Fatal(err)
	}
	read := func() *Plan {
		p, err := Decode(made.JSON())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := read()
	if err := def.Restore(p); err != nil || string(p.Files[0].Content) != "a" || len(p.Foreign()) != 1 || p.Foreign()[0].Source != def.ContainerImages[1].Source {
		t.Errorf("%v: %+v %+v", err, p.Files, p.ContainerImages)
	}
	if !bytes.Equal(p.JSON(), made.JSON()) {
		t.Error("it is another plan now")
	}
	other, err := LoadDefinition(folder(map[string]string{"d.yaml": head + "include: [base.yaml]\nfiles: [{path: /etc/x, content: b}]\n"}), "d.yaml", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Restore(read()); err == nil || !strings.Contains(err.Error(), "has no file /etc/x with SHA-256 ") {
		t.Errorf("%v", err)
	}
	made.Files = nil
	if err := other.Restore(read()); err == nil || err.Error() != "the definition has no container image tool that comes as it is" {
		t.Errorf("%v", err)
	}
}

func FuzzDecodePlan(f *testing.F) {
	f.Add(samplePlan().JSON())
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Decode(data)
		if err != nil {
			return
		}
		again, err := Decode(p.JSON())
		if err != nil || len(Differences(p, again)) > 0 {
			t.Fatalf("what JSON wrote is not read back: %v", err)
		}
	})
}
