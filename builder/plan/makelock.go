package plan

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/builder/deb"
)

// LockInput is what MakeLock resolves.
type LockInput struct {
	Definition *Definition
	Roles      map[string][]string // the roles' own packages, by role
	Arch       string              // Go's name; Debian's is the same for amd64 and arm64
	Keys       fs.FS               // images/keys
	Source     *archive.Source
	Now        time.Time
	Progress   archive.Progress // of the package lists; may be nil
	Warn       func(string)     // may be nil

	Snapshot archive.Snapshot // the archives as they were then; empty: of today
	Only     []string         // patterns of packages that may move (path.Match), with those that must move with them; without any, all do
	Old      *ArchLock        // the lock that has the others; nil only without Only
}

// MakeLock resolves the packages of one architecture from the archives' signed indexes: of today, or of a snapshot.
func MakeLock(ctx context.Context, in LockInput) (*ArchLock, error) {
	in.Definition = in.Definition.For(in.Arch)
	if len(in.Only) > 0 {
		if err := checkPatterns(in.Only, in); err != nil {
			return nil, err
		}
	}
	in.Source = in.Source.At(in.Snapshot)
	lock := &ArchLock{Asked: asked(in.Definition, in.Roles)}
	var all []archive.Package
	for _, a := range in.Definition.Archives {
		release, packages, err := readSuite(ctx, in, a)
		if err != nil {
			return nil, err
		}
		lock.Archives = append(lock.Archives, release)
		all = append(all, packages...)
	}
	if in.Snapshot != "" {
		lock.Snapshots = []archive.Snapshot{in.Snapshot}
	}
	u, err := newUniverse(in.Arch, all)
	if err != nil {
		return nil, err
	}
	if err := lock.choose(u, all, in); err != nil {
		return nil, fmt.Errorf("cannot resolve packages for %s: %w", in.Arch, err)
	}
	return lock, nil
}

// choose fills the lock: with the newest of everything, or, with patterns of what shall move, with the rest as it was.
func (l *ArchLock) choose(u *universe, all []archive.Package, in LockInput) error {
	if len(in.Only) == 0 {
		return l.resolve(u, in, nil)
	}
	k, err := newKeeper(u, all, in)
	if err != nil {
		return err
	}
	if err := k.resolve(l, in); err != nil {
		return k.explain(err)
	}
	l.why = k.why
	if k.gone {
		for _, s := range in.Old.Snapshots {
			if !slices.Contains(l.Snapshots, s) {
				l.Snapshots = append(l.Snapshots, s)
			}
		}
	}
	if slices.Equal(l.Packages, in.Old.Packages) { // nothing moved: neither does the time of the images' files
		l.Archives, l.Snapshots = in.Old.Archives, in.Old.Snapshots
	}
	return nil
}

func readSuite(ctx context.Context, in LockInput, a Archive) (LockedArchive, []archive.Package, error) {
	var locked LockedArchive
	keys, err := archive.LoadKeys(in.Keys, a.Keys)
	if err != nil {
		return locked, nil, err
	}
	suite := archive.Suite{Archive: a.Name, Name: a.Suite, Components: a.Components, Arch: in.Arch, Keys: keys}
	release, err := in.Source.Release(ctx, suite, in.Now)
	if err != nil {
		return locked, nil, err
	}
	if release.Expired && in.Warn != nil {
		in.Warn(fmt.Sprintf("index of %s expired on %s: the mirror lags, but its settings allow it", suite, release.ValidUntil.Format(time.RFC3339)))
	}
	packages, err := in.Source.Packages(ctx, release, in.Progress)
	locked = LockedArchive{Name: a.Name, Suite: a.Suite, Date: release.Date.UTC().Format(time.RFC3339), SHA256: release.SHA256, Signer: release.Signer}
	return locked, packages, err
}

// kernelName is the kernel's package as the definition asks for it.
func kernelName(in LockInput) string {
	return strings.ReplaceAll(in.Definition.Kernel, "{arch}", in.Arch)
}

// resolve fills the lock with the closures of roles, tools and libraries, and the kernel: a kept one, else the one that
// the definition asks for.
func (l *ArchLock) resolve(u *universe, in LockInput, kernel *candidate) error {
	l.Roles, l.Omitted, l.Packages, l.Relations = map[string][]string{}, map[string][]string{}, nil, map[string]Relations{}
	used := map[string]*candidate{}
	if kernel == nil {
		var err error
		if kernel, err = u.kernel(kernelName(in)); err != nil {
			return err
		}
	}
	l.Kernel, used[kernel.Name] = kernel.Name, kernel
	for _, name := range slices.Sorted(maps.Keys(in.Roles)) {
		c, err := u.resolve(append(slices.Clone(in.Definition.Packages), in.Roles[name]...), in.Definition.Omit)
		if err != nil {
			return fmt.Errorf("role %s: %w", name, err)
		}
		l.Roles[name] = slices.Sorted(maps.Keys(c.chosen))
		maps.Copy(used, c.chosen)
		for omitted, by := range c.omitted {
			l.Omitted[omitted] = union(l.Omitted[omitted], by)
		}
	}
	for _, also := range []struct {
		what  string
		asked []string
		names *[]string
	}{{"tools", in.Definition.Tools, &l.Tools}, {"libraries", in.Definition.Libraries, &l.Libraries}} {
		c, err := u.resolve(also.asked, in.Definition.Omit)
		if err != nil {
			return fmt.Errorf("%s: %w", also.what, err)
		}
		*also.names = append([]string{}, slices.Sorted(maps.Keys(c.chosen))...)
		maps.Copy(used, c.chosen)
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		p := used[name]
		l.Packages = append(l.Packages, Package{p.Name, p.Version, p.Arch, p.File.Path, p.File.Size, p.File.SHA256})
		l.Relations[name] = Relations{PreDepends: p.PreDepends, Depends: p.Depends, Conflicts: p.Conflicts, Breaks: p.Breaks, Provides: p.Provides}
	}
	return nil
}

func union(a, b []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b))))
}

// kernelPrefix begins the names of Debian's kernel packages; the kernel's release follows in those that hold a kernel.
const kernelPrefix = "linux-image-"

// kernel is the package that holds the kernel: the named one, or the one that a meta-package of that name needs.
func (u *universe) kernel(name string) (*candidate, error) {
	c := u.packages[name]
	if c == nil {
		return nil, fmt.Errorf("kernel package %s is in none of the archives", name)
	}
	clauses, err := c.depends()
	if err != nil {
		return nil, err
	}
	for _, clause := range clauses {
		if len(clause) == 1 && strings.HasPrefix(clause[0].Name, kernelPrefix) {
			return u.realKernel(c, clause[0])
		}
	}
	return c, nil
}

func (u *universe) realKernel(meta *candidate, rel deb.Relation) (*candidate, error) {
	c := u.packages[rel.Name]
	if c == nil || !rel.Allows(c.version) {
		return nil, fmt.Errorf("kernel package %s %s needs %s, which is in none of the archives", meta.Name, meta.Version, rel)
	}
	return c, nil
}

// asked is what a lock is made from, in one order whatever order the documents have.
func asked(def *Definition, roles map[string][]string) Asked {
	a := Asked{
		Archives: def.Archives, Packages: sorted(def.Packages), Omit: sorted(def.Omit), Tools: sorted(def.Tools), Libraries: union(def.Libraries, nil), Kernel: def.Kernel,
		Roles: map[string][]string{}, Snapshot: def.Snapshot, Images: def.askedImages(),
	}
	for name, packages := range roles {
		a.Roles[name] = sorted(packages)
	}
	return a
}

func sorted(list []string) []string { return append([]string{}, union(list, nil)...) }
