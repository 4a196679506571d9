package complete

import (
	"path"
	"strings"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// tmpfilesLine is a line of tmpfiles.d(5).
type tmpfilesLine struct {
	from                              *rootfs.Entry
	kind, path, user, group, argument string
}

// tmpfiles are the lines of all files in tmpfiles.d.
func (c *checker) tmpfiles() ([]tmpfilesLine, error) {
	var lines []tmpfilesLine
	for _, e := range c.files([]string{".conf"}, "etc/tmpfiles.d", "usr/local/lib/tmpfiles.d", "usr/lib/tmpfiles.d") {
		text, err := c.text(e)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(text) {
			w := splitWords(strings.TrimRight(line, "\r\n"))
			if len(w) < 2 || strings.HasPrefix(w[0], "#") || w[0] == "" {
				continue
			}
			w = append(w, "-", "-", "-", "-", "-")
			argument := w[6]
			if argument == "-" {
				argument = ""
			}
			lines = append(lines, tmpfilesLine{e, w[0], w[1], strings.TrimPrefix(w[3], ":"), strings.TrimPrefix(w[4], ":"), argument})
		}
	}
	return lines, nil
}

// checkTmpfiles notes accounts, and what links are made to. What is copied (C) may be absent.
func (c *checker) checkTmpfiles() error {
	lines, err := c.tmpfiles()
	if err != nil {
		return err
	}
	for _, l := range lines {
		c.account(l.from, l.path+" is for user", l.user, c.users)
		c.account(l.from, l.path+" is for group", l.group, c.groups)
		if l.kind[0] != 'L' || strings.Contains(l.kind, "?") || strings.ContainsAny(l.path+l.argument, "%*") {
			continue
		}
		to := l.argument
		if to == "" {
			to = "/usr/share/factory" + l.path
		}
		if !strings.HasPrefix(to, "/") {
			to = path.Join(path.Dir(l.path), to)
		}
		c.refer(Link, l.from, "makes "+l.path+", a link to", to, c.exists(to))
	}
	return nil
}

// checkSysusers compares sysusers.d(5) with the accounts there are, which were made at bake: at boot nobody makes any.
func (c *checker) checkSysusers() error {
	for _, e := range c.files([]string{".conf"}, "etc/sysusers.d", "usr/local/lib/sysusers.d", "usr/lib/sysusers.d") {
		text, err := c.text(e)
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			w := splitWords(strings.TrimSpace(line))
			if len(w) < 2 {
				continue
			}
			switch w[0] {
			case "u", "u!":
				c.account(e, "wants user", w[1], c.users)
			case "g":
				c.account(e, "wants group", w[1], c.groups)
			case "m":
				c.account(e, "wants user", w[1], c.users)
				if len(w) > 2 {
					c.account(e, "wants group", w[2], c.groups)
				}
			}
		}
	}
	return nil
}
