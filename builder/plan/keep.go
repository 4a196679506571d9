package plan

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/builder/deb"
)

// keeper locks again with all packages as they were, but for those that shall move and those that must move with them.
type keeper struct {
	*universe                       // kept packages are in it as they were locked
	old       *ArchLock             //
	offered   map[string]*candidate // of kept packages, what the archives have today
	why       map[string]string     // packages that move because of another one, and that
	gone      bool                  // a kept package is in no index any more
}

// checkPatterns refuses patterns that match nothing that could move: neither a locked package nor one that is asked for.
func checkPatterns(patterns []string, in LockInput) error {
	names := slices.Concat(in.Definition.Packages, in.Definition.Tools, in.Definition.Libraries, []string{kernelName(in)})
	for _, p := range in.Old.Packages {
		names = append(names, p.Name)
	}
	for _, packages := range in.Roles {
		names = append(names, packages...)
	}
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("pattern %q: %w", p, err)
		}
		if !slices.ContainsFunc(names, func(n string) bool { return matchesAny([]string{p}, n) }) {
			return fmt.Errorf("%w: no package of the lock or the definition is called %q", ErrPattern, p)
		}
	}
	return nil
}

// ErrPattern: a pattern of packages that shall move matches none.
var ErrPattern = errors.New("nothing to lock")

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, name); return ok })
}

// newKeeper puts the locked packages that no pattern matches in the place of what the archives have today.
func newKeeper(u *universe, all []archive.Package, in LockInput) (*keeper, error) {
	k := &keeper{universe: u, old: in.Old, offered: map[string]*candidate{}, why: map[string]string{}}
	listed := map[string]archive.Package{} // by digest, and by digest and path: two suites may have the same file
	for _, p := range all {
		listed[p.File.SHA256], listed[p.File.SHA256+p.File.Path] = p, p
	}
	u.prefer = map[string]bool{}
	for _, p := range in.Old.Packages {
		u.prefer[p.Name] = true
		if matchesAny(in.Only, p.Name) || p.Name == in.Old.Kernel && k.kernelMoves(in) {
			continue
		}
		locked, ok := listed[p.SHA256+p.Path]
		if !ok {
			locked, ok = listed[p.SHA256]
		}
		if !ok || locked.Name != p.Name || locked.Version != p.Version {
			k.gone = true
			var err error
			if locked, err = k.remembered(p, in.Source); err != nil {
				return nil, err
			}
		}
		k.offered[p.Name] = u.packages[p.Name]
		if err := u.put(locked); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (k *keeper) kernelMoves(in LockInput) bool {
	return k.old.Asked.Kernel != in.Definition.Kernel || matchesAny(in.Only, kernelName(in))
}

// remembered is a locked package that no index has any more: as the lock says, or, if that is an old one, as its file in
// the cache says.
func (k *keeper) remembered(p Package, source *archive.Source) (archive.Package, error) {
	if _, ok := k.old.Relations[p.Name]; ok {
		return k.old.recorded(p), nil
	}
	found := k.old.recorded(p)
	f, err := source.Cache.Open(p.SHA256)
	if errors.Is(err, fs.ErrNotExist) {
		return found, fmt.Errorf("%w: package %s %s is neither in the archives nor in the cache, and the lock doesn't say what it needs: lock all with `%s`", ErrStale, p.Name, p.Version, LockCommand)
	}
	if err != nil {
		return found, err
	}
	defer f.Close()
	control, err := deb.Control(f, p.Size)
	if err != nil {
		return found, fmt.Errorf("cannot read package %s %s from the cache: %w", p.Name, p.Version, err)
	}
	found.PreDepends, found.Depends, found.Provides = control.Get("Pre-Depends"), control.Get("Depends"), control.Get("Provides")
	found.Conflicts, found.Breaks = control.Get("Conflicts"), control.Get("Breaks")
	return found, nil
}

// resolve locks with what is kept, and lets go of one package after the other that keeps another back.
func (k *keeper) resolve(l *ArchLock, in LockInput) error {
	for {
		err := l.resolve(k.universe, in, k.keptKernel())
		if err == nil {
			return nil
		}
		name, why := k.culprit(err)
		if name == "" {
			return err
		}
		k.why[name] = why
		if err := k.release(name); err != nil {
			return err
		}
	}
}

// keptKernel is the locked kernel's package while it is kept.
func (k *keeper) keptKernel() *candidate {
	if _, kept := k.offered[k.old.Kernel]; kept {
		return k.packages[k.old.Kernel]
	}
	return nil
}

func (k *keeper) release(name string) error {
	today := k.offered[name]
	delete(k.offered, name)
	return k.universe.put(today.Package)
}

// newer tells whether the archives have another version of a kept package.
func (k *keeper) newer(name string) *candidate {
	today, kept := k.offered[name]
	if !kept || today == nil || today.Version == k.packages[name].Version {
		return nil
	}
	return today
}

// culprit is the kept package to let go of, and what needs that.
func (k *keeper) culprit(err error) (name, why string) {
	var unmet *unmetError
	var clash *clashError
	switch {
	case errors.As(err, &unmet):
		for _, rel := range unmet.clause {
			if today := k.newer(rel.Name); today != nil && rel.AppliesTo(k.arch) && k.forArch(rel) && rel.Allows(today.version) {
				return rel.Name, fmt.Sprintf("%s %s needs %s", unmet.asker.Name, unmet.asker.Version, unmet.clause)
			}
			if name := k.newProvider(rel); name != "" {
				return name, fmt.Sprintf("%s %s needs %s", unmet.asker.Name, unmet.asker.Version, unmet.clause)
			}
		}
		if k.newer(unmet.asker.Name) != nil {
			return unmet.asker.Name, fmt.Sprintf("its %s needs %s", unmet.asker.Version, unmet.clause)
		}
	case errors.As(err, &clash):
		for _, c := range []*candidate{clash.other, clash.one} {
			if k.newer(c.Name) != nil {
				return c.Name, fmt.Sprintf("%s %s %s %s", clash.one.Name, clash.one.Version, clash.field, clash.clause)
			}
		}
	}
	return "", ""
}

// newProvider is a kept package whose version of today provides what the kept one doesn't.
func (k *keeper) newProvider(rel deb.Relation) string {
	for _, name := range slices.Sorted(maps.Keys(k.offered)) {
		today := k.newer(name)
		if today == nil {
			continue
		}
		provides, err := today.provides()
		if err != nil {
			continue
		}
		if slices.ContainsFunc(provides, func(p deb.Relation) bool {
			return p.Name == rel.Name && (rel.Op == "" || p.Op == "=" && rel.Allows(p.Version))
		}) {
			return name
		}
	}
	return ""
}

// explain says of what could not be resolved which package keeps which back.
func (k *keeper) explain(err error) error {
	var unmet *unmetError
	var clash *clashError
	switch {
	case errors.As(err, &unmet):
		because := fmt.Sprintf("%s %s needs %s", unmet.asker.Name, unmet.asker.Version, unmet.clause)
		for _, rel := range unmet.clause {
			c := k.packages[rel.Name]
			if c == nil {
				continue
			}
			if _, kept := k.offered[unmet.asker.Name]; kept {
				return k.keptBack(c, unmet.asker, because)
			}
			return k.keptBack(unmet.asker, c, because)
		}
	case errors.As(err, &clash):
		because := fmt.Sprintf("%s %s %s %s", clash.one.Name, clash.one.Version, clash.field, clash.clause)
		if _, kept := k.offered[clash.one.Name]; kept {
			return k.keptBack(clash.other, clash.one, because)
		}
		return k.keptBack(clash.one, clash.other, because)
	}
	return err
}

func (k *keeper) keptBack(moving, keeping *candidate, because string) error {
	there := "have no other version of it"
	if today := k.newer(keeping.Name); today != nil {
		there = "have " + keeping.Name + " " + today.Version + ", which doesn't fit either"
	}
	return fmt.Errorf("%s cannot move to %s: %s %s keeps it back: %s, and the archives %s", moving.Name, moving.Version, keeping.Name, keeping.Version, because, there)
}
