package bake

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-os/slipway/builder/component"
	"github.com/slipway-os/slipway/builder/kmod"
	"github.com/slipway-os/slipway/builder/rootfs"
)

// The initrd is several cpio archives, one zstd frame each, which the kernel unpacks one after the other. They are compressed side
// by side, and each is a stage: who changes the agent doesn't wait for the kernel modules.

// archiveSize is of how many bytes of files an archive of the initrd is, at least. Smaller ones compress worse: a hundredth with 8 MiB.
const archiveSize = 16 << 20

// beginInitrd has the initrd packed, beside what follows.
func (b *baker) beginInitrd() error {
	tree, err := b.initrdTree()
	if err != nil {
		return err
	}
	b.waitInitrd = b.beside(func() error { return b.packInitrd(tree) })
	return nil
}

func (b *baker) finishInitrd() error { return b.waitInitrd() }

// packInitrd makes the initrd: the agent as /init, the plan's components, and kernel modules with text indexes.
func (b *baker) packInitrd(tree *rootfs.Tree) error {
	if err := b.waitTools(); err != nil {
		return err
	}
	var about file
	content, cached, err := b.stages.stage("initrd-"+b.Plan.Arch, b.initrdKey(tree.Digest()), &about, func(path string) (err error) {
		b.step("pack initrd")
		parts, err := b.initrdParts(tree)
		if err != nil {
			return err
		}
		about, err = create(path, func(w io.Writer) error {
			for _, p := range parts {
				if err := p.CopyTo(w); err != nil {
					return err
				}
			}
			return nil
		})
		return err
	})
	if cached {
		b.Progress(Step{"pack initrd", true})
	}
	b.initrd = content
	return err
}

// initrdKey is the key of what is compressed of something with that digest.
func (b *baker) initrdKey(digest [sha256.Size]byte) string {
	return key(initrdFormat, fmt.Sprintf("%x", digest), b.Plan.Epoch, b.programs.compressor)
}

// initrdParts are the compressed archives.
func (b *baker) initrdParts(tree *rootfs.Tree) ([]rootfs.Content, error) {
	archives := tree.CPIO(archiveSize)
	parts := make([]rootfs.Content, len(archives))
	group, ctx := errgroup.WithContext(b.ctx)
	for i, a := range archives {
		group.Go(func() error {
			var about file
			name := fmt.Sprintf("initrd-%s-part%d", b.Plan.Arch, i)
			content, _, err := b.stages.stage(name, b.initrdKey(a.Digest()), &about, func(path string) (err error) {
				defer b.compressing()()
				about, err = create(path, func(w io.Writer) error { return b.programs.compress(ctx, w, a, b.Plan.Epoch) })
				return err
			})
			parts[i] = content
			return err
		})
	}
	return parts, group.Wait()
}

// compress writes an archive: with libzstd, which takes a third of the time of Go's encoder and gives less, or with that one. The
// windows of both fit what the kernel's decompressor takes (8 MiB and less always do).
func (p toolbox) compress(ctx context.Context, w io.Writer, a rootfs.Archive, epoch int64) error {
	if run := p.zstdWriter(ctx); run != nil {
		return run(w, func(w io.Writer) error { return a.Write(w, epoch) })
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return err
	}
	if err := a.Write(contextWriter{ctx, z}, epoch); err != nil {
		return err
	}
	return z.Close()
}

func (b *baker) initrdTree() (*rootfs.Tree, error) {
	t := rootfs.New()
	const origin = "the initrd's own base"
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys", "sysroot", "tmp", "usr/bin", "usr/lib", "var"} {
		if err := t.Add(rootfs.Entry{Path: dir, Type: rootfs.Directory, Mode: 0o755, Origin: origin}); err != nil {
			return nil, err
		}
	}
	for _, e := range []rootfs.Entry{
		{Path: "bin", Type: rootfs.Symlink, Link: "usr/bin", Origin: origin},
		{Path: "sbin", Type: rootfs.Symlink, Link: "usr/bin", Origin: origin},
		{Path: "lib", Type: rootfs.Symlink, Link: "usr/lib", Origin: origin},
		{Path: "dev/console", Type: rootfs.CharDevice, Mode: 0o600, Major: 5, Minor: 1, Origin: origin},
	} {
		if err := t.Add(e); err != nil {
			return nil, err
		}
	}
	for _, name := range b.Plan.Initrd.Components {
		if err := addComponent(t, b.components[name]); err != nil {
			return nil, err
		}
	}
	if err := b.addInit(t); err != nil {
		return nil, err
	}
	return t, b.addInitrdModules(t)
}

// addInit makes the agent's binary /init.
func (b *baker) addInit(t *rootfs.Tree) error {
	files := b.components[agent].Files
	i := slices.IndexFunc(files, func(f component.File) bool { return path.Base(f.Path) == agent && f.Link == "" })
	if i < 0 {
		return fmt.Errorf("component %s has no binary of that name", agent)
	}
	content, err := rootfs.File(files[i].Source, files[i].Size, files[i].SHA256)
	if err != nil {
		return err
	}
	return t.Add(rootfs.Entry{Path: "init", Type: rootfs.Regular, Mode: 0o755, Content: content, Origin: "component " + agent})
}

// addInitrdModules adds the plan's modules for the initrd and all they need, in the same folder as in the root image.
func (b *baker) addInitrdModules(t *rootfs.Tree) error {
	modules, err := b.modules.Closure(b.Plan.Initrd.Modules)
	if err != nil {
		return fmt.Errorf("cannot choose the initrd's modules: %w", err)
	}
	folder := path.Join("usr/lib/modules", b.Plan.KernelRelease)
	for _, m := range modules {
		e, ok := b.tree.Lookup(path.Join(folder, m.Path))
		if !ok {
			return fmt.Errorf("kernel module %s is not in the root tree", m.Path)
		}
		if err := t.Add(*e); err != nil {
			return err
		}
		if err := b.addFirmware(t, m); err != nil {
			return err
		}
	}
	index, err := b.newIndex(folder, modules)
	if err != nil {
		return err
	}
	builtin, err := b.tree.ReadFile(path.Join(folder, "modules.builtin"))
	if err != nil {
		return err
	}
	files := index.TextFiles()
	files["modules.builtin"] = builtin
	return addFiles(t, folder, files)
}

// addFirmware adds the files that a module may ask for, those that packages have brought. Links are followed: the initrd has
// the file by the name that the module uses.
func (b *baker) addFirmware(t *rootfs.Tree, m kmod.Module) error {
	for _, name := range m.Firmware {
		p := path.Join("usr/lib/firmware", name)
		e, ok := b.tree.Resolve(p)
		if !ok || e.Type != rootfs.Regular || !strings.HasPrefix(p, "usr/lib/firmware/") {
			continue
		}
		file := *e
		file.Path = p
		if err := t.Replace(file); err != nil {
			return err
		}
	}
	return nil
}
