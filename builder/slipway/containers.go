package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/slipway-os/slipway/builder/container"
	"github.com/slipway-os/slipway/builder/plan"
)

// origin is where a container image of the definition comes from. An archive lies in the images folder.
func (w *workshop) origin(i plan.ContainerImage) (container.Origin, error) {
	if i.Archive == "" {
		return container.Origin{Source: i.Source}, nil
	}
	root, err := os.OpenRoot(w.images)
	if err != nil {
		return container.Origin{}, err
	}
	defer root.Close()
	if _, err := root.Stat(i.Archive); err != nil { // links that lead out of the folder too
		return container.Origin{}, fmt.Errorf("container image %s: cannot read archive: %w", i.Name, err)
	}
	return container.Origin{Archive: filepath.Join(w.images, i.Archive)}, nil
}

// lockImages puts the definition's images that come as they are into a new lock.
func (w *workshop) lockImages(ctx context.Context, fresh, old *plan.Lock, p *progress) error {
	store, err := container.NewStore(w.cache)
	if err != nil {
		return err
	}
	for arch, l := range fresh.Architectures {
		for _, i := range w.definition.Foreign() {
			locked, ok := plan.LockedImage{}, false
			if old != nil {
				locked, ok = old.Architectures[arch].SameImage(i)
			}
			if !ok {
				p.line(true, "looking for container image %s (%s)", i.Name, arch)
				if locked, err = w.resolveImage(ctx, store, i, arch); err != nil {
					return err
				}
			}
			if l.Images == nil {
				l.Images = map[string]plan.LockedImage{}
			}
			l.Images[i.Name] = locked
		}
	}
	p.end()
	return nil
}

func (w *workshop) resolveImage(ctx context.Context, store *container.Store, i plan.ContainerImage, arch string) (plan.LockedImage, error) {
	from, err := w.origin(i)
	if err != nil {
		return plan.LockedImage{}, err
	}
	found, err := store.Resolve(ctx, from, arch)
	return plan.LockedImage{Digest: found.Digest, Size: found.Size}, err
}

// checkArchives compares the archives of container images with the lock; registries' images can't change.
func (w *workshop) checkArchives(ctx context.Context, lock *plan.Lock, arches []string) error {
	store, err := container.NewStore(w.cache)
	if err != nil {
		return err
	}
	for _, i := range w.definition.Foreign() {
		for _, arch := range arches {
			l := lock.Architectures[arch]
			if l == nil || i.Archive == "" || l.Images[i.Name].Digest == "" {
				continue // making the plan says so
			}
			found, err := w.resolveImage(ctx, store, i, arch)
			if err != nil {
				return err
			}
			if locked := l.Images[i.Name]; found != locked {
				return fmt.Errorf("%w: container image %s: the archive %s holds %s for %s, locked is %s; run `%s`", plan.ErrStale, i.Name, i.Archive, found.Digest, arch, locked.Digest, plan.LockCommand)
			}
		}
	}
	return nil
}

// fetchImages makes sure that the plans' container images that come as they are lie in the cache.
func (w *workshop) fetchImages(ctx context.Context, plans []*plan.Plan, p *progress) (*container.Store, error) {
	store, err := container.NewStore(w.cache)
	if err != nil {
		return nil, err
	}
	var done []string
	for _, one := range plans {
		for _, i := range one.Foreign() {
			if slices.Contains(done, i.Digest) {
				continue
			}
			done = append(done, i.Digest)
			p.line(true, "fetching container image %s  %s", i.Name, bytesText(i.Size))
			if err := w.fetchImage(ctx, store, i); err != nil {
				return nil, err
			}
		}
	}
	return store, nil
}

func (w *workshop) fetchImage(ctx context.Context, store *container.Store, i plan.ContainerImage) error {
	from, err := w.origin(i)
	if err != nil {
		return err
	}
	err = store.Fetch(ctx, from, i.Digest)
	switch {
	case !errors.Is(err, container.ErrGone):
		return err
	case i.Archive != "":
		return fmt.Errorf("%w: container image %s: %w; run `%s`", plan.ErrStale, i.Name, err, plan.LockCommand)
	}
	return fmt.Errorf("%w: container image %s: %w", plan.ErrMoved, i.Name, err)
}
