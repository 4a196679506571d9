package plan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/profiles/role"
)

// Options are what locking and fetching need from the command line.
type Options struct {
	Images   string       // folder with definition.yaml, keys/ and lock.json
	Roles    []*role.Role // all roles the lock shall serve
	Arches   []string     // Go's names
	Source   *archive.Source
	Now      time.Time
	Progress archive.Progress // may be nil
	Warn     func(string)     // of indexes past their Valid-Until, where that is allowed; may be nil

	Snapshot archive.Snapshot // else the definition's; see LockInput
	Only     []string         // see LockInput
	Old      *Lock            // the lock that has what Only doesn't name
}

// Open reads a definition of an images folder, by its path there, with what it includes and the documents of
// architectures, and chooses the mirror: choice's flag and environment, else the
// definition's field, else the host's apt sources. The cache is below a folder such as the user's cache.
func Open(images, name, cache string, choice archive.Choice) (*Definition, *archive.Source, error) {
	root, err := os.OpenRoot(images)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read image definition: %w", err)
	}
	defer root.Close()
	def, err := LoadDefinition(root.FS(), name, images)
	if err != nil {
		return nil, nil, err
	}
	choice.Definition = def.Mirror
	mirrors, err := archive.FindMirrors(choice)
	if err != nil {
		return def, nil, err
	}
	return def, &archive.Source{Mirrors: mirrors, Cache: archive.NewCache(cache), Client: archive.NewClient()}, nil
}

// Resolve makes a new lock of what the archives have. It writes nothing.
func Resolve(ctx context.Context, def *Definition, o Options) (*Lock, error) {
	lock := &Lock{APIVersion: APIVersion, Kind: "Lock", Architectures: map[string]*ArchLock{}}
	for _, arch := range o.Arches {
		l, err := resolveArch(ctx, def, o, arch)
		if err != nil {
			return nil, err
		}
		lock.Architectures[arch] = l
	}
	return lock, nil
}

func resolveArch(ctx context.Context, def *Definition, o Options, arch string) (*ArchLock, error) {
	in := LockInput{
		Definition: def, Roles: map[string][]string{}, Arch: arch, Keys: os.DirFS(filepath.Join(o.Images, KeysName)),
		Source: o.Source, Now: o.Now, Progress: o.Progress, Warn: o.Warn, Snapshot: cmp.Or(o.Snapshot, def.Snapshot), Only: o.Only,
	}
	for _, r := range o.Roles {
		in.Roles[r.Name] = r.Packages
	}
	if o.Old != nil {
		in.Old = o.Old.Architectures[arch]
	}
	if len(o.Only) > 0 && in.Old == nil {
		return nil, fmt.Errorf("%w of architecture %s that could be kept: run `%s`", ErrNoLock, arch, LockCommand)
	}
	return MakeLock(ctx, in)
}

// FetchOrResolve fetches every package of a lock. If the mirror no longer has one, it tells why through say, makes a new
// lock, fetches that one's packages and returns it: for tests and rehearsals, which must not fail because a mirror moved
// on. A release build uses Fetch, and stops.
func FetchOrResolve(ctx context.Context, def *Definition, lock *Lock, o Options, say func(reason string)) (*Lock, error) {
	err := fetchLock(ctx, lock, o)
	if !errors.Is(err, ErrMoved) {
		return lock, err
	}
	say(err.Error())
	fresh, err := Resolve(ctx, def, o)
	if err != nil {
		return nil, err
	}
	return fresh, fetchLock(ctx, fresh, o)
}

func fetchLock(ctx context.Context, lock *Lock, o Options) error {
	var packages []Package
	var snapshots []archive.Snapshot
	for _, arch := range o.Arches {
		if l := lock.Architectures[arch]; l != nil {
			packages, snapshots = append(packages, l.Packages...), append(snapshots, l.Snapshots...)
		}
	}
	return fetchPackages(ctx, o.Source.At(snapshots...), packages, o.Progress)
}

// Merge keeps the architectures of an older lock that a newer one does not have.
func Merge(old, fresh *Lock) *Lock {
	merged := &Lock{APIVersion: APIVersion, Kind: "Lock", Architectures: map[string]*ArchLock{}}
	if old != nil {
		maps.Copy(merged.Architectures, old.Architectures)
	}
	maps.Copy(merged.Architectures, fresh.Architectures)
	return merged
}
