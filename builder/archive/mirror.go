package archive

import (
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
)

// Mirrors tells where each archive is.
type Mirrors struct {
	Origin       string // where the choice comes from, for people: "flag --mirror", "apt sources"
	AllowExpired bool   // indexes past their Valid-Until are taken

	bases  map[string][]string        // by archive name; without a slash at the end
	beside func(name string) []string // of archives without bases of their own; nil: beside the archive "debian"
}

// Choice is what FindMirrors chooses from. The first that is not empty counts.
type Choice struct {
	Flag        string // of the command line
	Environment string // SLIPWAY_MIRROR
	Definition  string // the image definition's field
	Apt         fs.FS  // the host's /etc/apt; may be nil

	AllowExpired bool // take indexes past their Valid-Until from whatever mirror
}

// FindMirrors chooses a mirror. The texts are a URL, or NAME=URL words with commas in between, one for each archive.
//
// A plain URL is where the archive "debian" is: it ends in /debian, or the archive is a folder of that name below it.
// Other archives lie beside it, unless words of their own name them. From the host's apt sources the URL of each
// archive is taken as it stands there, whatever release the host itself has.
func FindMirrors(c Choice) (Mirrors, error) {
	for _, one := range []struct{ origin, text string }{
		{"flag --mirror", c.Flag}, {"SLIPWAY_MIRROR", c.Environment}, {"image definition", c.Definition},
	} {
		if one.text == "" {
			continue
		}
		bases, err := parseMirror(one.text)
		if err != nil {
			return Mirrors{}, fmt.Errorf("cannot use mirror of %s: %w", one.origin, err)
		}
		return Mirrors{Origin: one.origin, AllowExpired: c.AllowExpired, bases: bases}, nil
	}
	m := Mirrors{Origin: "apt sources", AllowExpired: c.AllowExpired}
	if c.Apt != nil {
		m.bases = aptMirrors(c.Apt)
		m.AllowExpired = m.AllowExpired || aptAllowsExpired(c.Apt)
	}
	if len(m.bases["debian"]) == 0 {
		return Mirrors{}, fmt.Errorf("no mirror: this machine's apt sources name no Debian archive; give one with --mirror or SLIPWAY_MIRROR")
	}
	return m, nil
}

func parseMirror(text string) (map[string][]string, error) {
	bases := map[string][]string{}
	for word := range strings.SplitSeq(text, ",") {
		name, base, named := strings.Cut(strings.TrimSpace(word), "=")
		if !named || strings.ContainsAny(name, ":/") {
			name, base = "debian", strings.TrimSpace(word)
		}
		base = strings.TrimRight(base, "/")
		if err := checkURL(base); err != nil {
			return nil, err
		}
		if !named && path.Base(base) != "debian" {
			base += "/debian"
		}
		bases[name] = append(bases[name], base)
	}
	return bases, nil
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	if u.Scheme == "file" && u.Host == "" && path.IsAbs(u.Path) {
		return nil
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%q is not an http, https or file URL", s)
	}
	return nil
}

// of is an archive's base URLs: its own, else beside the archive "debian".
func (m Mirrors) of(archive string) []string {
	if own := m.bases[archive]; len(own) > 0 {
		return own
	}
	if m.beside != nil {
		return m.beside(archive)
	}
	var beside []string
	for _, base := range m.bases["debian"] {
		if dir, ok := strings.CutSuffix(base, "/debian"); ok {
			beside = append(beside, dir+"/"+archive)
		}
	}
	return beside
}

// urls is where a file may be.
func (m Mirrors) urls(f File) []string {
	archive, rest, ok := strings.Cut(f.Path, "/")
	if !ok || !safePath(f.Path) {
		return nil
	}
	var urls []string
	for _, base := range m.of(archive) {
		urls = append(urls, base+"/"+rest)
	}
	return urls
}

// indexURLs is urls with the by-hash name first: it never changes under a reader (wiki DebianRepository/Format).
func (m Mirrors) indexURLs(f File, byHash bool) []string {
	urls := m.urls(f)
	if !byHash {
		return urls
	}
	var hashed []string
	for _, u := range urls {
		hashed = append(hashed, u[:strings.LastIndexByte(u, '/')]+"/by-hash/SHA256/"+f.SHA256)
	}
	return append(hashed, urls...)
}

func (m Mirrors) missing(path string) error {
	archive, _, _ := strings.Cut(path, "/")
	known := slices.Sorted(maps.Keys(m.bases))
	return fmt.Errorf("no mirror for archive %q (%s knows: %s); name it in the mirror as %s=URL", archive, m.Origin, strings.Join(known, ", "), archive)
}
