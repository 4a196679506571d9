// Package version knows the versions of images: semantic versioning 2.0.0 (semver.org), build metadata included, and in
// what order they come. A version names files, on FAT too, so it has lower-case letters only.
package version

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/semver"
)

// MaxLength bounds a version in bytes. It is part of file names (255 bytes) and an OCI tag (128).
const MaxLength = 100

// Check says what is wrong with a version.
func Check(v string) error {
	switch {
	case len(v) > MaxLength:
		return fmt.Errorf("a version of %d bytes is over the limit of %d", len(v), MaxLength)
	case !semver.IsValid("v"+v) || semver.Canonical("v"+v)+semver.Build("v"+v) != "v"+v: // v1 and v1.2 are valid there
		return fmt.Errorf("%q is not a semantic version", v)
	case v != strings.ToLower(v):
		return fmt.Errorf("%q is not a semantic version in lower case", v)
	}
	return nil
}

// WithBuild is a version with build metadata, such as 0.1.0 with ci.57: 0.1.0+ci.57. A version that has some gets more.
func WithBuild(v, build string) (string, error) {
	if build == "" {
		return "", errors.New("the build metadata is empty")
	}
	separator := "+"
	if semver.Build("v"+v) != "" {
		separator = "."
	}
	v += separator + build
	return v, Check(v)
}

// Precedence compares two valid versions as semantic versioning 2.0.0 orders them (section 11): -1, 0 or 1. Build
// metadata does not count: 0 says only that neither comes before the other.
func Precedence(a, b string) int { return semver.Compare("v"+a, "v"+b) }

// Compare is Precedence, and where that tells none apart, their build metadata: no build metadata first, then identifier
// by identifier as in section 11.4, numbers by value. Different versions are never the same in this order.
func Compare(a, b string) int {
	if c := Precedence(a, b); c != 0 {
		return c
	}
	x, y := semver.Build("v"+a), semver.Build("v"+b)
	if x == "" || y == "" {
		return strings.Compare(x, y)
	}
	return compareBuild(strings.Split(x[1:], "."), strings.Split(y[1:], "."))
}

func compareBuild(a, b []string) int {
	for i := range min(len(a), len(b)) {
		if c := compareIdentifier(a[i], b[i]); c != 0 {
			return c
		}
	}
	return len(a) - len(b)
}

// compareIdentifier: numbers come before words. Leading zeros are allowed in build metadata, and 07 is not 7.
func compareIdentifier(a, b string) int {
	x, y := strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	switch m, n := number(a), number(b); {
	case m && !n:
		return -1
	case n && !m:
		return 1
	case m && n && len(x) != len(y):
		return len(x) - len(y)
	case m && n && x != y:
		return strings.Compare(x, y)
	}
	return strings.Compare(a, b)
}

func number(s string) bool { return strings.Trim(s, "0123456789") == "" }
