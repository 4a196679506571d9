package plan

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// stale compares what a lock was made from with what is asked of it now, for one role. The error wraps ErrStale and
// says what differs.
func stale(was, now Asked, role string) error {
	var changes []string
	if !reflect.DeepEqual(was.Archives, now.Archives) {
		changes = append(changes, "archives differ")
	}
	if was.Kernel != now.Kernel {
		changes = append(changes, fmt.Sprintf("kernel: %s -> %s", was.Kernel, now.Kernel))
	}
	changes = append(changes, listChanges("packages", was.Packages, now.Packages)...)
	changes = append(changes, listChanges("omit", was.Omit, now.Omit)...)
	changes = append(changes, listChanges("tools", was.Tools, now.Tools)...)
	changes = append(changes, listChanges("libraries", was.Libraries, now.Libraries)...)
	if _, known := was.Roles[role]; !known {
		changes = append(changes, fmt.Sprintf("role %s is new", role))
	} else {
		changes = append(changes, listChanges("packages of role "+role, was.Roles[role], now.Roles[role])...)
	}
	if len(changes) == 0 {
		return nil
	}
	return fmt.Errorf("%w: since it was written, %s; run `%s`", ErrStale, strings.Join(changes, "; "), LockCommand)
}

// listChanges is "packages: +foo -bar", or nothing.
func listChanges(name string, was, now []string) []string {
	var words []string
	for _, n := range now {
		if !slices.Contains(was, n) {
			words = append(words, "+"+n)
		}
	}
	for _, w := range was {
		if !slices.Contains(now, w) {
			words = append(words, "-"+w)
		}
	}
	if len(words) == 0 {
		return nil
	}
	return []string{name + ": " + strings.Join(words, " ")}
}

// Change is how one package moved from one lock to the next.
type Change struct {
	Arch, Name string
	Was, Now   string // versions; "" if it was not there, or is no longer
}

// String is a line for people: "libc6 2.41-12 -> 2.41-13".
func (c Change) String() string {
	switch {
	case c.Was == "":
		return "+ " + c.Name + " " + c.Now
	case c.Now == "":
		return "- " + c.Name + " " + c.Was
	default:
		return "  " + c.Name + " " + c.Was + " -> " + c.Now
	}
}

// Changes lists what moved between two locks, by architecture and name. The old one may be nil.
func Changes(was, now *Lock) []Change {
	var changes []Change
	versions := map[[2]string][2]string{}
	collect := func(l *Lock, i int) {
		if l == nil {
			return
		}
		for arch, a := range l.Architectures {
			for _, p := range a.Packages {
				v := versions[[2]string{arch, p.Name}]
				v[i] = p.Version
				versions[[2]string{arch, p.Name}] = v
			}
		}
	}
	collect(was, 0)
	collect(now, 1)
	for k, v := range versions {
		if v[0] != v[1] {
			changes = append(changes, Change{k[0], k[1], v[0], v[1]})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int {
		return strings.Compare(a.Arch+" "+a.Name, b.Arch+" "+b.Name)
	})
	return changes
}
