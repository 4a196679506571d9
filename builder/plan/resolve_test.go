package plan

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/archive"
)

// offer is packages from lines like "a 1.0 depends b (>= 2) | c; provides x; conflicts d; breaks e; pre-depends f".
func offer(t *testing.T, text string) []archive.Package {
	t.Helper()
	var list []archive.Package
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		head, rest, _ := strings.Cut(strings.TrimSpace(line)+"  ", " ")
		version, rest, _ := strings.Cut(strings.TrimSpace(rest)+" ", " ")
		p := archive.Package{Name: head, Version: version, Arch: "amd64"}
		for part := range strings.SplitSeq(rest, ";") {
			field, value, _ := strings.Cut(strings.TrimSpace(part), " ")
			switch field {
			case "depends":
				p.Depends = value
			case "pre-depends":
				p.PreDepends = value
			case "provides":
				p.Provides = value
			case "conflicts":
				p.Conflicts = value
			case "breaks":
				p.Breaks = value
			case "":
			default:
				t.Fatalf("field %q in %q", field, line)
			}
		}
		list = append(list, p)
	}
	return list
}

// closureOf is the names that asking for packages brings, and what was left out, in one line.
func closureOf(t *testing.T, packages []archive.Package, asked, omit string) (string, error) {
	t.Helper()
	u, err := newUniverse("amd64", packages)
	if err != nil {
		return "", err
	}
	c, err := u.resolve(strings.Fields(asked), strings.Fields(omit))
	if err != nil {
		return "", err
	}
	var words []string
	for _, name := range slices.Sorted(maps.Keys(c.chosen)) {
		words = append(words, name)
	}
	for _, name := range slices.Sorted(maps.Keys(c.omitted)) {
		words = append(words, "("+name+" for "+strings.Join(c.omitted[name], ",")+")")
	}
	return strings.Join(words, " "), nil
}

func TestClosure(t *testing.T) {
	for name, c := range map[string]struct{ offer, asked, omit, want string }{
		"depends and pre-depends": {`
			a 1 depends b; pre-depends c
			b 1 depends c
			c 1
			d 1`, "a", "", "a b c"},
		"a circle": {`
			a 1 depends b
			b 1 depends a`, "a", "", "a b"},
		"first alternative that exists": {`
			a 1 depends nothing | b | c
			b 1
			c 1`, "a", "", "a b"},
		"first alternative of the right version": {`
			a 1 depends b (>= 2) | c
			b 1
			c 1`, "a", "", "a c"},
		"the alternative that is asked for": {`
			a 1 depends b | c
			b 1
			c 1`, "a c", "", "a c"},
		"the alternative that another needs, although it is seen later": {`
			a 1 depends b | c
			b 1
			z 1 depends y
			y 1 depends c
			c 1`, "a z", "", "a c y z"},
		"highest version of all archives": {`
			a 1 depends b (= 3)
			b 1
			b 3
			b 2`, "a", "", "a b"},
		"a virtual package with one provider": {`
			a 1 depends awk
			mawk 1 provides awk`, "a", "", "a mawk"},
		"a virtual package that is there already": {`
			a 1 depends awk
			mawk 1 provides awk
			gawk 1 provides awk`, "a gawk", "", "a gawk"},
		"a versioned provide": {`
			a 1 depends api (>= 2)
			old 1 provides api (= 1)
			plain 1 provides api
			new 1 provides api (= 2)`, "a", "", "a new"},
		"a real package before its providers": {`
			a 1 depends awk
			gawk 1 provides awk
			awk 1`, "a", "", "a awk"},
		"other architectures": {`
			a 1 depends b [arm64], c [!amd64] | d [amd64], e [i386]
			d 1`, "a", "", "a d"},
		"qualifiers": {`
			a 1 depends b:any, c:amd64
			b 1
			c 1`, "a", "", "a b c"},
		"left out": {`
			a 1 depends debconf (>= 0.5) | debconf-2.0, b
			b 1 depends debconf
			debconf 1 depends perl
			cdebconf 1 provides debconf-2.0
			perl 1`, "a", "debconf", "a b (debconf for a,b)"},
		"left out by a virtual name": {`
			a 1 depends awk
			mawk 1 provides awk`, "a", "awk", "a (awk for a)"},
		"left out by its provider's name": {`
			a 1 depends awk
			mawk 1 provides awk`, "a", "mawk", "a (mawk for a)"},
		"left out, but another alternative is there": {`
			a 1 depends debconf | debconf-2.0
			debconf 1
			cdebconf 1 provides debconf-2.0`, "a cdebconf", "debconf", "a cdebconf"},
		"conflicts with versions that are not there": {`
			a 1 depends b; breaks b (<< 2); conflicts c
			b 2
			c 1`, "a", "", "a b"},
		"conflicts with what it provides itself": {`
			a 1 provides mta; conflicts mta`, "a", "", "a"},
	} {
		got, err := closureOf(t, offer(t, c.offer), c.asked, c.omit)
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}

func TestClosureErrors(t *testing.T) {
	for name, c := range map[string]struct{ offer, asked, want string }{
		"nobody has it":        {"a 1", "b", "package b is in none of the archives"},
		"a virtual one":        {"a 1 provides awk\nb 1 provides awk", "awk", "choose one of a, b"},
		"a missing dependency": {"a 1 depends b | c (>= 2)\nc 1", "a", "package a 1 needs b | c (>= 2); the archives have c 1"},
		"of nothing":           {"a 1 depends b", "a", "the archives have nothing of that name"},
		"several providers":    {"a 1 depends awk\nb 1 provides awk\nc 1 provides awk", "a", "add one of b, c to the packages"},
		"conflicts":            {"a 1 depends b, c\nb 1 conflicts c\nc 2", "a", "package b 1 cannot be with c 2 (Conflicts: c)"},
		"breaks":               {"a 1 depends b, c\nb 1 breaks c (<< 3)\nc 2", "a", "package b 1 cannot be with c 2 (Breaks: c (<< 3))"},
		"conflicts by virtual": {"a 1 depends b, c\nb 1 conflicts mta; provides mta\nc 2 provides mta", "a", "package b 1 cannot be with c 2"},
		"bad relation":         {"a 1 depends b (", "a", "package a: Depends: bad relation"},
		"bad version":          {"a 1:", "a", "package a: bad version"},
		"other architecture":   {"a 1 depends b:i386\nb 1", "a", "package a 1 needs b:i386"},
	} {
		got, err := closureOf(t, offer(t, c.offer), c.asked, "")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}

// The order in which archives list packages and the definition asks for them does not matter.
func TestClosureDoesNotDependOnOrder(t *testing.T) {
	packages := offer(t, `
		a 1 depends b | c, v
		b 1
		c 1 depends d
		d 1 depends b | e, w | x
		e 1
		p 1 provides v
		w 1
		x 1 provides w
		z 1 depends e | b, c | d`)
	asked := strings.Fields("z d a")
	want, err := closureOf(t, packages, strings.Join(asked, " "), "")
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		rng.Shuffle(len(packages), func(i, j int) { packages[i], packages[j] = packages[j], packages[i] })
		rng.Shuffle(len(asked), func(i, j int) { asked[i], asked[j] = asked[j], asked[i] })
		if got, err := closureOf(t, packages, strings.Join(asked, " "), ""); err != nil || got != want {
			t.Fatalf("%q, %v; before %q", got, err, want)
		}
	}
}

func TestKernelPackage(t *testing.T) {
	u, err := newUniverse("amd64", offer(t, `
		linux-image-cloud-amd64 6.2 depends linux-image-6.2-cloud-amd64 (= 6.2)
		linux-image-6.2-cloud-amd64 6.2 depends kmod, linux-base, initramfs-tools | linux-initramfs-tool
		linux-image-6.1-cloud-amd64 6.1
		linux-image-broken 1 depends linux-image-9 (= 1)`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"linux-image-cloud-amd64":     "linux-image-6.2-cloud-amd64",
		"linux-image-6.1-cloud-amd64": "linux-image-6.1-cloud-amd64",
		"linux-image-broken":          "",
		"linux-image-none":            "",
	} {
		c, err := u.kernel(name)
		if want == "" {
			if err == nil {
				t.Errorf("%s: no error", name)
			}
		} else if err != nil || c.Name != want {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
}
