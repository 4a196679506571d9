package bake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-os/slipway/builder/component"
	"github.com/slipway-os/slipway/builder/deb"
	"github.com/slipway-os/slipway/builder/kmod"
	"github.com/slipway-os/slipway/builder/layer"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/builder/rootfs"
	"github.com/slipway-os/slipway/builder/sysroot"
	"github.com/slipway-os/slipway/builder/uki"
	"github.com/slipway-os/slipway/images/bootspec"
)

// componentNames are all components of the plan, sorted: of the root image, of the initrd and of container images.
func (b *baker) componentNames() []string {
	names := map[string]bool{agent: true}
	for _, n := range slices.Concat(b.Plan.Components, b.Plan.Initrd.Components) {
		names[n] = true
	}
	for _, i := range b.Plan.ContainerImages {
		if i.Component != "" {
			names[i.Component] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func (b *baker) buildComponents() error {
	b.step("build components")
	names := b.componentNames()
	built := make([]component.Component, len(names))
	group, ctx := errgroup.WithContext(b.ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		group.Go(func() (err error) {
			built[i], err = b.Component(ctx, name)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	b.components = map[string]component.Component{}
	for i, name := range names {
		b.components[name] = built[i]
	}
	return nil
}

// unpackPackages opens the layers of all packages: base-files first, because it brings the links (lib -> usr/lib) that
// the other packages' paths go through, the kernel last.
func (b *baker) unpackPackages() error {
	b.step("unpack packages")
	packages := slices.Clone(b.Plan.Packages)
	slices.SortStableFunc(packages, func(x, y plan.Package) int {
		if (x.Name == "base-files") != (y.Name == "base-files") {
			if x.Name == "base-files" {
				return -1
			}
			return 1
		}
		return strings.Compare(x.Name, y.Name)
	})
	packages = append(packages, b.Plan.Kernel)
	b.layers = make([]*layer.Layer, len(packages))
	group, ctx := errgroup.WithContext(b.ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range slices.Backward(packages) { // the kernel takes longest
		group.Go(func() error { return b.openLayer(ctx, i, p) })
	}
	return group.Wait()
}

func (b *baker) openLayer(ctx context.Context, i int, p plan.Package) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l, err := b.layer(p)
	b.layers[i] = l
	return err
}

// layersOf is where a package's layer is. The kernel's has only the modules that the root tree gets.
func (b *baker) layersOf(p plan.Package) *layer.Store {
	if p.SHA256 != b.Plan.Kernel.SHA256 {
		return b.stages.layers
	}
	return b.stages.layers.Only(layer.Selection{
		Name: key(b.Plan.KernelRelease, b.Plan.Exclude, b.Plan.PruneModules)[:16],
		Keep: func(path string) bool { return !b.Plan.Excludes(path) && !b.prunedModule(path) },
	})
}

// layer is an unpacked package.
func (b *baker) layer(p plan.Package) (*layer.Layer, error) {
	l, err := b.layersOf(p).Open(p.SHA256, func() (string, error) { return b.Package(p.SHA256), nil })
	if err != nil {
		return nil, fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
	}
	if l.Package != p.Name || l.Version != p.Version {
		return nil, fmt.Errorf("%w: package %s %s: the file that it names is %s %s: was it edited by hand? `%s` writes it anew",
			plan.ErrBadLock, p.Name, p.Version, l.Package, l.Version, plan.LockCommand)
	}
	return l, nil
}

// bootFolder is where packages have EFI programs.
const bootFolder = "usr/lib/systemd/boot/efi/"

// biosFolder is where Debian's ipxe has its programs, and undionly the one for a BIOS's PXE ROM.
const (
	biosFolder = "usr/lib/ipxe/"
	undionly   = biosFolder + "undionly.kpxe"
)

// bootFiles are where the kernel, the EFI stub and the boot loaders lie in their packages. They go into the UKI, onto the
// ESP of disk images and beside the image; only the UEFI boot loader is in the root image too.
func (b *baker) bootFiles() map[string]*[]byte {
	arch := map[string]string{"amd64": "x64", "arm64": "aa64"}[b.Plan.Arch]
	files := map[string]*[]byte{
		"boot/vmlinuz-" + b.Plan.KernelRelease:    &b.kernel,
		"boot/config-" + b.Plan.KernelRelease:     &b.config,
		bootFolder + "linux" + arch + ".efi.stub": &b.stub,
	}
	if b.Plan.Arch == "amd64" {
		files[undionly] = &b.undionly
	}
	if len(b.wantedDisks()) > 0 {
		files[bootspec.Loader(b.Plan.Arch)] = &b.loader
	}
	return files
}

// assembleRoot puts packages, components and the role's files into the tree, in this order: a role's file wins over a
// package's.
func (b *baker) assembleRoot() error {
	b.step("assemble root tree")
	boot := b.bootFiles()
	packages := map[string]*layer.Layer{}
	for _, l := range b.layers {
		packages["package "+l.Package] = l
		for _, e := range l.Entries {
			into, boots := boot[e.Path]
			if boots {
				data, err := e.Content.Bytes()
				if err != nil {
					return fmt.Errorf("cannot read %s of %s: %w", e.Path, e.Origin, err)
				}
				*into = data
			}
			if e.Path == bootspec.Loader(b.Plan.Arch) { // it is in the root image too, for nodes that install themselves
				if err := b.signLoader(&e); err != nil {
					return err
				}
			} else if boots {
				continue
			}
			if b.leftOut(e.Path) {
				continue
			}
			if err := b.addFromPackage(e, packages); err != nil {
				return err
			}
		}
	}
	for p, content := range boot {
		if len(*content) == 0 && content != &b.undionly && content != &b.config { // without iPXE legacy BIOS can't boot, and nothing else misses it
			return fmt.Errorf("no package brings %s", p)
		}
	}
	if err := b.checkMachines(); err != nil {
		return err
	}
	for _, name := range b.Plan.Components {
		if err := addComponent(b.tree, b.components[name]); err != nil {
			return err
		}
	}
	if err := b.addDefinitionFiles(); err != nil {
		return err
	}
	return b.addRole()
}

// checkMachines refuses what firmware would: a kernel that is no EFI program, such as a packed one, and one of another machine.
func (b *baker) checkMachines() error {
	for _, part := range []struct {
		what string
		pe   []byte
	}{{"kernel " + b.Plan.KernelRelease, b.kernel}, {"EFI stub", b.stub}} {
		arch, err := uki.Machine(part.pe)
		if err != nil {
			return fmt.Errorf("the %s can't boot with UEFI: %w", part.what, err)
		}
		if arch != b.Plan.Arch {
			return fmt.Errorf("the %s is for %s, and the image for %s", part.what, arch, b.Plan.Arch)
		}
	}
	return nil
}

// addDefinitionFiles puts the definition's files into the tree; they win over a package's.
func (b *baker) addDefinitionFiles() error {
	for _, f := range b.Plan.Files {
		e := rootfs.Entry{Path: strings.TrimPrefix(f.Path, "/"), Type: rootfs.Regular, Mode: uint32(f.Mode), UID: f.UID, GID: f.GID, Link: f.Link, Origin: "the definition"}
		switch {
		case f.Link != "":
			e.Type = rootfs.Symlink
		case f.Directory:
			e.Type = rootfs.Directory
		default:
			if e.Content = rootfs.Inline(f.Content); fmt.Sprintf("%x", e.Content.SHA256) != f.SHA256 {
				return fmt.Errorf("file %s of the definition is not the one of the plan", f.Path)
			}
		}
		if err := b.tree.Replace(e); err != nil {
			return err
		}
	}
	return nil
}

// leftOut says whether a package's path is not for the root image.
func (b *baker) leftOut(p string) bool {
	if b.Plan.Excludes(p) || b.firmwareLeftOut(p) || strings.HasPrefix(p, biosFolder) ||
		strings.HasPrefix(p, bootFolder) && p != bootspec.Loader(b.Plan.Arch) {
		return true
	}
	return b.prunedModule(p)
}

// prunedModule says whether a path is of a kernel module that the definition leaves out.
func (b *baker) prunedModule(p string) bool {
	_, module, ok := strings.Cut(p, b.Plan.KernelRelease+"/kernel/")
	return ok && kmod.IsModule(p) && b.Plan.Prunes(module)
}

// addFromPackage adds a package's entry; where two packages bring the same file, Replaces decides as in dpkg.
func (b *baker) addFromPackage(e rootfs.Entry, packages map[string]*layer.Layer) error {
	err := b.tree.Add(e)
	var conflict *rootfs.ConflictError
	if !errors.As(err, &conflict) {
		return err
	}
	first, second := packages[conflict.First.Origin], packages[e.Origin]
	switch {
	case first == nil || second == nil:
		return err
	case replaces(second, first):
		return b.tree.Replace(e)
	case replaces(first, second):
		return nil
	}
	return fmt.Errorf("%w (neither replaces the other: leave a package out, or exclude the path and bring it with the role)", err)
}

func replaces(a, b *layer.Layer) bool {
	clauses, err := deb.ParseRelations(a.Replaces)
	if err != nil {
		return false
	}
	version, err := deb.ParseVersion(b.Version)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(clauses, func(c deb.Clause) bool {
		return slices.ContainsFunc(c, func(r deb.Relation) bool { return r.Name == b.Package && r.Allows(version) })
	})
}

func addComponent(t *rootfs.Tree, c component.Component) error {
	for _, f := range c.Files {
		e := rootfs.Entry{Path: strings.TrimPrefix(f.Path, "/"), Type: rootfs.Symlink, Mode: f.Mode, Link: f.Link, Origin: "component " + c.Name}
		if f.Link == "" {
			content, err := rootfs.File(f.Source, f.Size, f.SHA256)
			if err != nil {
				return fmt.Errorf("component %s: %w", c.Name, err)
			}
			e.Type, e.Content = rootfs.Regular, content
		}
		if err := t.Add(e); err != nil {
			return err
		}
	}
	return nil
}

// addRole puts the role's files, kernel modules and sysctls into the tree.
func (b *baker) addRole() error {
	put := func(p string, mode uint32, content []byte, link string) error {
		e := rootfs.Entry{Path: strings.TrimPrefix(p, "/"), Type: rootfs.Regular, Mode: mode, Content: rootfs.Inline(content), Origin: "role " + b.Role.Name}
		if link != "" {
			e.Type, e.Link, e.Content = rootfs.Symlink, link, rootfs.Content{}
		}
		return b.tree.Replace(e)
	}
	for _, f := range b.Role.Files {
		if err := put(f.Path, f.Mode, f.Content, f.Link); err != nil {
			return err
		}
	}
	var sysctls bytes.Buffer
	for _, k := range slices.Sorted(maps.Keys(b.Role.Sysctls)) {
		fmt.Fprintf(&sysctls, "%s = %s\n", k, b.Role.Sysctls[k])
	}
	if err := put("usr/lib/sysctl.d/90-slipway.conf", 0o644, sysctls.Bytes(), ""); err != nil {
		return err
	}
	modules := strings.Join(append(slices.Clone(b.Plan.Modules), ""), "\n")
	return put("usr/lib/modules-load.d/slipway.conf", 0o644, []byte(modules), "")
}

// indexModules reads all modules of the tree and writes depmod's indexes.
func (b *baker) indexModules() error {
	b.step("index kernel modules")
	folder := path.Join("usr/lib/modules", b.Plan.KernelRelease)
	var files []*rootfs.Entry
	for _, e := range b.tree.All() {
		if strings.HasPrefix(e.Path, folder+"/") && kmod.IsModule(e.Path) {
			files = append(files, e)
		}
	}
	modules := make([]kmod.Module, len(files))
	group := errgroup.Group{}
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, e := range files {
		group.Go(func() (err error) {
			modules[i], err = readModule(e, strings.TrimPrefix(e.Path, folder+"/"))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	index, err := b.newIndex(folder, modules)
	if err != nil {
		return err
	}
	b.modules = index
	if _, err := index.Closure(b.Plan.Modules); err != nil {
		return fmt.Errorf("the role loads a module that the image doesn't have: %w", err)
	}
	return addFiles(b.tree, folder, index.Files())
}

func readModule(e *rootfs.Entry, path string) (kmod.Module, error) {
	data, err := e.Content.Bytes()
	if err != nil {
		return kmod.Module{}, fmt.Errorf("cannot read %s of %s: %w", e.Path, e.Origin, err)
	}
	return kmod.Read(path, bytes.NewReader(data))
}

func (b *baker) newIndex(folder string, modules []kmod.Module) (*kmod.Index, error) {
	var lists [3][]byte
	for i, name := range []string{"modules.order", "modules.builtin", "modules.builtin.modinfo"} {
		data, err := b.tree.ReadFile(path.Join(folder, name))
		if err != nil {
			return nil, err
		}
		lists[i] = data
	}
	return kmod.NewIndex(modules, lists[0], lists[1], lists[2])
}

func addFiles(t *rootfs.Tree, folder string, files map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		e := rootfs.Entry{Path: path.Join(folder, name), Type: rootfs.Regular, Mode: 0o644, Content: rootfs.Inline(files[name]), Origin: "the kernel module index"}
		if err := t.Replace(e); err != nil {
			return err
		}
	}
	return nil
}

func (b *baker) finishRoot() error {
	b.step("finish root tree")
	return sysroot.Finish(b.tree, sysroot.Settings{
		Role: b.Plan.Role, Version: b.Plan.Version, Arch: b.Plan.Arch,
		Enable: b.Role.Enable, Mask: b.Role.Mask,
	})
}
