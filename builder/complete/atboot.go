package complete

import (
	"path"
	"strings"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// readMadeAtBoot gathers what tmpfiles.d(5) and units (systemd.exec(5), RuntimeDirectory= and its like) make.
func (c *checker) readMadeAtBoot() error {
	c.made = map[string]string{}
	lines, err := c.tmpfiles()
	if err != nil {
		return err
	}
	for _, l := range lines {
		if strings.ContainsAny(l.kind[:1], "fFdDvqQLCcbp") && !strings.ContainsAny(l.path, "%*?[") {
			c.make(l.path, "tmpfiles.d")
		}
	}
	for _, u := range c.system.all() {
		for key, top := range map[string]string{
			"RuntimeDirectory": "/run", "StateDirectory": "/var/lib", "CacheDirectory": "/var/cache", "LogsDirectory": "/var/log", "ConfigurationDirectory": "/etc",
		} {
			for _, o := range u.values("", key) {
				for _, name := range strings.Fields(o.value) {
					name, _, _ = strings.Cut(name, ":")
					if !strings.Contains(name, "%") {
						c.make(path.Join(top, name), u.name)
					}
				}
			}
		}
	}
	return nil
}

// make notes a path with the folders above it.
func (c *checker) make(p, by string) {
	for p = path.Clean(p); p != "/" && p != "."; p = path.Dir(p) {
		if c.made[p] == "" {
			c.made[p] = by
		}
	}
}

// atBoot says whether an absolute path is made at boot.
func (c *checker) atBoot(p string) bool {
	if c.made[p] != "" {
		return true
	}
	for _, a := range c.AtBoot {
		for _, made := range a.Paths {
			if p == strings.TrimSuffix(made, "/") || strings.HasSuffix(made, "/") && strings.HasPrefix(p, made) {
				return true
			}
		}
	}
	return false
}

// exists is the verdict on a file or folder that somebody reads in the running system. What lies in /run must be declared, for
// something has to make it; what the kernel has is there.
func (c *checker) exists(p string) verdict {
	p = path.Clean(p)
	to, err := c.Root.Follow(p)
	if err != nil {
		return verdict{"leads back to itself", advice}
	}
	if _, ok := c.Root.Resolve(to); ok || to == "" || below(to, []string{"dev", "proc", "sys", "tmp", "run/systemd", "run/udev"}) {
		return verdict{}
	}
	if c.atBoot(p) || c.atBoot("/"+to) {
		return verdict{}
	}
	return verdict{"is neither in the image nor known to be made at boot",
		"add it to the image (files of the role), or say under `atBoot` in role.yaml who makes it"}
}

// readAccounts reads the tree's passwd and group, which are what a node has: nothing adds accounts at boot.
func (c *checker) readAccounts() error {
	for _, list := range []struct {
		file string
		into *map[string]bool
	}{{"etc/passwd", &c.users}, {"etc/group", &c.groups}} {
		*list.into = map[string]bool{}
		text, err := c.Root.ReadFile(list.file)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			name, _, _ := strings.Cut(line, ":")
			(*list.into)[name] = true
		}
	}
	return nil
}

// account notes a reference to a user or group by name; numbers and names that are known only at boot are nobody's.
func (c *checker) account(from *rootfs.Entry, how, name string, known map[string]bool) {
	if name == "" || name == "-" || strings.ContainsAny(name, "%$") || strings.Trim(name, "0123456789") == "" {
		return
	}
	v := verdict{}
	if !known[name] {
		v = verdict{"is no account of the image", "accounts come from base-passwd and from files in usr/lib/sysusers.d: add one (role's files), or the package that brings it"}
	}
	c.refer(Account, from, how, name, v)
}
