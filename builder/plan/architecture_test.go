package plan

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/archive"
)

const armDefinition = `apiVersion: slipway.dev/v1alpha1
kind: ImageArchitecture
arch: arm64
packages: {drop: [base], add: [extra]}
libraries: [libc6-dev]
kernelArguments: {drop: [quiet], add: [console=ttyAMA0]}
initrd: {modules: {add: [sha2-ce]}}
pruneModules: {add: ["!sound/core"]}
`

const armArchive = `
	extra 2.0
	packer 4.6 depends libpack
	libpack 1.0 depends debconf
	libc6 2.41
	libc6-dev 2.41 depends libc6
	linux-image-arm64 6.2`

// TestArchitectureOfItsOwn: an architecture's document changes lists for its images, and nothing for those of others: neither
// its being there nor its lock changes their lock and plan.
func TestArchitectureOfItsOwn(t *testing.T) {
	s := newSite(t)
	def, o := s.open(worker)
	lock, err := Resolve(context.Background(), def, o)
	if err != nil {
		t.Fatal(err)
	}
	before, err := Make(def, lock, worker, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	s.write("images/definition-arm64.yaml", armDefinition)
	s.publishFor("arm64", armArchive)
	def, o = s.open(worker)
	o.Arches = []string{"arm64"}
	fresh, err := Resolve(context.Background(), def, o)
	if err != nil {
		t.Fatal(err)
	}
	lock = Merge(lock, fresh)
	after, err := Make(def, lock, worker, "amd64")
	if err != nil || string(after.JSON()) != string(before.JSON()) {
		t.Errorf("%v; the plan for amd64 was\n%s\nand is\n%s", err, before.JSON(), after.JSON())
	}
	p, err := Make(def, lock, worker, "arm64")
	if err != nil {
		t.Fatal(err)
	}
	if names(p) != "extra" || p.Kernel.Name != "linux-image-arm64" || p.Definition == before.Definition {
		t.Errorf("packages %q, kernel %s, definition %s", names(p), p.Kernel.Name, p.Definition)
	}
	for _, list := range [][2][]string{
		{p.KernelArguments, {"console=ttyAMA0"}}, {p.Initrd.Modules, {"loop", "sha2-ce"}}, {p.PruneModules, {"sound", "!sound/core"}},
		{namesOf(p.Libraries), {"libc6", "libc6-dev"}}, {namesOf(p.Tools["amd64"]), {"libpack", "packer"}}, {namesOf(p.Tools["arm64"]), {"libpack", "packer"}},
	} {
		if !slices.Equal(list[0], list[1]) {
			t.Errorf("%q, want %q", list[0], list[1])
		}
	}
}

func namesOf(packages []Package) []string {
	var list []string
	for _, p := range packages {
		list = append(list, p.Name)
	}
	return list
}

func TestLockForAnArchitectureIsStaleAfterItsDocumentChanged(t *testing.T) {
	s := newSite(t)
	s.write("images/definition-arm64.yaml", armDefinition)
	s.publishFor("arm64", armArchive)
	def, o := s.open(worker)
	o.Arches = []string{"arm64"}
	lock, err := Resolve(context.Background(), def, o)
	if err != nil {
		t.Fatal(err)
	}
	s.write("images/definition-arm64.yaml", strings.Replace(armDefinition, "[libc6-dev]", "[libc6-dev, libseccomp-dev]", 1))
	def, _ = s.open(worker)
	_, err = Make(def, lock, worker, "arm64")
	if want := "libraries: +libseccomp-dev; run `slipway lock`" + withArch("arm64"); err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestBadArchitectures(t *testing.T) {
	for change, want := range map[[2]string]string{
		{"kind: ImageArchitecture", "kind: Image"}: `definition-arm64.yaml:2:7: kind: unknown kind "Image" (use ImageArchitecture)`,
		{"arch: arm64", "arch: riscv64"}:           `arch: "riscv64" is not "arm64" (as in the file's name)`,
		{"drop: [base]", "drop: [bash]"}:           `packages.drop[0]: "bash" is not in definition.yaml`,
		{"add: [extra]", "add: [base]"}:            `packages.add[0]: "base" is in definition.yaml already`,
		{"add: [extra]", "add: [debconf]"}:         "packages: debconf is in omit too",
		{"add: [sha2-ce]", "add: [../sha2]"}:       `initrd.modules.add[0]: "../sha2" is not a module's name`,
		{"libraries:", "librarys:"}:                "librarys",
	} {
		s := newSite(t)
		bad := strings.Replace(armDefinition, change[0], change[1], 1)
		if bad == armDefinition {
			t.Errorf("%q is not in the document", change[0])
			continue
		}
		s.write("images/definition-arm64.yaml", bad)
		_, _, err := Open(s.dir+"/images", s.dir+"/cache", archive.Choice{Flag: "file://" + s.dir})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v\nwant %q", change[1], err, want)
		}
	}
}

// TestShippedArchitectures: lock and documents of the shipped images fit each other.
func TestShippedArchitectures(t *testing.T) {
	def, _, err := Open("../../images", t.TempDir(), archive.Choice{Flag: "http://mirror.example"})
	if err != nil {
		t.Fatal(err)
	}
	lock, err := ReadLock("../../images/lock.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		l := lock.Architectures[arch]
		if l == nil {
			t.Errorf("the lock has no %s", arch)
			continue
		}
		if err := stale(l.Asked, asked(def.For(arch), nil), "worker"); err != nil && !strings.Contains(err.Error(), "packages of role") {
			t.Error(err)
		}
	}
}

func FuzzArchitecture(f *testing.F) {
	f.Add([]byte(armDefinition))
	if shipped, err := os.ReadFile("../../images/definition-arm64.yaml"); err == nil {
		f.Add(shipped)
	}
	base, err := LoadDefinition("d", shippedDefinition(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := *base
		if d.addArchitecture("definition-arm64.yaml", data) != nil {
			return
		}
		changed := d.For("arm64")
		if changed == &d || changed.digest == d.digest {
			t.Fatal("taken, and nothing has changed")
		}
		for _, name := range changed.Packages {
			if packageName(name) != nil || slices.Contains(changed.Omit, name) {
				t.Fatalf("package %q was taken", name)
			}
		}
	})
}
