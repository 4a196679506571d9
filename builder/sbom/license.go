package sbom

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/github/go-spdx/v2/spdxexp/spdxlicenses"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/slipway-os/slipway/builder/deb"
)

// declaredLicense is what a machine-readable copyright file (DEP-5, "Machine-readable debian/copyright file 1.0") says of
// a source package: all licences of its files, as an SPDX expression, and those among them that SPDX doesn't list. Of
// any other file it is empty.
func declaredLicense(file []byte) (string, []*v2_3.OtherLicense) {
	said, texts := readCopyright(file)
	if len(said) == 0 {
		return "", nil
	}
	r := licenseReader{texts: texts, others: map[string]*v2_3.OtherLicense{}}
	var all []string
	for _, s := range said {
		all = append(all, r.expression(s))
	}
	slices.Sort(all)
	all = slices.Compact(all)
	others := sorted(r.others, func(l *v2_3.OtherLicense) string { return l.LicenseIdentifier })
	if len(all) == 1 {
		return all[0], others
	}
	for i := range all {
		all[i] = bracketed(all[i], " OR ")
	}
	return strings.Join(all, " AND "), others
}

// readCopyright gives the first lines of all License fields about files, and the texts of licences by those lines.
func readCopyright(file []byte) (said []string, texts map[string]string) {
	paragraphs := deb.NewReader(bytes.NewReader(file))
	texts = map[string]string{}
	for first := true; ; first = false {
		p, err := paragraphs.Next()
		if err != nil {
			return said, texts
		}
		if first && !strings.Contains(p.Get("Format"), "copyright-format/1") {
			return nil, nil
		}
		name, text, _ := strings.Cut(p.Get("License"), "\n")
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if first || p.Get("Files") != "" {
			said = append(said, name)
		}
		if text = plainText(text); text != "" && texts[name] == "" {
			texts[name] = text
		}
	}
}

// plainText is a field's further lines without the blank before each and the dots in empty ones (policy 5.6.13).
func plainText(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		line = strings.TrimPrefix(strings.TrimRight(line, " \t\r\n"), " ")
		if line == "." {
			line = ""
		}
		b.WriteString(line + "\n")
	}
	return strings.Trim(b.String(), "\n")
}

type licenseReader struct {
	texts  map[string]string
	others map[string]*v2_3.OtherLicense
}

var (
	comma = regexp.MustCompile(`\s*,\s*`)
	or    = regexp.MustCompile(`(?i)\s+or\s+`)
	and   = regexp.MustCompile(`(?i)\s+and\s+`)
	joint = regexp.MustCompile(`(?i)^(and|or)\s+`)
)

// expression is a licence specification (DEP-5, chapter 7.2) in SPDX's notation: "and" binds closer than "or", a comma
// less than both.
func (r licenseReader) expression(s string) string {
	out := ""
	for i, part := range comma.Split(s, -1) {
		how := " AND "
		if m := joint.FindStringSubmatch(part); m != nil {
			how, part = " "+strings.ToUpper(m[1])+" ", part[len(m[0]):]
		}
		next := r.choice(part)
		switch {
		case strings.TrimSpace(part) == "":
		case i == 0 || out == "":
			out = next
		default:
			out = bracketed(out, " OR ", " AND ") + how + bracketed(next, " OR ", " AND ")
		}
	}
	return out
}

// bracketed puts brackets around an expression that has one of the operators.
func bracketed(s string, operators ...string) string {
	if slices.ContainsFunc(operators, func(o string) bool { return strings.Contains(s, o) }) {
		return "(" + s + ")"
	}
	return s
}

func (r licenseReader) choice(s string) string {
	var choices []string
	for _, c := range or.Split(strings.TrimSpace(s), -1) {
		var all []string
		for _, name := range and.Split(c, -1) {
			all = append(all, r.license(strings.TrimSpace(name)))
		}
		choices = append(choices, strings.Join(all, " AND "))
	}
	return strings.Join(choices, " OR ")
}

// license is one licence by SPDX's name, or a reference to what the document says about it.
func (r licenseReader) license(name string) string {
	base, exception, with := cutWith(name)
	id, ok := known(base)
	if ok && !with {
		return id
	}
	if ok {
		if listed, e := spdxlicenses.IsException(exception); listed {
			return id + " WITH " + e
		}
	}
	return r.reference(name)
}

var with = regexp.MustCompile(`(?i)\s+with\s+`)

func cutWith(name string) (base, exception string, ok bool) {
	at := with.FindStringIndex(name)
	if at == nil {
		return name, "", false
	}
	exception = name[at[1]:]
	exception = strings.TrimSpace(strings.TrimSuffix(strings.ToLower(exception), " exception"))
	return name[:at[0]], exception, true
}

// debianNames are short names of DEP-5 and of Debian's habit that SPDX has under others.
var debianNames = map[string]string{
	"expat": "MIT", "artistic": "Artistic-1.0", "bsd-2-clause-freebsd": "BSD-2-Clause", "cc0": "CC0-1.0",
	"gpl": "GPL-1.0-or-later", "lgpl": "LGPL-2.0-or-later", "python": "PSF-2.0",
}

var gnu = regexp.MustCompile(`(?i)^(A?GPL|LGPL|GFDL)-v?([0-9])(\.[0-9])?(\+?)$`)

// known is a licence of SPDX's list by its name, or by a Debian name for it: GPL-2+ is GPL-2.0-or-later.
func known(name string) (string, bool) {
	if id, ok := debianNames[strings.ToLower(name)]; ok {
		return id, true
	}
	if m := gnu.FindStringSubmatch(name); m != nil {
		version, suffix := m[3], "-only"
		if version == "" {
			version = ".0"
		}
		if m[4] != "" {
			suffix = "-or-later"
		}
		name = m[1] + "-" + m[2] + version + suffix
	}
	if ok, id := spdxlicenses.IsActiveLicense(name); ok {
		return id, true
	}
	if base, ok := strings.CutSuffix(name, "+"); ok {
		if ok, id := spdxlicenses.IsActiveLicense(base); ok {
			return id + "+", true
		}
	}
	return "", false
}

// reference names a licence that SPDX doesn't list. The same name with another text is another licence.
func (r licenseReader) reference(name string) string {
	text := r.texts[name]
	if text == "" {
		text = "The copyright file names this licence and gives no text of it: " + name
	}
	clean := strings.Trim(strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' {
			return c
		}
		return '-'
	}, name), "-.")
	sum := sha256.Sum256([]byte(name + "\n" + text))
	id := fmt.Sprintf("LicenseRef-%.80s-%x", clean, sum[:4])
	r.others[id] = &v2_3.OtherLicense{LicenseIdentifier: id, LicenseName: name, ExtractedText: text}
	return id
}
