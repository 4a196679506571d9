package changes

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/semver"

	"github.com/slipway-os/slipway/builder/deb"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// thing has a version, and something that tells its bytes.
type thing struct{ name, version, digest string }

// compare compares things by their keys. order compares two versions: how the later one is against the earlier.
func compare(a, b map[string]thing, order func(a, b string) string) []Change {
	list := []Change{}
	for _, key := range bothKeys(a, b) {
		x, before := a[key]
		y, after := b[key]
		c := Change{Name: y.name, Before: x.version, After: y.version}
		switch {
		case !before:
			c.How = Added
		case !after:
			c.Name, c.How = x.name, Removed
		case x.version != y.version:
			c.How = order(x.version, y.version)
		case x.digest != y.digest:
			c.How = Rebuilt
		default:
			continue
		}
		if before && after && x.name != y.name {
			c.Was = x.name
		}
		list = append(list, c)
	}
	return sortChanges(list)
}

// debian orders versions as dpkg does (Debian policy, 5.6.12).
func debian(a, b string) string {
	x, first := deb.ParseVersion(a)
	y, second := deb.ParseVersion(b)
	if first != nil || second != nil {
		return Changed
	}
	return direction(y.Compare(x))
}

// modular orders Go's versions (semver.org, pseudo-versions included) and, where one isn't, such as Go's own, as Debian does.
func modular(a, b string) string {
	if semver.IsValid(a) && semver.IsValid(b) {
		return direction(semver.Compare(b, a))
	}
	return debian(strings.TrimPrefix(a, "v"), strings.TrimPrefix(b, "v"))
}

func direction(order int) string {
	switch {
	case order > 0:
		return Upgraded
	case order < 0:
		return Downgraded
	}
	return Changed
}

// kernelPackage is a name with the kernel's release in it: linux-image-6.12.117+deb13-amd64.
var kernelPackage = regexp.MustCompile(`^linux-image-[0-9][0-9.]*[^-]*-`)

// packageKey is equal for a package and what it is called in another version.
func packageKey(name string) string { return kernelPackage.ReplaceAllString(name, "linux-image-*-") }

func packages(a, b *manifest.Manifest) []Change {
	things := func(m *manifest.Manifest) map[string]thing {
		list := map[string]thing{}
		for _, p := range m.Packages {
			key := packageKey(p.Name)
			if _, twice := list[key]; twice { // two kernels: by their own names
				key = p.Name
			}
			list[key] = thing{p.Name, p.Version, p.SHA256}
		}
		return list
	}
	return compare(things(a), things(b), debian)
}

func components(a, b *manifest.Manifest) []Change {
	things := func(m *manifest.Manifest) map[string]thing {
		list := map[string]thing{}
		for _, c := range m.Components {
			list[c.Name] = thing{c.Name, c.Version, c.Key}
		}
		return list
	}
	return compare(things(a), things(b), modular)
}

func containerImages(a, b *manifest.Manifest) []Change {
	things := func(m *manifest.Manifest) map[string]thing {
		list := map[string]thing{}
		for _, i := range m.Images {
			name, tag := i.Reference, ""
			if at := strings.LastIndexByte(i.Reference, ':'); at > strings.LastIndexByte(i.Reference, '/') {
				name, tag = i.Reference[:at], i.Reference[at+1:]
			}
			list[name] = thing{name, tag, i.Digest}
		}
		return list
	}
	return compare(things(a), things(b), modular)
}

// goModules compares component by component, and puts together what several of them have in common.
func goModules(a, b map[string][]GoModule) []Module {
	found := map[Change][]string{}
	for _, component := range bothKeys(a, b) {
		for _, c := range compare(modules(a[component]), modules(b[component]), modular) {
			found[c] = append(found[c], component)
		}
	}
	list := []Module{}
	for c, in := range found {
		list = append(list, Module{c, in})
	}
	slices.SortFunc(list, func(x, y Module) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Before, y.Before), strings.Compare(x.After, y.After), slices.Compare(x.Components, y.Components))
	})
	return list
}

// modules by their paths. One that programs of a component have in several versions has all of these.
func modules(list []GoModule) map[string]thing {
	all := map[string]thing{}
	for _, m := range list {
		t := thing{m.Path, m.Version, m.Sum}
		if have, ok := all[m.Path]; ok {
			t.version, t.digest = have.version+", "+m.Version, have.digest+" "+m.Sum
		}
		all[m.Path] = t
	}
	return all
}

// cmdline compares kernel arguments by what stands before the equals sign. Those that name the images always differ.
func cmdline(a, b *manifest.Manifest) []Change {
	things := func(m *manifest.Manifest) map[string]thing {
		list := map[string]thing{}
		for _, word := range strings.Fields(m.Cmdline) {
			name, _, _ := strings.Cut(word, "=")
			if name == bootspec.ArgImage || name == bootspec.ArgUKI || strings.HasPrefix(name, "slipway.root.") {
				continue
			}
			if have, ok := list[name]; ok { // console= may come twice
				word = have.version + " " + word
			}
			list[name] = thing{name, word, ""}
		}
		return list
	}
	return compare(things(a), things(b), func(string, string) string { return Changed })
}
