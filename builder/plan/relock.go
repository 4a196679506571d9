package plan

import (
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
}

// Open reads the definition of an images folder, with those of architectures, and chooses the mirror: choice's flag and environment, else the
// definition's field, else the host's apt sources. The cache is below a folder such as the user's cache.
func Open(images, cache string, choice archive.Choice) (*Definition, *archive.Source, error) {
	name := filepath.Join(images, DefinitionName)
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read image definition: %w", err)
	}
	def, err := LoadDefinition(name, data)
	if err != nil {
		return nil, nil, err
	}
	if err := def.loadArchitectures(images); err != nil {
		return nil, nil, err
	}
	choice.Definition = def.Mirror
	mirrors, err := archive.FindMirrors(choice)
	if err != nil {
		return def, nil, err
	}
	return def, &archive.Source{Mirrors: mirrors, Cache: archive.NewCache(cache), Client: archive.NewClient()}, nil
}

// Resolve makes a new lock of what the archives have today. It writes nothing.
func Resolve(ctx context.Context, def *Definition, o Options) (*Lock, error) {
	lock := &Lock{APIVersion: APIVersion, Kind: "Lock", Architectures: map[string]*ArchLock{}}
	roles := map[string][]string{}
	for _, r := range o.Roles {
		roles[r.Name] = r.Packages
	}
	for _, arch := range o.Arches {
		l, err := MakeLock(ctx, LockInput{
			Definition: def, Roles: roles, Arch: arch, Keys: os.DirFS(filepath.Join(o.Images, KeysName)),
			Source: o.Source, Now: o.Now, Progress: o.Progress, Warn: o.Warn,
		})
		if err != nil {
			return nil, err
		}
		lock.Architectures[arch] = l
	}
	return lock, nil
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
	for _, arch := range o.Arches {
		if l := lock.Architectures[arch]; l != nil {
			packages = append(packages, l.Packages...)
		}
	}
	return fetchPackages(ctx, o.Source, packages, o.Progress)
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
