package deb

import (
	"fmt"
	"slices"
	"strings"
)

// Relation is one "name:qualifier (op version) [arch]" of a relationship field (policy 7.1).
type Relation struct {
	Name      string
	Qualifier string   // after the colon: any, native or an architecture; "" mostly
	Op        string   // <<, <=, =, >=, >>; "" for any version
	Version   Version  // if Op is not ""
	Arches    []string // restriction to (amd64) or away from (!amd64) architectures; empty for all
}

// Clause is a list of alternatives: any one of them satisfies it.
type Clause []Relation

// maxRelations bounds one field: Provides of some packages have a few thousand.
const maxRelations = 20_000

// ParseRelations reads a relationship field: clauses by comma, alternatives by bar. Empty clauses are skipped, as dpkg
// does. Errors quote the part that is wrong.
func ParseRelations(s string) ([]Clause, error) {
	var clauses []Clause
	count := 0
	for s != "" {
		var part string
		part, s, _ = strings.Cut(s, ",")
		if strings.TrimSpace(part) == "" {
			continue
		}
		var clause Clause
		for one := range strings.SplitSeq(part, "|") {
			if count++; count > maxRelations {
				return nil, fmt.Errorf("more than %d relations", maxRelations)
			}
			r, err := parseRelation(strings.TrimSpace(one))
			if err != nil {
				return nil, fmt.Errorf("bad relation %.100q: %w", one, err)
			}
			clause = append(clause, r)
		}
		clauses = append(clauses, clause)
	}
	return clauses, nil
}

func parseRelation(s string) (Relation, error) {
	var r Relation
	n := strings.IndexAny(s, " \t\n([")
	if n < 0 {
		n = len(s)
	}
	r.Name, r.Qualifier, _ = strings.Cut(s[:n], ":")
	if !ValidName(r.Name) {
		return r, fmt.Errorf("%.60q is not a package name", r.Name)
	}
	rest, err := r.parseVersion(strings.TrimSpace(s[n:]))
	if err != nil || rest == "" {
		return r, err
	}
	return r, r.parseArches(rest)
}

// ValidName tells whether s may be a package's name (policy 5.6.1; upper case is let through, as in dpkg).
func ValidName(s string) bool {
	if s == "" || len(s) > 256 || !(isDigit(s[0]) || isLetter(s[0])) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(isDigit(c) || isLetter(c) || c == '+' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return true
}

// parseVersion reads "(op version)" if s begins with it and returns what follows.
func (r *Relation) parseVersion(s string) (string, error) {
	if !strings.HasPrefix(s, "(") {
		return s, nil
	}
	inner, rest, ok := strings.Cut(s[1:], ")")
	if !ok {
		return "", fmt.Errorf("no closing bracket")
	}
	inner = strings.TrimSpace(inner)
	n := 0
	for n < len(inner) && strings.IndexByte("<>=", inner[n]) >= 0 {
		n++
	}
	switch r.Op = inner[:n]; r.Op {
	case "<<", "<=", "=", ">=", ">>":
	case "<": // obsolete spellings of <= and >= (policy 7.1)
		r.Op = "<="
	case ">":
		r.Op = ">="
	default:
		return "", fmt.Errorf("%q is not a version operator", r.Op)
	}
	var err error
	r.Version, err = ParseVersion(strings.TrimSpace(inner[n:]))
	return strings.TrimSpace(rest), err
}

// parseArches reads "[arch ...]".
func (r *Relation) parseArches(s string) error {
	inner, ok := strings.CutPrefix(s, "[")
	inner, ends := strings.CutSuffix(inner, "]")
	if !ok || !ends {
		return fmt.Errorf("%.60q after the name is neither a version nor an architecture list", s)
	}
	r.Arches = strings.Fields(inner)
	negated := 0
	for _, a := range r.Arches {
		name, not := strings.CutPrefix(a, "!")
		if !ValidName(name) {
			return fmt.Errorf("%q is not an architecture", a)
		}
		if not {
			negated++
		}
	}
	if len(r.Arches) == 0 || negated != 0 && negated != len(r.Arches) {
		return fmt.Errorf("bad architecture list [%s]", inner)
	}
	return nil
}

// AppliesTo tells whether the relation counts on an architecture.
func (r Relation) AppliesTo(arch string) bool {
	if len(r.Arches) == 0 {
		return true
	}
	if strings.HasPrefix(r.Arches[0], "!") {
		return !slices.Contains(r.Arches, "!"+arch)
	}
	return slices.Contains(r.Arches, arch)
}

// Allows tells whether a version satisfies the relation.
func (r Relation) Allows(v Version) bool {
	if r.Op == "" {
		return true
	}
	c := v.Compare(r.Version)
	switch r.Op {
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	default:
		return c > 0
	}
}

// String is the relation as a control file writes it.
func (r Relation) String() string {
	s := r.Name
	if r.Qualifier != "" {
		s += ":" + r.Qualifier
	}
	if r.Op != "" {
		s += " (" + r.Op + " " + r.Version.String() + ")"
	}
	if len(r.Arches) > 0 {
		s += " [" + strings.Join(r.Arches, " ") + "]"
	}
	return s
}

// String is the clause with its alternatives.
func (c Clause) String() string {
	var parts []string
	for _, r := range c {
		parts = append(parts, r.String())
	}
	return strings.Join(parts, " | ")
}
