package plan

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/slipway-os/slipway/builder/deb"
)

// closure is a set of packages that need nothing else, but for what was left out on purpose.
type closure struct {
	chosen  map[string]*candidate
	omitted map[string][]string // what was left out, and who depends on it, sorted
}

// resolver builds a closure. What leaves no choice is taken first; alternatives are settled one at a time, in order of
// the package that asks, and only when nothing chosen so far satisfies them. The result depends on nothing but the input.
type resolver struct {
	*universe
	closure
	omit  map[string]bool
	queue []*candidate
	open  []question
}

// question is a clause with more than one answer.
type question struct {
	asker  *candidate
	clause deb.Clause
}

// resolve is the closure of the asked packages.
func (u *universe) resolve(asked, omit []string) (*closure, error) {
	r := &resolver{universe: u, omit: map[string]bool{}}
	r.chosen, r.omitted = map[string]*candidate{}, map[string][]string{}
	for _, name := range omit {
		r.omit[name] = true
	}
	for _, name := range slices.Sorted(slices.Values(asked)) {
		c := u.packages[name]
		if c == nil {
			return nil, fmt.Errorf("package %s is in none of the archives%s", name, u.hint(name))
		}
		r.choose(c)
	}
	if err := r.run(); err != nil {
		return nil, err
	}
	for name, by := range r.omitted {
		slices.Sort(by)
		r.omitted[name] = slices.Compact(by)
	}
	return &r.closure, r.conflicts()
}

func (u *universe) hint(name string) string {
	var by []string
	for _, p := range u.provided[name] {
		by = append(by, p.by.Name)
	}
	if len(by) == 0 {
		return ""
	}
	return ": it is a virtual package; choose one of " + strings.Join(by, ", ")
}

func (r *resolver) choose(c *candidate) {
	if r.chosen[c.Name] == nil {
		r.chosen[c.Name] = c
		r.queue = append(r.queue, c)
	}
}

func (r *resolver) run() error {
	for {
		if err := r.drain(); err != nil {
			return err
		}
		if len(r.open) == 0 {
			return nil
		}
		sort.SliceStable(r.open, func(i, j int) bool { return r.open[i].asker.Name < r.open[j].asker.Name })
		next := r.open[0]
		r.open = r.open[1:]
		if err := r.settle(next, true); err != nil {
			return err
		}
	}
}

// drain takes everything that leaves no choice.
func (r *resolver) drain() error {
	for len(r.queue) > 0 {
		c := r.queue[0]
		r.queue = r.queue[1:]
		clauses, err := c.depends()
		if err != nil {
			return err
		}
		for _, clause := range clauses {
			if err := r.settle(question{c, clause}, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle answers a question: by what is chosen already, by leaving it out, by the only answer; where there are several,
// it puts the question off, or, if it is to decide, takes the first that exists.
func (r *resolver) settle(q question, decide bool) error {
	var answers []*candidate
	for _, rel := range q.clause {
		if !rel.AppliesTo(r.arch) {
			continue
		}
		found := r.preferred(r.satisfiers(rel))
		if slices.ContainsFunc(found, func(c *candidate) bool { return r.chosen[c.Name] == c }) {
			return nil
		}
		if len(found) > 1 && found[0].Name != rel.Name && len(answers) == 0 && decide {
			return r.ambiguous(q, rel, found)
		}
		answers = append(answers, found...)
	}
	if name := r.leftOut(q.clause, answers); name != "" {
		r.omitted[name] = append(r.omitted[name], q.asker.Name)
		return nil
	}
	switch {
	case len(answers) == 0:
		return r.unsatisfied(q)
	case len(answers) == 1 || decide:
		r.choose(r.preferred(answers)[0])
	default:
		r.open = append(r.open, q)
	}
	return nil
}

// preferred is those of several answers that are preferred, or all where none is.
func (r *resolver) preferred(answers []*candidate) []*candidate {
	var list []*candidate
	for _, c := range answers {
		if r.prefer[c.Name] {
			list = append(list, c)
		}
	}
	if len(list) == 0 {
		return answers
	}
	return list
}

// leftOut is the omitted package that a clause asks for. It counts as satisfied: another alternative is not taken in
// place of what was left out on purpose.
func (r *resolver) leftOut(clause deb.Clause, answers []*candidate) string {
	for _, rel := range clause {
		if r.omit[rel.Name] {
			return rel.Name
		}
	}
	for _, c := range answers {
		if r.omit[c.Name] {
			return c.Name
		}
	}
	return ""
}

func (r *resolver) ambiguous(q question, rel deb.Relation, found []*candidate) error {
	var names []string
	for _, c := range found {
		names = append(names, c.Name)
	}
	return fmt.Errorf("package %s needs %s, which several provide: add one of %s to the packages", q.asker.Name, rel, strings.Join(names, ", "))
}

func (r *resolver) unsatisfied(q question) error {
	applies := slices.ContainsFunc(q.clause, func(rel deb.Relation) bool { return rel.AppliesTo(r.arch) })
	if !applies {
		return nil
	}
	var have []string
	for _, rel := range q.clause {
		if c := r.packages[rel.Name]; c != nil {
			have = append(have, c.Name+" "+c.Version)
		}
	}
	there := "nothing of that name"
	if len(have) > 0 {
		there = strings.Join(have, ", ")
	}
	return &unmetError{q.asker, q.clause, there}
}

// unmetError: a package needs what is not there.
type unmetError struct {
	asker  *candidate
	clause deb.Clause
	there  string // what there is instead
}

func (e *unmetError) Error() string {
	return fmt.Sprintf("package %s %s needs %s; the archives have %s", e.asker.Name, e.asker.Version, e.clause, e.there)
}

// clashError: two packages exclude each other.
type clashError struct {
	one, other *candidate
	field      string // of one: Conflicts, Breaks
	clause     deb.Clause
}

func (e *clashError) Error() string {
	return fmt.Sprintf("package %s %s cannot be with %s %s (%s: %s)", e.one.Name, e.one.Version, e.other.Name, e.other.Version, e.field, e.clause)
}

// conflicts checks that no two chosen packages exclude each other (policy 7.3, 7.4).
func (r *resolver) conflicts() error {
	for _, name := range slices.Sorted(maps.Keys(r.chosen)) {
		c := r.chosen[name]
		for _, field := range []struct{ name, text string }{{"Conflicts", c.Conflicts}, {"Breaks", c.Breaks}} {
			clauses, err := c.relations(field.name, field.text)
			if err != nil {
				return err
			}
			for _, clause := range clauses {
				if other := r.excluded(c, clause); other != nil {
					return &clashError{c, other, field.name, clause}
				}
			}
		}
	}
	return nil
}

// excluded is a chosen package other than c that a clause of Conflicts or Breaks matches.
func (r *resolver) excluded(c *candidate, clause deb.Clause) *candidate {
	for _, rel := range clause {
		if !rel.AppliesTo(r.arch) {
			continue
		}
		for _, other := range r.satisfiers(rel) {
			if other != c && r.chosen[other.Name] == other {
				return other
			}
		}
	}
	return nil
}
