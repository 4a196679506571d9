package archive

import (
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// places is where a mirror choice leads: one line an archive.
func places(m Mirrors) string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(m.bases)) {
		lines = append(lines, name+" "+strings.Join(m.bases[name], " "))
	}
	return strings.Join(lines, "\n")
}

func TestMirrorOrder(t *testing.T) {
	apt := fstest.MapFS{"sources.list": {Data: []byte("deb http://apt/debian trixie main\n")}}
	for _, c := range []struct {
		choice Choice
		want   string
	}{
		{Choice{"http://flag", "http://env", "http://def", apt, false}, "debian http://flag/debian"},
		{Choice{"", "http://env/debian/", "http://def", apt, false}, "debian http://env/debian"},
		{Choice{"", "", "http://def", apt, false}, "debian http://def/debian"},
		{Choice{"", "", "", apt, false}, "debian http://apt/debian"},
	} {
		m, err := FindMirrors(c.choice)
		if err != nil || places(m) != c.want {
			t.Errorf("%+v: %q, %v", c.choice, places(m), err)
		}
	}
}

func TestMirrorURLs(t *testing.T) {
	f := File{Path: "debian-security/pool/a.deb", SHA256: "00"}
	for text, want := range map[string]string{
		"http://m":                       "http://m/debian-security/pool/a.deb",
		"http://m/x/debian/":             "http://m/x/debian-security/pool/a.deb",
		"http://m,debian-security=http:": "",
		"http://m/debian,debian-security=http://sec/other": "http://sec/other/pool/a.deb",
		"http://a, http://b": "http://a/debian-security/pool/a.deb http://b/debian-security/pool/a.deb",
	} {
		m, err := FindMirrors(Choice{Flag: text})
		if got := strings.Join(m.urls(f), " "); got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	m, _ := FindMirrors(Choice{Flag: "http://m"})
	index := File{Path: "debian/dists/trixie/main/binary-amd64/Packages.xz", SHA256: "abcd"}
	want := "http://m/debian/dists/trixie/main/binary-amd64/by-hash/SHA256/abcd http://m/debian/dists/trixie/main/binary-amd64/Packages.xz"
	if got := strings.Join(m.indexURLs(index, true), " "); got != want {
		t.Errorf("by hash: %q", got)
	}
	for _, bad := range []string{"debian/../etc/passwd", "debian/a?b", "debian/a b", "/debian/a", "debian"} {
		if u := m.urls(File{Path: bad}); u != nil {
			t.Errorf("%q leads to %q", bad, u)
		}
	}
}

func TestBadMirrors(t *testing.T) {
	for _, text := range []string{"ftp://m/debian", "m/debian", "http://", "http://m/debian?x=1", "file:debian", "debian=", "http://m,,", "http://[::1"} {
		if m, err := FindMirrors(Choice{Environment: text}); err == nil || !strings.Contains(err.Error(), "SLIPWAY_MIRROR") {
			t.Errorf("%q: %q, %v", text, places(m), err)
		}
	}
	if _, err := FindMirrors(Choice{Apt: fstest.MapFS{}}); err == nil || !strings.Contains(err.Error(), "--mirror") {
		t.Errorf("no sources at all: %v", err)
	}
}

func TestAptSources(t *testing.T) {
	deb822 := `Types: deb
# a comment
URIs: http://one/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/x.gpg

Types: deb
URIs: http://sec/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off/debian
Suites: trixie

Types: deb-src
URIs: http://src/debian
Suites: trixie

Types: deb
URIs: https://other/node_20.x
Suites: nodistro
`
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"deb822": {map[string]string{"sources.list.d/debian.sources": deb822}, "debian http://one/debian\ndebian-security http://sec/debian-security"},
		"one line": {map[string]string{"sources.list": `
# deb http://no/debian trixie main
deb [arch=amd64 signed-by=/x y] http://one/debian trixie main # the archive
deb http://one/debian/ trixie-updates main
deb-src http://src/debian trixie main
deb http://sec/debian-security buster/updates main
deb http://two/mirror/debian sid main contrib
`}, "debian http://one/debian http://two/mirror/debian\ndebian-security http://sec/debian-security"},
		"security under the mirror's own name": {map[string]string{"sources.list.d/a.list": "deb http://cache/debian-sec-remote trixie-security main\ndeb http://cache/deb-remote trixie main\n"},
			"debian http://cache/deb-remote\ndebian-security http://cache/debian-sec-remote"},
		"another distribution": {map[string]string{"sources.list": "deb http://u/ubuntu noble main\ndeb http://r/raspbian bookworm main\ndeb http://x/apt stable-tools main\n"}, ""},
		"not over the network": {map[string]string{"sources.list": "deb cdrom:[Debian]/ trixie main\ndeb mirror+file:/etc/apt/mirrors trixie main\n"}, ""},
		"broken":               {map[string]string{"sources.list.d/x.sources": "not a field\n", "sources.list": "deb http://one/debian trixie main"}, "debian http://one/debian"},
	} {
		etc := fstest.MapFS{}
		for file, text := range c.files {
			etc[file] = &fstest.MapFile{Data: []byte(text), Mode: fs.ModePerm}
		}
		if got := places(Mirrors{bases: aptMirrors(etc)}); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

// A host that is told to take old indexes, because its mirror is a snapshot, is believed; nobody else is.
func TestAptAllowsExpired(t *testing.T) {
	sources := &fstest.MapFile{Data: []byte("deb http://one/debian trixie main\n")}
	for text, want := range map[string]bool{
		`Acquire::Check-Valid-Until "false";`:          true,
		"# x\nAcquire::Check-Valid-Until false ;\n":    true,
		`Acquire::Check-Valid-Until "true";`:           false,
		`# Acquire::Check-Valid-Until "false";`:        false,
		`Acquire::Check-Date "false";`:                 false,
		`// Acquire::Check-Valid-Until "false"; later`: false,
	} {
		etc := fstest.MapFS{"sources.list": sources, "apt.conf.d/99x": {Data: []byte(text)}}
		m, err := FindMirrors(Choice{Apt: etc})
		if err != nil || m.AllowExpired != want {
			t.Errorf("%q: %v, %v", text, m.AllowExpired, err)
		}
		if m, _ := FindMirrors(Choice{Flag: "http://m", Apt: etc}); m.AllowExpired {
			t.Errorf("%q counts for a mirror that is not the host's", text)
		}
	}
}

func FuzzApt(f *testing.F) {
	f.Add("deb [a=b] http://one/debian trixie main", "Types: deb\nURIs: http://x/debian\nSuites: sid\n")
	f.Fuzz(func(t *testing.T, list, sources string) {
		etc := fstest.MapFS{"sources.list": {Data: []byte(list)}, "sources.list.d/a.sources": {Data: []byte(sources)}}
		for name, bases := range aptMirrors(etc) {
			for _, b := range bases {
				if checkURL(b) != nil || name == "" {
					t.Fatalf("%q %q", name, b)
				}
			}
		}
	})
}
