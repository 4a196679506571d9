package changes

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/manifest"
)

// report is a comparison in words: chapters for what all images have in common and for each image, of sections with rows.
type report struct {
	title    string
	lead     []string
	chapters []chapter
}

type chapter struct {
	title    string
	sections []section
}

// section is a table. Rows are what is compared when images are said to have a change in common.
type section struct {
	title   string
	columns []string
	rows    [][]string
	own     bool // of one image, though it may look like another's
}

// limit bounds the rows of a section unless all are asked for.
const limit = 40

// words makes the report.
func (c *Comparison) words(all bool) report {
	r := report{title: c.title(), lead: c.lead()}
	chapters := make([][]section, len(c.Images))
	modules := moduleSection(c.Images)
	for i := range c.Images {
		chapters[i] = c.Images[i].sections(all, modules)
	}
	if len(chapters) > 1 {
		shared := extract(chapters)
		if len(shared) > 0 {
			r.chapters = append(r.chapters, chapter{"All images", shared})
		}
	}
	for i, sections := range chapters {
		title := ""
		if len(c.Images) > 1 {
			title = c.Images[i].To.place()
		}
		if sections = filled(sections); len(sections) > 0 {
			r.chapters = append(r.chapters, chapter{title, sections})
		}
	}
	if !all {
		for i := range r.chapters {
			shorten(r.chapters[i].sections)
		}
	}
	return r
}

func (c *Comparison) title() string {
	if len(c.Images) == 0 {
		return "no image is in both"
	}
	from, to := c.Images[0].From, c.Images[0].To
	switch {
	case from.place() != to.place():
		return from.String() + " and " + to.String()
	case from.Version == to.Version:
		return "Slipway " + to.Version + ", baked twice"
	}
	return "Slipway " + to.Version + ", since " + from.Version
}

// lead says what is compared, and what couldn't be.
func (c *Comparison) lead() []string {
	var lines, places []string
	for _, p := range c.Images {
		places = append(places, p.To.place())
	}
	if c.Equal {
		lines = append(lines, "No difference: every artifact has the same bytes ("+strings.Join(places, ", ")+").")
	} else if len(places) > 0 {
		lines = append(lines, "Images: "+strings.Join(places, ", ")+".")
	}
	for _, s := range c.Only {
		lines = append(lines, fmt.Sprintf("Image %s %s (%s).", s.place(), s.How, s.Version))
	}
	for _, p := range c.Images {
		for _, g := range p.NotCompared {
			lines = append(lines, fmt.Sprintf("Not compared: %s. Of %s: %s.", g.What, g.Image, g.Why))
		}
	}
	return lines
}

// extract takes the rows out that all images have.
func extract(chapters [][]section) []section {
	var shared []section
	for i := range chapters[0] {
		s := &chapters[0][i]
		if s.own {
			continue
		}
		common := section{title: s.title, columns: s.columns}
		for _, row := range s.rows {
			everywhere := !slices.ContainsFunc(chapters[1:], func(other []section) bool { return other[i].index(row) < 0 })
			if everywhere {
				common.rows = append(common.rows, row)
			}
		}
		for _, row := range common.rows {
			for _, sections := range chapters {
				at := sections[i].index(row)
				sections[i].rows = slices.Delete(sections[i].rows, at, at+1)
			}
		}
		shared = append(shared, common)
	}
	return filled(shared)
}

func (s *section) index(row []string) int {
	return slices.IndexFunc(s.rows, func(r []string) bool { return slices.Equal(r, row) })
}

func filled(sections []section) []section {
	return slices.DeleteFunc(sections, func(s section) bool { return len(s.rows) == 0 })
}

// shorten cuts long sections, and says so.
func shorten(sections []section) {
	for i := range sections {
		s := &sections[i]
		if over := len(s.rows) - limit; over > 1 {
			s.rows = append(s.rows[:limit:limit], []string{fmt.Sprintf("and %d more (slipway diff --all)", over)})
		}
	}
}

// sections are all of them, also empty ones: every image has the same. Go modules are told by their components, not by images.
func (p *Pair) sections(all bool, modules section) []section {
	kernel := section{title: "Kernel", columns: []string{"", "before", "now", "change"}}
	if p.Kernel != nil {
		kernel.rows = [][]string{changeRow(*p.Kernel)}
	}
	modules.rows = slices.Clone(modules.rows)
	return []section{
		kernel,
		table("Packages", "package", p.Packages),
		table("Components", "component", p.Components),
		modules,
		table("Container images", "container image", p.ContainerImages),
		table("Kernel arguments", "argument", p.Cmdline),
		table("Kernel configuration", "option", p.KernelConfig),
		p.kernelModuleSection(all),
		p.unitSection(),
		p.fileSection(all),
		p.modeSection(),
		p.sizeSection(all),
		p.originSection(all),
	}
}

func changeRow(c Change) []string {
	name := c.Name
	if c.Was != "" {
		name += " (was " + c.Was + ")"
	}
	return []string{name, c.Before, c.After, c.How}
}

func table(title, what string, list []Change) section {
	s := section{title: title, columns: []string{what, "before", "now", "change"}}
	for _, c := range list {
		s.rows = append(s.rows, changeRow(c))
	}
	return s
}

// moduleSection leaves out modules of components that are there only before or after: the component says that.
func moduleSection(pairs []Pair) section {
	s := section{title: "Go modules", columns: []string{"module", "before", "now", "change", "in"}}
	in := map[Change]map[string]bool{}
	for _, p := range pairs {
		alone := map[string]bool{}
		for _, c := range p.Components {
			alone[c.Name] = c.How == Added || c.How == Removed
		}
		for _, m := range p.GoModules {
			for _, name := range m.Components {
				if alone[name] {
					continue
				}
				if in[m.Change] == nil {
					in[m.Change] = map[string]bool{}
				}
				in[m.Change][name] = true
			}
		}
	}
	for c, components := range in {
		s.rows = append(s.rows, append(changeRow(c), strings.Join(sortedKeys(components), ", ")))
	}
	slices.SortFunc(s.rows, slices.Compare)
	return s
}

// kernelModuleSection names modules that came and went. With another kernel all others differ, which needs no list.
func (p *Pair) kernelModuleSection(all bool) section {
	s := section{title: "Kernel modules", columns: []string{"module", "change", "in"}}
	rebuilt := map[string]int{}
	for _, m := range p.KernelModules {
		if m.How == Changed && p.Kernel != nil && !all {
			rebuilt[m.In]++
			continue
		}
		s.rows = append(s.rows, []string{m.Path, m.How, m.In})
	}
	for _, in := range sortedKeys(rebuilt) {
		s.rows = append(s.rows, []string{plural(rebuilt[in], "other"), "of the new kernel", in})
	}
	return s
}

func (p *Pair) unitSection() section {
	s := section{title: "Units", columns: []string{"unit", "change", ""}}
	for _, u := range p.Units {
		s.rows = append(s.rows, []string{u.Name, u.How, u.Detail})
	}
	return s
}

// fileSection names files of the role and of the image's own. Those of packages, components and indexes are counted, unless
// all are asked for.
func (p *Pair) fileSection(all bool) section {
	s := section{title: "Files", columns: []string{"file", "change", "from"}}
	type group struct{ origin, in, how string }
	counts := map[group]int{}
	for _, f := range p.Files {
		origin := f.Origin
		if strings.HasPrefix(origin, "role ") {
			origin = "role" // so that roles can have it in common
		}
		switch {
		case all || !f.folder() && (origin == "role" || strings.HasSuffix(origin, " own base")):
			s.rows = append(s.rows, []string{inPlace(f.In, f.Path), f.How, origin})
		case !f.folder():
			counts[group{origin, f.In, f.How}]++
		}
	}
	var counted [][]string
	for g, n := range counts {
		counted = append(counted, []string{inPlace(g.in, plural(n, "file")), g.how, g.origin})
	}
	slices.SortFunc(counted, func(a, b []string) int {
		return cmp.Or(strings.Compare(a[2], b[2]), strings.Compare(a[1], b[1]), strings.Compare(a[0], b[0]))
	})
	s.rows = append(s.rows, counted...)
	return s
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// inPlace says where something lies, if it isn't the root image.
func inPlace(in, what string) string {
	if in == InRoot {
		return what
	}
	return in + ": " + what
}

// folder: folders that come and go are told by what is in them.
func (f File) folder() bool {
	return f.How != Changed && (f.Before != nil && f.Before.Type == "directory" || f.After != nil && f.After.Type == "directory")
}

func (p *Pair) modeSection() section {
	s := section{title: "Modes and owners", columns: []string{"file", "before", "now"}}
	for _, m := range p.Modes {
		s.rows = append(s.rows, []string{inPlace(m.In, m.Path), m.Before, m.After})
	}
	return s
}

// boots tells kinds of artifacts that machines boot from those that tell about an image.
func boots(kind string) bool {
	kind, form, _ := strings.Cut(kind, ".")
	return "."+form != manifest.FormBlockMap && slices.Contains([]string{manifest.KindUKI, manifest.KindRoot, manifest.KindKernel, manifest.KindInitrd,
		manifest.KindBIOS, manifest.KindDisk, manifest.KindDisk4K, manifest.KindISO}, kind)
}

func (p *Pair) sizeSection(all bool) section {
	s := section{title: "Sizes", columns: []string{"artifact", "before", "now", "change"}, own: true}
	if !slices.ContainsFunc(p.Artifacts, func(a SizeOf) bool { return a.How != "" }) {
		return s
	}
	for _, a := range p.Artifacts {
		if all || boots(a.Name) {
			s.rows = append(s.rows, a.row())
		}
	}
	return s
}

// originSection is where the root image grew and shrank most.
func (p *Pair) originSection(all bool) section {
	s := section{title: "Compressed size in the root image", columns: []string{"from", "before", "now", "change"}}
	list := slices.Clone(p.Origins)
	slices.SortStableFunc(list, func(a, b SizeOf) int { return cmp.Compare(b.change(), a.change()) })
	for _, o := range list {
		if all || o.change() >= 50_000 {
			s.rows = append(s.rows, o.row())
		}
	}
	return s
}

func (s SizeOf) change() int64 { return max(s.After-s.Before, s.Before-s.After) }

func (s SizeOf) row() []string {
	before, after := megabytes(s.Before), megabytes(s.After)
	switch {
	case s.How == Added:
		return []string{s.Name, "", after, Added}
	case s.How == Removed:
		return []string{s.Name, before, "", Removed}
	case s.How == "":
		return []string{s.Name, before, after, "same bytes"}
	case s.After == s.Before:
		return []string{s.Name, before, after, "same size"}
	case s.Before == 0:
		return []string{s.Name, before, after, "+" + after}
	}
	sign := "+"
	if s.After < s.Before {
		sign = "-"
	}
	return []string{s.Name, before, after, fmt.Sprintf("%s%s (%+.1f %%)", sign, megabytes(s.change()), 100*float64(s.After-s.Before)/float64(s.Before))}
}

// megabytes are bytes in words: 142.5 MB, 12 kB.
func megabytes(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1_000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}
