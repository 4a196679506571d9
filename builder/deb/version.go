package deb

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Version is [epoch:]upstream[-revision] (policy 5.6.12).
type Version struct {
	Epoch              uint32
	Upstream, Revision string // Revision is "" when there is none, which sorts as "0"
}

// maxVersion bounds a version's length in bytes.
const maxVersion = 512

// ParseVersion reads a version as dpkg does. It accepts what archives hold: an upstream version need not begin with a
// digit.
func ParseVersion(s string) (Version, error) {
	var v Version
	if len(s) > maxVersion {
		return v, fmt.Errorf("bad version: %d bytes", len(s))
	}
	rest := s
	if epoch, after, ok := strings.Cut(s, ":"); ok {
		n, err := strconv.ParseUint(epoch, 10, 31)
		if err != nil {
			return v, fmt.Errorf("bad version %q: the epoch is not a number", s)
		}
		v.Epoch, rest = uint32(n), after
	}
	v.Upstream = rest
	if i := strings.LastIndexByte(rest, '-'); i >= 0 {
		v.Upstream, v.Revision = rest[:i], rest[i+1:]
		if v.Revision == "" {
			return v, fmt.Errorf("bad version %q: the revision is empty", s)
		}
	}
	if v.Upstream == "" {
		return v, fmt.Errorf("bad version %q: no upstream version", s)
	}
	if strings.ContainsFunc(v.Upstream, notIn("-:")) || strings.ContainsFunc(v.Revision, notIn("")) {
		return v, fmt.Errorf("bad version %q: only letters, digits and . + ~ - : may be in it", s)
	}
	return v, nil
}

func notIn(more string) func(rune) bool {
	return func(c rune) bool {
		return !(c >= '0' && c <= '9' || isLetter(byte(min(c, 127)))) && !strings.ContainsRune(".+~"+more, c)
	}
}

// String is the version as it is written.
func (v Version) String() string {
	s := v.Upstream
	if v.Epoch > 0 {
		s = strconv.FormatUint(uint64(v.Epoch), 10) + ":" + s
	}
	if v.Revision != "" {
		s += "-" + v.Revision
	}
	return s
}

// Compare is -1, 0 or +1 as v is before, the same as or after w.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Epoch, w.Epoch), compareParts(v.Upstream, w.Upstream), compareParts(v.Revision, w.Revision))
}

// compareParts compares non-digit and digit runs in turn, as policy 5.6.12 says: "~" before the end before letters
// before the rest, numbers by value.
func compareParts(a, b string) int {
	for a != "" || b != "" {
		for a != "" && !isDigit(a[0]) || b != "" && !isDigit(b[0]) {
			if c := cmp.Compare(weight(a), weight(b)); c != 0 {
				return c
			}
			a, b = a[1:], b[1:]
		}
		var x, y string
		x, a = digits(a)
		y, b = digits(b)
		if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
			return c
		}
	}
	return 0
}

// weight orders the first byte of s: "~", end or digit, letters, the rest.
func weight(s string) int {
	switch {
	case s == "" || isDigit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case isLetter(s[0]):
		return int(s[0])
	default:
		return int(s[0]) + 256
	}
}

// digits takes the leading number off s, without its leading zeros.
func digits(s string) (number, rest string) {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	return strings.TrimLeft(s[:n], "0"), s[n:]
}

func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
