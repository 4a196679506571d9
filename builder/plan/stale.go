package plan

import (
	"fmt"
	"maps"
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
	if was.Snapshot != now.Snapshot {
		changes = append(changes, fmt.Sprintf("snapshot: %q -> %q", was.Snapshot, now.Snapshot))
	}
	changes = append(changes, listChanges("container images", pairs(was.Images), pairs(now.Images))...)
	if len(changes) == 0 {
		return nil
	}
	return fmt.Errorf("%w: since it was written, %s; run `%s`", ErrStale, strings.Join(changes, "; "), LockCommand)
}

// pairs is a map as words.
func pairs(m map[string]string) []string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, k+"="+m[k])
	}
	return list
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
