package complete

import (
	"strings"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// udevFolder is where programs of udev rules lie that are named without a path (udev(7)).
const udevFolder = "usr/lib/udev"

// checkUdev notes the programs of all udev rules (RUN, PROGRAM, IMPORT{program}) and the accounts that devices are given to.
func (c *checker) checkUdev() error {
	for _, e := range c.files([]string{".rules"}, "etc/udev/rules.d", "usr/local/lib/udev/rules.d", "usr/lib/udev/rules.d") {
		text, err := c.text(e)
		if err != nil {
			return err
		}
		for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", "")) {
			c.udevRule(e, udevTokens(line))
		}
	}
	return nil
}

func (c *checker) udevRule(e *rootfs.Entry, rule []udevToken) {
	for _, t := range rule { // a rule for who has a file that is not there is for nobody
		if t.key == "TEST" && t.operator == "==" && strings.HasPrefix(t.value, "/usr/") && !strings.ContainsAny(t.value, "$%*?[|") && !c.exists(t.value).ok() {
			return
		}
	}
	for _, t := range rule {
		switch t.key {
		case "RUN", "RUN{program}", "PROGRAM", "IMPORT{program}":
			words := splitWords(t.value)
			if len(words) == 0 || strings.ContainsAny(words[0], "$%") {
				continue
			}
			c.refer(Program, e, t.key+" runs", words[0], program(c.Root, words[0], []string{udevFolder}))
		case "OWNER":
			c.account(e, "OWNER names", t.value, c.users)
		case "GROUP":
			c.account(e, "GROUP names", t.value, c.groups)
		}
	}
}

// udevToken is one part of a rule: KEY OPERATOR "VALUE", the key with its attribute, IMPORT{program}.
type udevToken struct{ key, operator, value string }

// udevTokens takes a line of a rules file apart (udev(7)). What is no rule has no tokens; a line that goes wrong has those before
// that place, as udevd would log and leave it.
func udevTokens(line string) []udevToken {
	var tokens []udevToken
	rest := strings.TrimSpace(line)
	if strings.HasPrefix(rest, "#") {
		return nil
	}
	for {
		rest = strings.TrimLeft(rest, ", \t")
		i := strings.IndexAny(rest, "=!+-:")
		if i <= 0 {
			return tokens
		}
		t := udevToken{key: strings.TrimSpace(rest[:i])}
		rest = rest[i:]
		n := len(rest) - len(strings.TrimLeft(rest, "=!+-:"))
		t.operator, rest = rest[:n], strings.TrimLeft(rest[n:], " \t")
		quoted, isQuoted := strings.CutPrefix(strings.TrimLeft(rest, "ei"), `"`) // e"..." has escapes, i"..." ignores case
		if !isQuoted {
			return tokens
		}
		value, after, ok := udevValue(quoted)
		if !ok {
			return tokens
		}
		t.value, rest = value, after
		tokens = append(tokens, t)
	}
}

// udevValue is what stands before the closing quote; a backslash takes the meaning of one away.
func udevValue(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			b.WriteByte('"')
			i++
		case s[i] == '"':
			return b.String(), s[i+1:], true
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", false
}
