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
	for _, p := range plans {
		packages = slices.Concat(packages, p.Packages, []Package{p.Kernel}, p.Tools[runtime.GOARCH], p.Libraries)
	}
	return fetchPackages(ctx, source, packages, progress)
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
	return fmt.Errorf("cannot get package %s %s: %w", p.Name, p.Version, err)
}
