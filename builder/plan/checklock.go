package plan

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/builder/deb"
	"github.com/slipway-os/slipway/images/document"
)

// lockChecker finds what a plan could not be made from, and what `slipway lock` would never have written.
type lockChecker struct {
	text *strict
	path string // architectures.amd64
	arch string
	lock *ArchLock
}

func (c *lockChecker) fault(below, format string, args ...any) error {
	path := c.path
	if below != "" {
		path += "." + below
	}
	return c.text.fault(path, fmt.Errorf(format, args...))
}

func (c *lockChecker) check() error {
	if c.lock == nil {
		return c.fault("", "the architecture is empty")
	}
	for _, check := range []func() error{c.packages, c.names, c.archives, c.images, c.complete} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c *lockChecker) packages() error {
	list := c.lock.Packages
	for i, p := range list {
		at := document.Index("packages", i)
		if err := p.check(c.arch); err != nil {
			return c.fault(at, "package %q: %w", p.Name, err)
		}
		switch {
		case i > 0 && list[i-1].Name == p.Name:
			return c.fault(at, "package %q is there twice", p.Name)
		case i > 0 && list[i-1].Name > p.Name:
			return c.fault(at, "package %q is not in order", p.Name)
		}
	}
	return nil
}

// names checks that every package that is named is there, and that every one that is there is named.
func (c *lockChecker) names() error {
	l := c.lock
	used := map[string]bool{l.Kernel: true}
	if _, ok := l.find(l.Kernel); !ok {
		return c.fault("kernel", "kernel %q is not among the packages", l.Kernel)
	}
	for _, role := range slices.Sorted(maps.Keys(l.Roles)) {
		if err := c.list(document.Key("roles", role), l.Roles[role], used); err != nil {
			return err
		}
	}
	if err := c.list("tools", l.Tools, used); err != nil {
		return err
	}
	if err := c.list("libraries", l.Libraries, used); err != nil {
		return err
	}
	for i, p := range l.Packages {
		if !used[p.Name] {
			return c.fault(document.Index("packages", i), "package %q is of no role, no tool and no library", p.Name)
		}
		if _, ok := l.Relations[p.Name]; len(l.Relations) > 0 && !ok {
			return c.fault("relations", "package %q is not there", p.Name)
		}
	}
	return nil
}

func (c *lockChecker) list(path string, names []string, used map[string]bool) error {
	for i, name := range names {
		if _, ok := c.lock.find(name); !ok {
			return c.fault(document.Index(path, i), "%q is not among the packages", name)
		}
		used[name] = true
	}
	return nil
}

func (c *lockChecker) archives() error {
	if len(c.lock.Archives) == 0 {
		return c.fault("archives", "no archives")
	}
	for i, a := range c.lock.Archives {
		if _, err := time.Parse(time.RFC3339, a.Date); err != nil {
			return c.fault(document.Index("archives", i)+".date", "archive %s %s: %w", a.Name, a.Suite, err)
		}
	}
	return nil
}

var imageDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func (c *lockChecker) images() error {
	for _, name := range slices.Sorted(maps.Keys(c.lock.Images)) {
		if i := c.lock.Images[name]; !imageDigest.MatchString(i.Digest) || i.Size <= 0 {
			return c.fault(document.Key("containerImages", name), "bad digest %q or size %d", i.Digest, i.Size)
		}
	}
	return nil
}

// complete checks that each role's packages need nothing that isn't there, by what the lock says of their relations.
func (c *lockChecker) complete() error {
	if len(c.lock.Relations) == 0 {
		return nil
	}
	u, err := c.lock.universe(c.arch)
	if err != nil {
		return c.fault("relations", "%w", err)
	}
	for _, role := range slices.Sorted(maps.Keys(c.lock.Roles)) {
		if err := c.lock.closed(u, c.lock.Roles[role]); err != nil {
			return c.fault(document.Key("roles", role), "%w", err)
		}
	}
	if err := c.lock.closed(u, c.lock.Tools); err != nil {
		return c.fault("tools", "%w", err)
	}
	if err := c.lock.closed(u, c.lock.Libraries); err != nil {
		return c.fault("libraries", "%w", err)
	}
	return nil
}

// universe is the lock's own packages.
func (l *ArchLock) universe(arch string) (*universe, error) {
	var list []archive.Package
	for _, p := range l.Packages {
		list = append(list, l.recorded(p))
	}
	return newUniverse(arch, list)
}

// recorded is a locked package as an archive would offer it.
func (l *ArchLock) recorded(p Package) archive.Package {
	r := l.Relations[p.Name]
	return archive.Package{
		Name: p.Name, Version: p.Version, Arch: p.Arch, File: archive.File{Path: p.Path, Size: p.Size, SHA256: p.SHA256},
		PreDepends: r.PreDepends, Depends: r.Depends, Conflicts: r.Conflicts, Breaks: r.Breaks, Provides: r.Provides,
	}
}

// closed checks that a set of packages needs only each other and what was left out.
func (l *ArchLock) closed(u *universe, names []string) error {
	for _, name := range names {
		c := u.packages[name]
		clauses, err := c.depends()
		if err != nil {
			return err
		}
		for _, clause := range clauses {
			if !l.answered(u, names, c, clause) {
				return fmt.Errorf("package %s %s needs %s, which is not there", c.Name, c.Version, clause)
			}
		}
	}
	return nil
}

func (l *ArchLock) answered(u *universe, names []string, asker *candidate, clause deb.Clause) bool {
	applies := false
	for _, rel := range clause {
		if !rel.AppliesTo(u.arch) {
			continue
		}
		applies = true
		if slices.Contains(l.Asked.Omit, rel.Name) {
			return true
		}
		if slices.ContainsFunc(u.satisfiers(rel), func(c *candidate) bool { return slices.Contains(names, c.Name) }) {
			return true
		}
	}
	return !applies || l.omittedFor(asker)
}

// omittedFor tells whether something that provides what a package asks for was left out under a name of its own. Who
// provided it is not in the lock.
func (l *ArchLock) omittedFor(asker *candidate) bool {
	for name, by := range l.Omitted {
		if slices.Contains(by, asker.Name) && !strings.Contains(asker.Depends+asker.PreDepends, name) {
			return true
		}
	}
	return false
}

func (p Package) check(arch string) error {
	if !deb.ValidName(p.Name) {
		return errors.New("bad name")
	}
	if _, err := deb.ParseVersion(p.Version); err != nil {
		return err
	}
	if p.Arch != arch && p.Arch != "all" {
		return fmt.Errorf("it is for architecture %q", p.Arch)
	}
	if b, err := hex.DecodeString(p.SHA256); err != nil || len(b) != 32 || strings.ToLower(p.SHA256) != p.SHA256 {
		return fmt.Errorf("bad sha256 %q", p.SHA256)
	}
	if p.Size <= 0 || !filepath.IsLocal(p.Path) || !strings.HasSuffix(p.Path, ".deb") {
		return fmt.Errorf("bad size %d or path %q", p.Size, p.Path)
	}
	return nil
}
