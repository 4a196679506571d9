package archive

import (
	"bytes"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/deb"
)

// maxAptFile bounds one of apt's files in bytes; larger ones are passed over.
const maxAptFile = 1 << 20

// aptSource is one archive of the host's apt sources.
type aptSource struct {
	uri    string
	suites []string
}

// aptMirrors finds Debian's archives in apt's configuration folder: sources.list and sources.list.d, in both forms
// (sources.list(5)). What can't be read or isn't Debian is passed over: it is the host's business.
func aptMirrors(etc fs.FS) map[string][]string {
	bases := map[string][]string{}
	for _, source := range aptSources(etc) {
		name := source.archive()
		uri := strings.TrimRight(source.uri, "/")
		if name != "" && checkURL(uri) == nil && !slices.Contains(bases[name], uri) {
			bases[name] = append(bases[name], uri)
		}
	}
	return bases
}

func aptSources(etc fs.FS) []aptSource {
	names := []string{"sources.list"}
	for _, pattern := range []string{"sources.list.d/*.list", "sources.list.d/*.sources"} {
		found, _ := fs.Glob(etc, pattern) // the patterns are good
		names = append(names, found...)
	}
	var sources []aptSource
	for _, name := range names {
		data, err := fs.ReadFile(etc, name)
		if err != nil || len(data) > maxAptFile {
			continue
		}
		if path.Ext(name) == ".sources" {
			sources = append(sources, deb822Sources(data)...)
		} else {
			sources = append(sources, lineSources(data)...)
		}
	}
	return sources
}

// deb822Sources reads the form of .sources files.
func deb822Sources(data []byte) []aptSource {
	var sources []aptSource
	for paragraphs := deb.NewReader(bytes.NewReader(data)); ; {
		p, err := paragraphs.Next()
		if err != nil {
			return sources
		}
		if strings.EqualFold(p.Get("Enabled"), "no") || !slices.Contains(strings.Fields(p.Get("Types")), "deb") {
			continue
		}
		for _, uri := range strings.Fields(p.Get("URIs")) {
			sources = append(sources, aptSource{uri, strings.Fields(p.Get("Suites"))})
		}
	}
}

// lineOptions is the "[arch=amd64 ...]" of a one-line source.
var lineOptions = regexp.MustCompile(`\[[^\]]*\]`)

// lineSources reads the one-line form: deb [options] uri suite component...
func lineSources(data []byte) []aptSource {
	var sources []aptSource
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(lineOptions.ReplaceAllString(line, " "))
		if len(words) >= 3 && words[0] == "deb" {
			sources = append(sources, aptSource{words[1], words[2:3]})
		}
	}
	return sources
}

// debianSuite matches suites of the archive "debian" by name of release or class.
var debianSuite = regexp.MustCompile(`^(stable|oldstable|testing|unstable|sid|bullseye|bookworm|trixie|forky|duke)(-updates|-proposed-updates|-backports)?$`)

// securitySuite matches suites of "debian-security", in today's and the old form (buster/updates).
var securitySuite = regexp.MustCompile(`^[a-z]+(-security|/updates)$`)

// archive is the name of the Debian archive that a source is of, or "". A folder of another distribution's name
// (ubuntu, raspbian) is not taken, whatever its suites are called.
func (s aptSource) archive() string {
	last := path.Base(strings.TrimRight(s.uri, "/"))
	switch {
	case last == "debian-security" || strings.HasSuffix(last, "debian-security"):
		return "debian-security"
	case last == "ubuntu" || last == "raspbian" || len(s.suites) == 0:
		return ""
	case slices.ContainsFunc(s.suites, securitySuite.MatchString) && strings.Contains(last, "debian"):
		return "debian-security"
	case slices.ContainsFunc(s.suites, debianSuite.MatchString):
		return "debian"
	default:
		return ""
	}
}

// checkValidUntil is apt's setting that indexes may be past their Valid-Until: of a snapshot, or a mirror that lags.
var checkValidUntil = regexp.MustCompile(`(?mi)^\s*Acquire::Check-Valid-Until\s+"?(false|no|0)"?\s*;`)

// aptAllowsExpired tells whether the host's own apt is told to take indexes past their Valid-Until.
func aptAllowsExpired(etc fs.FS) bool {
	names, _ := fs.Glob(etc, "apt.conf.d/*") // the pattern is good
	for _, name := range append(names, "apt.conf") {
		data, err := fs.ReadFile(etc, name)
		if err == nil && len(data) <= maxAptFile && checkValidUntil.Match(data) {
			return true
		}
	}
	return false
}
