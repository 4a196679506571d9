package bake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
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

// toolbox is the programs of the locked packages that a bake runs, each with what says which one it is; none when the definition
// names no tools.
type toolbox struct {
	pack       squashfs.Program
	packer     string
	zstd       program // nil: what this would compress is compressed in Go
	compressor string
}

// program is one of a toolset.
type program = func(ctx context.Context, args ...string) *exec.Cmd

// beginTools has the programs of the bake installed, beside what follows.
func (b *baker) beginTools() error {
	b.waitTools = b.beside(func() (err error) {
		b.programs, err = b.installTools()
		return err
	})
	return nil
}

func (b *baker) installTools() (toolbox, error) {
	if len(b.Plan.Tools) == 0 {
		return toolbox{}, nil
	}
	if len(b.tools()) == 0 {
		return toolbox{}, fmt.Errorf("the lock has programs for machines of architecture %s, and this one is %s: run `%s --arch %s` too, or bake on one of those",
			strings.Join(slices.Sorted(maps.Keys(b.Plan.Tools)), ", "), runtime.GOARCH, plan.LockCommand, runtime.GOARCH)
	}
	var layers []*layer.Layer
	for _, p := range b.tools() {
		l, err := b.layer(p)
		if err != nil {
			return toolbox{}, err
		}
		layers = append(layers, l)
	}
	set, err := toolset.Install(filepath.Join(b.Cache, "tools"), layers, b.Warn)
	if err != nil {
		return toolbox{}, err
	}
	p := toolbox{packer: versions("mksquashfs", layers)}
	if name := versions("zstd", layers); name != "" {
		p.compressor = name
		if p.zstd, err = set.Command("zstd"); err != nil {
			return toolbox{}, err
		}
	}
	p.pack, err = set.Command("mksquashfs")
	return p, err
}

// mksquashfs is the program that packs root images, and what says which one it is: that of the locked packages, or this machine's own
// when the definition names no tools.
func (b *baker) mksquashfs() (squashfs.Program, string, error) {
	if b.programs.pack != nil {
		return b.programs.pack, b.programs.packer, nil
	}
	host := squashfs.Program(squashfs.Host)
	version, err := host.Version(b.ctx)
	return host, version, err
}

// versions are the names and versions of the packages that a program is of: the one that brings it, and what that needs of them,
// in their order; "" when none brings it.
func versions(program string, layers []*layer.Layer) string {
	i := slices.IndexFunc(layers, func(l *layer.Layer) bool {
		return slices.ContainsFunc(l.Entries, func(e rootfs.Entry) bool { return strings.TrimPrefix(e.Path, "usr/") == "bin/"+program })
	})
	if i < 0 {
		return ""
	}
	needed := map[*layer.Layer]bool{}
	var need func(l *layer.Layer)
	need = func(l *layer.Layer) {
		if needed[l] {
			return
		}
		needed[l] = true
		for _, other := range layers {
			if l.Needs(other) {
				need(other)
			}
		}
	}
	need(layers[i])
	var list []string
	for _, l := range layers {
		if needed[l] {
			list = append(list, l.Package+" "+l.Version)
		}
	}
	return strings.Join(list, ", ")
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
