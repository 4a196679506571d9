package bake

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-os/slipway/builder/component"
	"github.com/slipway-os/slipway/builder/kmod"
	"github.com/slipway-os/slipway/builder/oci"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/builder/rootfs"
	"github.com/slipway-os/slipway/builder/squashfs"
	"github.com/slipway-os/slipway/builder/verity"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// Formats are part of the stages' keys: count one up when the code makes other bytes of the same input.
const (
	rootFormat   = 2
	initrdFormat = 1
	imageFormat  = 1
)

// addContainerImages makes an archive of each container image and puts it into the tree.
func (b *baker) addContainerImages() error {
	b.images = []manifest.Image{}
	for _, i := range b.Plan.ContainerImages {
		if err := b.addContainerImage(i); err != nil {
			return err
		}
	}
	return nil
}

// ociArchive is what is known of a container image's archive.
type ociArchive struct {
	file
	Digest string
}

func (b *baker) addContainerImage(i plan.ContainerImage) error {
	if i.Digest != "" {
		return b.addForeignImage(i)
	}
	c := b.components[i.Component]
	if len(i.Entrypoint) == 0 {
		return fmt.Errorf("container image %s has no entry point", i.Name)
	}
	var about ociArchive
	content, cached, err := b.stages.stage("oci-"+i.Name, key(imageFormat, fmt.Sprintf("%+v", i), c.Key, b.Plan.Arch, b.Plan.Epoch), &about, func(path string) error {
		b.step("make container image " + i.Name)
		files := rootfs.New()
		if err := addComponent(files, c); err != nil {
			return err
		}
		if _, ok := files.Resolve(strings.TrimPrefix(i.Entrypoint[0], "/")); !ok {
			return fmt.Errorf("container image %s: component %s brings no %s, its entry point", i.Name, c.Name, i.Entrypoint[0])
		}
		var err error
		about.file, err = create(path, func(w io.Writer) error {
			about.Digest, err = oci.Write(w, oci.Image{
				Reference: i.Reference, Arch: b.Plan.Arch, Entrypoint: i.Entrypoint, Args: i.Args, User: i.User, Ports: i.Ports,
				Files: files, Epoch: b.Plan.Epoch,
			})
			return err
		})
		return err
	})
	if err != nil {
		return err
	}
	if cached {
		b.Progress(Step{"make container image " + i.Name, true})
	}
	return b.placeImage(i, about.Digest, content)
}

// addForeignImage is addContainerImage of one that comes as it is.
func (b *baker) addForeignImage(i plan.ContainerImage) error {
	if b.Blob == nil {
		return fmt.Errorf("container image %s: nothing was fetched", i.Name)
	}
	var about ociArchive
	content, cached, err := b.stages.stage("oci-"+i.Name, key(imageFormat, i.Reference, i.Digest, b.Plan.Arch, b.Plan.Epoch), &about, func(path string) (err error) {
		b.step("pack container image " + i.Name)
		about.Digest = i.Digest
		about.file, err = create(path, func(w io.Writer) error {
			return oci.WriteForeign(contextWriter{b.ctx, w}, oci.Foreign{Reference: i.Reference, Digest: i.Digest, Arch: b.Plan.Arch, Epoch: b.Plan.Epoch, Blob: b.Blob})
		})
		return err
	})
	if err != nil {
		return err
	}
	if cached {
		b.Progress(Step{"pack container image " + i.Name, true})
	}
	return b.placeImage(i, about.Digest, content)
}

// placeImage puts an image's archive where the node imports it from.
func (b *baker) placeImage(i plan.ContainerImage, digest string, content rootfs.Content) error {
	b.images = append(b.images, manifest.Image{Reference: i.Reference, Digest: digest})
	p := path.Join(strings.TrimPrefix(bootspec.ContainerImagesDirectory, "/"), i.Name+".tar")
	return b.tree.Add(rootfs.Entry{Path: p, Type: rootfs.Regular, Mode: 0o644, Content: content, Origin: "container image " + i.Name})
}

// packRootAndInitrd does both at the same time.
func (b *baker) packRootAndInitrd() error {
	group, ctx := errgroup.WithContext(b.ctx)
	group.Go(func() error { return b.packRoot(ctx) })
	group.Go(func() error { return b.packInitrd(ctx) })
	return group.Wait()
}

// rootImage is what is known of a root image.
type rootImage struct {
	file
	Hash string // dm-verity root hash
	Data int64  // bytes of squashfs, padded
}

func (b *baker) packRoot(ctx context.Context) error {
	mksquashfs, version, err := b.mksquashfs(ctx)
	if err != nil {
		return err
	}
	c := b.Plan.Compression
	o := squashfs.Options{Algorithm: c.Algorithm, Level: c.Level, BlockSize: c.BlockSize, Epoch: b.Plan.Epoch}
	k := key(rootFormat, fmt.Sprintf("%x", b.tree.Digest()), fmt.Sprintf("%+v", o), version)
	content, cached, err := b.stages.stage("root-"+b.Plan.Role, k, &b.root, func(path string) error {
		b.step("pack root image")
		packer := squashfs.Packer{Program: mksquashfs, Tool: version, Store: b.stages.pieces, Name: b.Plan.Role + "-" + b.Plan.Arch}
		if err := packer.Write(ctx, path, b.tree, o); err != nil {
			return err
		}
		b.step("hash root image")
		b.root, err = seal(ctx, path, k)
		return err
	})
	if cached {
		b.Progress(Step{"pack root image", true})
	}
	b.rootFile = content
	return err
}

// seal pads a squashfs file to whole blocks and puts its verity tree behind it. Salt and UUID follow from the key, so
// that equal content gets equal bytes.
func seal(ctx context.Context, path, key string) (rootImage, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return rootImage{}, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return rootImage{}, err
	}
	data := size + verity.Pad(size)
	if err := f.Truncate(data); err != nil {
		return rootImage{}, err
	}
	salt, id := sha256.Sum256([]byte("slipway verity salt "+key)), sha256.Sum256([]byte("slipway verity uuid "+key))
	uuid := [16]byte(id[:16])
	uuid[6], uuid[8] = uuid[6]&0x0f|0x80, uuid[8]&0x3f|0x80 // version 8: our own (RFC 9562, section 5.8)
	tree, err := verity.Build(ctx, f, data, salt, uuid)
	if err != nil {
		return rootImage{}, err
	}
	if _, err := f.WriteAt(tree.Bytes, data); err != nil {
		return rootImage{}, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return rootImage{}, err
	}
	h := sha256.New()
	total, err := io.Copy(h, f)
	if err != nil {
		return rootImage{}, err
	}
	known := file{total, fmt.Sprintf("%x", h.Sum(nil))}
	return rootImage{file: known, Hash: fmt.Sprintf("%x", tree.RootHash), Data: data}, f.Close()
}

// packInitrd makes the initrd: the agent as /init, the plan's components, and kernel modules with text indexes.
func (b *baker) packInitrd(ctx context.Context) error {
	tree, err := b.initrdTree()
	if err != nil {
		return err
	}
	var about file
	content, cached, err := b.stages.stage("initrd-"+b.Plan.Arch, key(initrdFormat, fmt.Sprintf("%x", tree.Digest()), b.Plan.Epoch), &about, func(path string) error {
		b.step("pack initrd")
		about, err = create(path, func(w io.Writer) error { return compress(ctx, w, tree, b.Plan.Epoch) })
		return err
	})
	if cached {
		b.Progress(Step{"pack initrd", true})
	}
	b.initrd = content
	return err
}

// compress writes an initrd. The window fits what the kernel's decompressor takes (8 MiB and less always do).
func compress(ctx context.Context, w io.Writer, tree *rootfs.Tree, epoch int64) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return err
	}
	if err := tree.WriteCPIO(contextWriter{ctx, z}, epoch); err != nil {
		return err
	}
	return z.Close()
}

// contextWriter fails when its context ends.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c contextWriter) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(p)
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
