package complete

import (
	"strings"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// runtimeFolders are filled at boot, by the kernel and by systemd.
var runtimeFolders = []string{"dev", "proc", "run", "sys", "tmp"}

// checkLinks follows every symbolic link of every tree.
func (c *checker) checkLinks() error {
	for _, p := range c.places() {
		for _, e := range p.tree.All() {
			if e.Type != rootfs.Symlink {
				continue
			}
			c.note(Reference{Kind: Link, Where: p.name, From: e.Path, Origin: e.Origin, How: "is a link to", To: e.Link}, c.link(p, e))
		}
	}
	return nil
}

func (c *checker) link(p place, e *rootfs.Entry) verdict {
	to, err := p.tree.Follow(e.Path)
	if err != nil {
		return verdict{"leads back to itself", advice}
	}
	if _, ok := p.tree.Resolve(to); ok || to == "" || below(to, runtimeFolders) || p.name == "" && c.atBoot("/"+to) {
		return verdict{}
	}
	return missing(advice)
}

func below(p string, folders []string) bool {
	for _, f := range folders {
		if p == f || strings.HasPrefix(p, f+"/") {
			return true
		}
	}
	return false
}
