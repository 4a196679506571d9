package bake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/layer"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/builder/rootfs"
	"github.com/slipway-os/slipway/builder/squashfs"
	"github.com/slipway-os/slipway/builder/toolset"
)

// tools are the locked packages of programs for a machine like this one.
func (b *baker) tools() []plan.Package { return b.Plan.Tools[runtime.GOARCH] }

// mksquashfs is the program that packs root images, and what says which one it is: that of the locked packages, or this
// machine's own when the definition names no tools.
func (b *baker) mksquashfs(ctx context.Context) (squashfs.Program, string, error) {
	if len(b.Plan.Tools) == 0 {
		host := squashfs.Program(squashfs.Host)
		version, err := host.Version(ctx)
		return host, version, err
	}
	if len(b.tools()) == 0 {
		return nil, "", fmt.Errorf("the lock has programs for machines of architecture %s, and this one is %s: run `%s --arch %s` too, or bake on one of those",
			strings.Join(slices.Sorted(maps.Keys(b.Plan.Tools)), ", "), runtime.GOARCH, plan.LockCommand, runtime.GOARCH)
	}
	var layers []*layer.Layer
	var versions []string
	for _, p := range b.tools() {
		l, err := b.layer(p)
		if err != nil {
			return nil, "", err
		}
		layers, versions = append(layers, l), append(versions, p.Name+" "+p.Version)
	}
	set, err := toolset.Install(filepath.Join(b.Cache, "tools"), layers, b.Warn)
	if err != nil {
		return nil, "", err
	}
	run, err := set.Command("mksquashfs")
	return run, strings.Join(versions, ", "), err
}

// Libraries installs the C libraries of a plan below a cache folder and gives their folder, for the components of that
// plan's architecture; "" when it names none. Damage in the cache is found, and what is damaged made again.
// warn is told of it.
func Libraries(p *plan.Plan, cache string, pkg func(sha256 string) string, warn func(string)) (string, error) {
	if len(p.Libraries) == 0 {
		return "", nil
	}
	store, err := layer.NewStore(filepath.Join(cache, "layers"), warn)
	if err != nil {
		return "", err
	}
	dir, err := installLibraries(p.Libraries, store, cache, pkg)
	if !errors.Is(err, rootfs.ErrDamaged) {
		return dir, err
	}
	for _, l := range p.Libraries {
		if why := store.Check(l.SHA256); why != nil {
			if err := store.Drop(l.SHA256, why); err != nil {
				return "", err
			}
		}
	}
	return installLibraries(p.Libraries, store, cache, pkg)
}

func installLibraries(packages []plan.Package, store *layer.Store, cache string, pkg func(string) string) (string, error) {
	var layers []*layer.Layer
	for _, p := range packages {
		l, err := store.Open(p.SHA256, func() (string, error) { return pkg(p.SHA256), nil })
		if err != nil {
			return "", fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
		}
		layers = append(layers, l)
	}
	return toolset.InstallLibraries(filepath.Join(cache, "libraries"), layers)
}
