package main

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/slipway-os/slipway/builder/component"
)

// program is one that a command runs on this machine: the user's, or that of a component of the images.
type program struct {
	what      string // for messages
	flag      string // that names another one
	given     string // the flag's value
	component string
	path      string // in the component
}

// findProgram is the path of the program. The component comes from the cache or is built.
func findProgram(ctx context.Context, a *app, from imageFlags, p program) (string, error) {
	if p.given != "" {
		return filepath.Abs(p.given)
	}
	images, err := from.imagesDir()
	if err != nil {
		return "", fmt.Errorf("cannot find %s: %w (or %s)", p.what, err, p.flag)
	}
	cache, err := a.cacheDir()
	if err != nil {
		return "", err
	}
	progress := newProgress(a)
	defer progress.end()
	builder, err := component.New(component.Options{ImagesDir: images, CacheDir: cache, Progress: progress.building})
	if err != nil {
		return "", err
	}
	built, err := builder.Build(ctx, p.component, runtime.GOARCH)
	if err != nil {
		return "", fmt.Errorf("cannot build %s: %w", p.what, err)
	}
	i := slices.IndexFunc(built.Files, func(f component.File) bool { return f.Path == p.path })
	if i < 0 {
		return "", fmt.Errorf("cannot find %s: the component %s has no %s", p.what, p.component, p.path)
	}
	return built.Files[i].Source, nil
}
