package plan

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/slipway-os/slipway/builder/archive"
)

// Fetch makes sure that the packages of all plans are in the source's cache. Where the mirror no longer has one, the
// error wraps ErrMoved and names the package, its version and the command to run.
func Fetch(ctx context.Context, source *archive.Source, plans []*Plan, progress archive.Progress) error {
	var packages []Package
	var snapshots []archive.Snapshot
	for _, p := range plans {
		packages = slices.Concat(packages, p.Packages, []Package{p.Kernel}, p.Tools[runtime.GOARCH], p.Libraries)
		for _, s := range p.Snapshots {
			if !slices.Contains(snapshots, s) {
				snapshots = append(snapshots, s)
			}
		}
	}
	return fetchPackages(ctx, source.At(snapshots...), packages, progress)
}

func fetchPackages(ctx context.Context, source *archive.Source, packages []Package, progress archive.Progress) error {
	byPath := map[string]Package{}
	var files []archive.File
	for _, p := range packages {
		if _, seen := byPath[p.Path]; !seen {
			byPath[p.Path] = p
			files = append(files, archive.File{Path: p.Path, Size: p.Size, SHA256: p.SHA256})
		}
	}
	err := source.Fetch(ctx, files, progress)
	var failed *archive.FileError
	if !errors.As(err, &failed) {
		return err
	}
	p := byPath[failed.File.Path]
	if errors.Is(err, archive.ErrGone) {
		return fmt.Errorf("%w: it no longer has the locked package %s %s (%s): run `%s`%s to lock what it has now", ErrMoved, p.Name, p.Version, failed.URL, LockCommand, withArch(p.Arch))
	}
	if errors.Is(err, archive.ErrDigest) {
		return fmt.Errorf("cannot get package %s %s: %w: the mirror has another file than was locked, or the lock was edited by hand (`%s --only %s` locks what the archive has)", p.Name, p.Version, err, LockCommand, p.Name)
	}
	return fmt.Errorf("cannot get package %s %s: %w", p.Name, p.Version, err)
}
