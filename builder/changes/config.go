package changes

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
)

// MaxConfig bounds a kernel configuration in bytes.
const MaxConfig = 8 << 20

// ReadConfig reads a kernel's configuration (Linux, Documentation/kbuild/kconfig.rst): options without CONFIG_ and their
// values, n for those that are not set. A line that is neither an option nor a comment is an error.
func ReadConfig(data []byte) (map[string]string, error) {
	if len(data) > MaxConfig {
		return nil, fmt.Errorf("cannot read kernel configuration: %d bytes are over the limit of %d", len(data), MaxConfig)
	}
	options := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, MaxConfig+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		name, value, option := strings.Cut(line, "=")
		unset, off := strings.CutSuffix(line, " is not set")
		switch {
		case option && strings.HasPrefix(name, "CONFIG_") && !strings.ContainsAny(name, " \t"):
			options[strings.TrimPrefix(name, "CONFIG_")] = value
		case off && strings.HasPrefix(unset, "# CONFIG_"):
			options[strings.TrimPrefix(unset, "# CONFIG_")] = "n"
		case line != "" && line[0] != '#':
			return nil, fmt.Errorf("cannot read kernel configuration: line %d is no option: %.60q", n, line)
		}
	}
	return options, lines.Err()
}

// config compares options. Values keep their quotation marks: "" is a value too.
func config(a, b map[string]string) []Change {
	list := []Change{}
	for _, name := range bothKeys(a, b) {
		x, before := a[name]
		y, after := b[name]
		c := Change{Name: name, How: Changed, Before: x, After: y}
		switch {
		case before && after && x == y:
			continue
		case !before:
			c.How = Added
		case !after:
			c.How = Removed
		}
		list = append(list, c)
	}
	return list
}
