package changes

import (
	"reflect"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/inventory"
	"github.com/slipway-os/slipway/images/manifest"
)

func TestOrderOfVersions(t *testing.T) {
	for _, c := range []struct {
		order    func(a, b string) string
		a, b     string
		expected string
	}{
		{debian, "1.0~rc1-1", "1.0-1", Upgraded},
		{debian, "1:1.0-1", "2.0-1", Downgraded},
		{debian, "3.5.4-1~deb13u9", "3.5.4-1~deb13u10", Upgraded},
		{debian, "1.0", "1.0-0", Changed}, // policy 5.6.12: no revision is revision 0
		{debian, "1.0", "?", Changed},
		{modular, "v1.2.3-rc.1", "v1.2.3", Upgraded}, // Debian's order has it the other way round
		{modular, "v0.0.0-20250101000000-aaaaaaaaaaaa", "v0.0.0-20260101000000-aaaaaaaaaaaa", Upgraded},
		{modular, "1.26.10", "1.26.9", Downgraded},
		{modular, "0.1.0", "0.2.0", Upgraded},
	} {
		if got := c.order(c.a, c.b); got != c.expected {
			t.Errorf("%s to %s: %s, want %s", c.a, c.b, got, c.expected)
		}
	}
}

func image(role, version string, packages ...manifest.Package) *Image {
	return &Image{Manifest: &manifest.Manifest{
		Role: role, Version: version, Arch: "amd64", Packages: packages,
		Artifacts: []manifest.Artifact{{Kind: manifest.KindRoot, Size: 1, SHA256: role + version}},
	}}
}

func TestReleases(t *testing.T) {
	c := Releases([]*Image{image("worker", "1.0.0"), image("old", "1.0.0")}, []*Image{image("new", "1.1.0"), image("worker", "1.1.0")})
	if len(c.Images) != 1 || c.Images[0].To != (ID{"worker", "1.1.0", "amd64"}) || c.Equal {
		t.Errorf("%+v", c.Images)
	}
	if want := []Single{{ID{"old", "1.0.0", "amd64"}, Removed}, {ID{"new", "1.1.0", "amd64"}, Added}}; !reflect.DeepEqual(c.Only, want) {
		t.Errorf("%+v", c.Only)
	}
	if c := Releases([]*Image{image("worker", "1.0.0")}, []*Image{image("control-plane", "1.0.0")}); len(c.Images) != 1 || c.Equal {
		t.Errorf("one image on each side: %+v", c)
	}
	if c := Releases([]*Image{image("worker", "1.0.0")}, []*Image{image("worker", "1.0.0")}); !c.Equal {
		t.Error("an image differs from itself")
	}
}

// TestRebuiltPackage: the same version with other bytes is a difference, with the artifacts equal or not.
func TestRebuiltPackage(t *testing.T) {
	c := Releases([]*Image{image("worker", "1.0.0", manifest.Package{Name: "a", Version: "1", SHA256: "x"})},
		[]*Image{image("worker", "1.0.0", manifest.Package{Name: "a", Version: "1", SHA256: "y"})})
	if want := []Change{{Name: "a", How: Rebuilt, Before: "1", After: "1"}}; c.Equal || !reflect.DeepEqual(c.Images[0].Packages, want) {
		t.Errorf("%+v", c)
	}
}

func TestGoModulesInSeveralComponents(t *testing.T) {
	a := map[string][]GoModule{"x": {{"m", "v1.0.0", ""}, {"n", "v1.0.0", "h1:a"}}, "y": {{"m", "v1.0.0", ""}}, "z": {{"m", "v0.9.0", ""}}}
	b := map[string][]GoModule{"x": {{"m", "v1.1.0", ""}, {"n", "v1.0.0", "h1:b"}}, "y": {{"m", "v1.1.0", ""}}, "z": {{"m", "v1.1.0", ""}, {"m", "v1.2.0", ""}}}
	want := []Module{
		{Change{Name: "m", How: Upgraded, Before: "v0.9.0", After: "v1.1.0, v1.2.0"}, []string{"z"}},
		{Change{Name: "m", How: Upgraded, Before: "v1.0.0", After: "v1.1.0"}, []string{"x", "y"}},
		{Change{Name: "n", How: Rebuilt, Before: "v1.0.0", After: "v1.0.0"}, []string{"x"}},
	}
	got := goModules(a, b)
	got[0].How, want[0].How = "", "" // of two versions neither order is right
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func file1(path, digest string) inventory.Entry {
	return inventory.Entry{Path: path, Type: inventory.File, Mode: "0644", Size: 1, SHA256: digest}
}

func link(path, to string) inventory.Entry {
	return inventory.Entry{Path: path, Type: inventory.Link, Mode: "0777", Link: to}
}

// TestUnits has rules of systemd.unit(5): /etc wins, /dev/null masks, and a mask of a link undoes it.
func TestUnits(t *testing.T) {
	const etc, lib = "etc/systemd/system/", "usr/lib/systemd/system/"
	base := []inventory.Entry{
		file1(lib+"a.service", "a"), file1(lib+"b.service", "b"), link(lib+"c.service", "a.service"),
		link(lib+"multi-user.target.wants/a.service", "../a.service"), file1(lib+"a.service.d/10.conf", "x"), file1(lib+"a.service.d/README", "x"),
	}
	for _, c := range []struct {
		why  string
		more []inventory.Entry
		want string
	}{
		{"nothing", nil, ""},
		{"a file in /etc wins", []inventory.Entry{file1(etc+"a.service", "other")}, "a.service changed"},
		{"the same file in /etc", []inventory.Entry{file1(etc+"a.service", "a")}, ""},
		{"mask", []inventory.Entry{link(etc+"a.service", "/dev/null")}, "a.service masked"},
		{"mask of the link", []inventory.Entry{link(etc+"multi-user.target.wants/a.service", "/dev/null")}, "a.service disabled multi-user.target (wants)"},
		{"the same link, said otherwise", []inventory.Entry{link(etc+"multi-user.target.wants/a.service", "/usr/lib/systemd/system/a.service")}, ""},
		{"instance", []inventory.Entry{link(etc+"x.target.requires/i@1.service", "/usr/lib/systemd/system/i@.service")}, "i@1.service enabled x.target (requires)"},
		{"drop-in", []inventory.Entry{file1(etc+"a.service.d/10.conf", "y"), file1(etc+"b.service.d/5.conf", "z")}, "a.service changed drop-in 10.conf, b.service added drop-in 5.conf"},
		{"alias", []inventory.Entry{link(etc+"c.service", "/usr/lib/systemd/system/b.service"), link(etc+"d.service", lib+"a.service")}, "c.service changed, d.service added"},
	} {
		var got []string
		for _, u := range units(base, append(c.more, base...)) {
			got = append(got, strings.TrimSpace(u.Name+" "+u.How+" "+u.Detail))
		}
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("%s: %q, want %q", c.why, text, c.want)
		}
	}
}

// TestKernelModules: another release, another compression, and a second kernel's folder.
func TestKernelModules(t *testing.T) {
	folder := func(release string) inventory.Entry {
		return inventory.Entry{Path: "usr/lib/modules/" + release, Type: "directory"}
	}
	a := &inventory.Inventory{Root: []inventory.Entry{folder("6.1"), file1("usr/lib/modules/6.1/kernel/net/x.ko.xz", "x"), file1("usr/lib/modules/6.1/kernel/y.ko", "y")}}
	b := &inventory.Inventory{Root: []inventory.Entry{folder("6.2"), file1("usr/lib/modules/6.2/kernel/net/x.ko", "X"), file1("usr/lib/modules/6.2/kernel/z.ko", "z")}}
	modules, files, _ := files(a, b)
	var got []string
	for _, m := range modules {
		got = append(got, m.Path+" "+m.How)
	}
	if want := "net/x.ko changed, y.ko removed, z.ko added"; strings.Join(got, ", ") != want || len(files) != 0 {
		t.Errorf("%v, %v", got, files)
	}
	if k := kernel(a, b); k == nil || k.Before != "6.1" || k.After != "6.2" || k.How != Upgraded {
		t.Errorf("%+v", k)
	}
	if got := kernelRelease(append(a.Root, b.Root...)); got != "" {
		t.Errorf("two kernels are one: %s", got)
	}
}

func TestReadConfig(t *testing.T) {
	got, err := ReadConfig([]byte("# Linux\n\nCONFIG_A=y\n# CONFIG_B is not set\r\nCONFIG_C=\"x = y\"\nCONFIG_D=0x10\n"))
	if want := map[string]string{"A": "y", "B": "n", "C": `"x = y"`, "D": "0x10"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []string{"CONFIG_A", "A=y", "CONFIG A=y", "<html>", strings.Repeat("\n", MaxConfig+1)} {
		if _, err := ReadConfig([]byte(bad)); err == nil {
			t.Errorf("%.40q was taken", bad)
		}
	}
}

func FuzzReadConfig(f *testing.F) {
	f.Add([]byte("CONFIG_A=y\n# CONFIG_B is not set\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		options, err := ReadConfig(data)
		if err == nil && len(config(options, options)) != 0 {
			t.Fatal("a configuration differs from itself")
		}
	})
}

// TestWordsAreHarmless: names come out of files of others, and go to terminals and web pages.
func TestWordsAreHarmless(t *testing.T) {
	evil := manifest.Package{Name: "a|b\x1b[2J<script>*_`", Version: "1", SHA256: "x"}
	c := Releases([]*Image{image("worker", "1.0.0")}, []*Image{image("worker", "1.0.0", evil)})
	var text, page strings.Builder
	if err := c.Text(&text, false); err != nil {
		t.Fatal(err)
	}
	if err := c.Markdown(&page, false); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsRune(text.String(), 0x1b) || strings.ContainsRune(page.String(), 0x1b) {
		t.Error("an escape sequence reaches the terminal")
	}
	if want := `| "a\|b\\x1b\[2J&lt;script&gt;\*\_\` + "`" + `" |  | 1 | added |`; !strings.Contains(page.String(), want) {
		t.Errorf("no %s in\n%s", want, page.String())
	}
}

func TestLongListsAreCut(t *testing.T) {
	var many []manifest.Package
	for i := range limit + 10 {
		many = append(many, manifest.Package{Name: strings.Repeat("p", i+1), Version: "1"})
	}
	c := Releases([]*Image{image("worker", "1.0.0")}, []*Image{image("worker", "1.0.0", many...)})
	for all, want := range map[bool]int{false: limit, true: limit + 10} {
		var text strings.Builder
		if err := c.Text(&text, all); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(text.String(), " 1  added"); got != want || strings.Contains(text.String(), "and 10 more (slipway diff --all)") == all {
			t.Errorf("all %v: %d rows\n%s", all, got, text.String())
		}
	}
}
