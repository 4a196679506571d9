package bake

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/layer"
	"github.com/slipway-os/slipway/builder/plan"
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
		return nil, "", fmt.Errorf("the lock has programs for machines of architecture %s, and this one is %s: run `%s --arch %s` too",
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
