// Package component makes the programs of an image that don't come from a package archive: static binaries compiled from
// nested Go modules, pinned by their go.mod and go.sum. It owns images/components/NAME/component.yaml, the cache of what
// was built, and is the only package that runs `go`.
//
// A component is named and versioned; a build is one binary of it; an input is one thing the bytes of the result depend
// on. The key of a component is the digest of all its inputs.
//
// It is not for putting files into an image, nor for choosing which component a role has.
package component

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// Component is what was built, in the cache.
type Component struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"` // as Go names it: amd64, arm64
	Key     string `json:"key"`  // SHA-256 of everything that went in, in hex
	Files   []File `json:"files"`
}

// File is one file of a component: a binary, or a symbolic link to one.
type File struct {
	Path   string `json:"path"`             // in the image, absolute
	Mode   uint32 `json:"mode"`             // permission bits
	Source string `json:"source,omitempty"` // path of the bytes on this machine; empty for a link
	SHA256 string `json:"sha256,omitempty"` // hex; empty for a link
	Size   int64  `json:"size"`             // bytes
	Link   string `json:"link,omitempty"`   // target of a symbolic link, relative to its folder
}

// Progress tells what happens now. Several builds may report at the same time.
type Progress struct {
	Component string
	Arch      string
	Step      string // "cached", "waiting", "compiling", "downloading", "checking"
	Detail    string // package or module at work; may be empty
	Packages  int    // compiled so far in this build
}

// Options of a Builder.
type Options struct {
	ImagesDir string // the folder that holds components/
	CacheDir  string // results go to CacheDir/components
	// Libraries are folders with headers and static C libraries as Debian lays them out, by architecture, each named by a
	// digest of what it holds. For an architecture without one, this machine's are used.
	Libraries map[string]string
	Progress  func(Progress) // may be nil
	Warn      func(string)   // is told of damage in the cache, perhaps by several goroutines; may be nil
	Parallel  int            // compiler processes at once; 0: Go decides
}

// Builder builds components. It may be used by several goroutines; one build runs at a time.
type Builder struct {
	options Options
	specs   map[string]Spec
	cache   cache
	turn    chan struct{} // held while `go build` runs: a link takes up to 3 GB of memory
}

// New reads all definitions below ImagesDir.
func New(o Options) (*Builder, error) {
	specs, err := Load(o.ImagesDir)
	if err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	dir, err := filepath.Abs(filepath.Join(o.CacheDir, "components"))
	if err != nil {
		return nil, fmt.Errorf("cannot use the cache folder: %w", err)
	}
	return &Builder{o, specs, cache{dir, o.Warn}, make(chan struct{}, 1)}, nil
}

// Specs are the definitions that were read, by name.
func (b *Builder) Specs() map[string]Spec { return maps.Clone(b.specs) }

// Build gives a component from the cache, or builds it. Two builds of the same inputs give the same bytes. A cached
// result is verified by digest; a damaged one is built again. When ctx ends, so do the processes that were started.
func (b *Builder) Build(ctx context.Context, name, arch string) (Component, error) {
	spec, ok := b.specs[name]
	if !ok {
		known := strings.Join(slices.Sorted(maps.Keys(b.specs)), ", ")
		return Component{}, fmt.Errorf("cannot build component %q: there is none of that name (%s)", name, known)
	}
	made, err := b.build(ctx, spec, arch)
	if err != nil {
		return Component{}, fmt.Errorf("cannot build component %s for %s: %w", name, arch, err)
	}
	return made, nil
}

func (b *Builder) build(ctx context.Context, spec Spec, arch string) (Component, error) {
	report := func(step, detail string, n int) {
		b.options.Progress(Progress{spec.Metadata.Name, arch, step, detail, n})
	}
	in, produce, err := b.prepare(ctx, spec, arch, report)
	if err != nil {
		return Component{}, err
	}
	want := Component{Name: spec.Metadata.Name, Version: spec.Version, Arch: arch, Key: in.key()}
	if made, ok := b.cache.get(want); ok {
		report("cached", "", 0)
		return made, nil
	}
	report("waiting", "", 0)
	release, err := b.enter(ctx, want)
	if err != nil {
		return Component{}, err
	}
	defer release()
	if made, ok := b.cache.get(want); ok { // another process was faster
		report("cached", "", 0)
		return made, nil
	}
	return b.cache.put(want, in, produce)
}

// prepare gives a component's inputs, and what makes its files in a folder when the cache has none for them.
func (b *Builder) prepare(ctx context.Context, spec Spec, arch string, report reporter) (inputs, func(dir string) ([]File, error), error) {
	if spec.Source == sourceURL {
		return downloadInputs(spec, arch), func(dir string) ([]File, error) {
			return downloadAll(ctx, spec, arch, dir, report)
		}, nil
	}
	chain, err := findToolchain(ctx, spec, arch, b.options.Libraries[arch])
	if err != nil {
		return nil, nil, err
	}
	in, err := gather(ctx, spec, chain)
	if err != nil {
		return nil, nil, err
	}
	return in, func(dir string) ([]File, error) {
		if err := refuseLocalReplacements(ctx, spec, chain); err != nil {
			return nil, err
		}
		return compileAll(ctx, spec, chain, b.options.Parallel, dir, report)
	}, nil
}

// enter waits for this builder's turn and for the component's lock, which other processes may hold.
func (b *Builder) enter(ctx context.Context, c Component) (func(), error) {
	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	unlock, err := b.cache.lock(ctx, c.Name+"-"+c.Arch)
	if err != nil {
		<-b.turn
		return nil, err
	}
	return func() { unlock(); <-b.turn }, nil
}
