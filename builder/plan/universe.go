package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/builder/deb"
)

// universe is every package the archives offer: per name the highest version.
type universe struct {
	arch     string
	packages map[string]*candidate
	provided map[string][]provider // by virtual name, sorted by provider
	prefer   map[string]bool       // taken before other alternatives, if any; may be nil
}

// candidate is a package that may be chosen. Its relations are parsed when it is looked at.
type candidate struct {
	archive.Package
	version deb.Version
}

// provider is a package that provides a name, with a version or without.
type provider struct {
	by      *candidate
	version *deb.Version
}

// newUniverse takes the highest version of each name; of equal versions the one that comes first.
func newUniverse(arch string, packages []archive.Package) (*universe, error) {
	u := &universe{arch: arch, packages: make(map[string]*candidate, len(packages)), provided: map[string][]provider{}}
	for _, p := range packages {
		v, err := deb.ParseVersion(p.Version)
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", p.Name, err)
		}
		if known := u.packages[p.Name]; known == nil || v.Compare(known.version) > 0 {
			u.packages[p.Name] = &candidate{p, v}
		}
	}
	for _, c := range u.packages {
		if err := u.addProvides(c); err != nil {
			return nil, err
		}
	}
	for _, list := range u.provided {
		slices.SortFunc(list, func(a, b provider) int { return strings.Compare(a.by.Name, b.by.Name) })
	}
	return u, nil
}

// put puts a package in the place of the one of its name.
func (u *universe) put(p archive.Package) error {
	v, err := deb.ParseVersion(p.Version)
	if err != nil {
		return fmt.Errorf("package %s: %w", p.Name, err)
	}
	if old := u.packages[p.Name]; old != nil {
		provides, err := old.provides()
		if err != nil {
			return err
		}
		for _, r := range provides {
			u.provided[r.Name] = slices.DeleteFunc(u.provided[r.Name], func(p provider) bool { return p.by == old })
		}
	}
	c := &candidate{p, v}
	u.packages[p.Name] = c
	if err := u.addProvides(c); err != nil {
		return err
	}
	provides, err := c.provides()
	for _, r := range provides {
		slices.SortFunc(u.provided[r.Name], func(a, b provider) int { return strings.Compare(a.by.Name, b.by.Name) })
	}
	return err
}

func (u *universe) addProvides(c *candidate) error {
	provides, err := c.provides()
	if err != nil {
		return err
	}
	for _, r := range provides {
		p := provider{by: c}
		if r.Op == "=" {
			p.version = &r.Version
		}
		u.provided[r.Name] = append(u.provided[r.Name], p)
	}
	return nil
}

// provides is the names that c provides.
func (c *candidate) provides() ([]deb.Relation, error) {
	clauses, err := c.relations("Provides", c.Provides)
	if err != nil {
		return nil, err
	}
	var all []deb.Relation
	for _, clause := range clauses {
		all = append(all, clause...)
	}
	return all, nil
}

func (c *candidate) relations(field, text string) ([]deb.Clause, error) {
	clauses, err := deb.ParseRelations(text)
	if err != nil {
		return nil, fmt.Errorf("package %s: %s: %w", c.Name, field, err)
	}
	return clauses, nil
}

// depends is what c needs: Pre-Depends, then Depends.
func (c *candidate) depends() ([]deb.Clause, error) {
	before, err := c.relations("Pre-Depends", c.PreDepends)
	if err != nil {
		return nil, err
	}
	after, err := c.relations("Depends", c.Depends)
	return append(before, after...), err
}

// satisfiers is the packages that satisfy a relation: the one of that name first, then those that provide it, by name
// (policy 7.5: a versioned relation is satisfied only by a versioned Provides).
func (u *universe) satisfiers(r deb.Relation) []*candidate {
	if !u.forArch(r) {
		return nil
	}
	var list []*candidate
	if c := u.packages[r.Name]; c != nil && r.Allows(c.version) {
		list = append(list, c)
	}
	for _, p := range u.provided[r.Name] {
		if p.by.Name != r.Name && (r.Op == "" || p.version != nil && r.Allows(*p.version)) {
			list = append(list, p.by)
		}
	}
	return list
}

// forArch: one architecture only is ever installed, so "any" is as good as none.
func (u *universe) forArch(r deb.Relation) bool {
	return r.Qualifier == "" || r.Qualifier == "any" || r.Qualifier == "native" || r.Qualifier == u.arch
}
