package modules

import "strings"

// match says if a modalias matches a pattern of modules.alias: fnmatch(3) with no flags, so that * matches anything,
// ? one byte and [a-f] one byte of a set. A pattern that can't be right matches nothing.
func match(pattern, s string) bool {
	// Only the last * needs to be tried again (as in Kernighan's and Cox's matchers): work is at most len(pattern)*len(s).
	star, from := -1, 0
	p, i := 0, 0
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			star, from = p, i
			p++
			continue
		}
		if n, ok := matchOne(pattern[p:], s[i]); ok {
			p += n
			i++
			continue
		}
		if star < 0 {
			return false
		}
		from++
		p, i = star+1, from
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchOne says if the first element of a pattern matches c, and how many bytes of pattern the element has.
func matchOne(pattern string, c byte) (int, bool) {
	if pattern == "" {
		return 0, false
	}
	switch pattern[0] {
	case '?':
		return 1, true
	case '[':
		return matchSet(pattern, c)
	case '\\':
		return 2, len(pattern) > 1 && pattern[1] == c
	}
	return 1, pattern[0] == c
}

func matchSet(pattern string, c byte) (int, bool) {
	end := strings.IndexByte(pattern, ']')
	if end < 0 {
		return 0, false
	}
	set := pattern[1:end]
	not := strings.HasPrefix(set, "!") || strings.HasPrefix(set, "^")
	if not {
		set = set[1:]
	}
	in := false
	for i := 0; i < len(set); i++ {
		lo, hi := set[i], set[i]
		if i+2 < len(set) && set[i+1] == '-' {
			hi = set[i+2]
			i += 2
		}
		in = in || lo <= c && c <= hi
	}
	return end + 1, in != not
}
