package complete

import "strings"

// commandLine is one command of an Exec line.
type commandLine struct {
	program string
	ignored bool     // a minus before it: it may fail, and may be absent
	paths   []string // absolute paths among its arguments
}

// commandLines takes an Exec line apart (systemd.service(5), "Command lines"): prefixes, quotes, and a semicolon as a word between
// several commands.
func commandLines(value string) []commandLine {
	var lines []commandLine
	var words []string
	end := func() {
		if len(words) > 0 {
			lines = append(lines, newCommandLine(words))
		}
		words = nil
	}
	for _, w := range splitWords(value) {
		if w == ";" {
			end()
			continue
		}
		words = append(words, w)
	}
	end()
	return lines
}

func newCommandLine(words []string) commandLine {
	c := commandLine{program: strings.TrimLeft(words[0], "@-:+!|")}
	prefixes := words[0][:len(words[0])-len(c.program)]
	c.ignored = strings.Contains(prefixes, "-")
	arguments := words[1:]
	if strings.Contains(prefixes, "@") && len(arguments) > 0 {
		arguments = arguments[1:] // the program's name for itself
	}
	for _, a := range arguments {
		c.paths = append(c.paths, pathsIn(a)...)
	}
	return c
}

// pathsIn are the absolute paths that an argument names: itself, or the value of a flag, or a list of them.
func pathsIn(argument string) []string {
	if strings.HasPrefix(argument, "-") {
		_, argument, _ = strings.Cut(argument, "=")
	}
	var paths []string
	for word := range strings.FieldsFuncSeq(argument, func(r rune) bool { return r == ',' }) {
		if !strings.HasPrefix(word, "/") || strings.ContainsAny(word, "%$*?") {
			continue
		}
		if word != "/" && !strings.Contains(word, ":") { // with colons it is a search path, of which some may be absent
			paths = append(paths, word)
		}
	}
	return paths
}

// splitWords splits at white space outside of quotes, which go; a backslash keeps what follows it as it is.
func splitWords(s string) []string {
	var words []string
	var word strings.Builder
	var quote rune
	begun, escaped := false, false
	for _, r := range s {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\':
			begun, escaped = true, true
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '"' || r == '\'':
			begun, quote = true, r
		case r == ' ' || r == '\t' || r == '\n':
			if begun {
				words = append(words, word.String())
			}
			begun = false
			word.Reset()
		default:
			begun = true
			word.WriteRune(r)
		}
	}
	if begun {
		words = append(words, word.String())
	}
	return words
}
