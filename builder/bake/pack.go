package bake

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

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
	initrdFormat = 2
	imageFormat  = 2
)

// beginContainerImages has an archive of each container image made, beside what follows.
func (b *baker) beginContainerImages() error {
	for _, i := range b.Plan.ContainerImages {
		var a imageFile
		wait := b.beside(func() (err error) {
			a, err = b.makeContainerImage(i)
			return err
		})
		b.imageFiles = append(b.imageFiles, func() (imageFile, error) { err := wait(); return a, err })
	}
	return nil
}

// imageFile is a container image as a file.
type imageFile struct {
	digest  string // of the image
	content rootfs.Content
}

// addContainerImages puts the container images into the tree, where the node imports them from.
func (b *baker) addContainerImages() error {
	b.images = []manifest.Image{}
	for n, i := range b.Plan.ContainerImages {
		a, err := b.imageFiles[n]()
		if err != nil {
			return err
		}
		b.images = append(b.images, manifest.Image{Reference: i.Reference, Digest: a.digest})
		p := path.Join(strings.TrimPrefix(bootspec.ContainerImagesDirectory, "/"), i.Name+".tar")
		if err := b.tree.Add(rootfs.Entry{Path: p, Type: rootfs.Regular, Mode: 0o644, Content: a.content, Origin: "container image " + i.Name}); err != nil {
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

func (b *baker) makeContainerImage(i plan.ContainerImage) (imageFile, error) {
	if i.Digest != "" {
		return b.packForeignImage(i)
	}
	c := b.components[i.Component]
	if len(i.Entrypoint) == 0 {
		return imageFile{}, fmt.Errorf("container image %s has no entry point", i.Name)
	}
	if err := b.waitTools(); err != nil {
		return imageFile{}, err
	}
	var about ociArchive
	k := key(imageFormat, fmt.Sprintf("%+v", i), c.Key, b.Plan.Arch, b.Plan.Epoch, b.programs.compressor)
	content, cached, err := b.stages.stage("oci-"+i.Name, k, &about, func(path string) error {
		b.step("make container image " + i.Name)
		files := rootfs.New()
		if err := addComponent(files, c); err != nil {
			return err
		}
		if _, ok := files.Resolve(strings.TrimPrefix(i.Entrypoint[0], "/")); !ok {
			return fmt.Errorf("container image %s: component %s brings no %s, its entry point", i.Name, c.Name, i.Entrypoint[0])
		}
		var err error
		defer b.compressing()()
		about.file, err = create(path, func(w io.Writer) error {
			about.Digest, err = oci.Write(w, oci.Image{
				Reference: i.Reference, Arch: b.Plan.Arch, Entrypoint: i.Entrypoint, Args: i.Args, User: i.User, Ports: i.Ports,
				Files: files, Epoch: b.Plan.Epoch, Zstd: b.programs.zstdWriter(b.ctx),
			})
			return err
		})
		return err
	})
	if cached {
		b.Progress(Step{"make container image " + i.Name, true})
	}
	return imageFile{about.Digest, content}, err
}

// packForeignImage is makeContainerImage of one that comes as it is.
func (b *baker) packForeignImage(i plan.ContainerImage) (imageFile, error) {
	if b.Blob == nil {
		return imageFile{}, fmt.Errorf("container image %s: nothing was fetched", i.Name)
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
	if cached {
		b.Progress(Step{"pack container image " + i.Name, true})
	}
	return imageFile{about.Digest, content}, err
}

// rootImage is what is known of a root image.
type rootImage struct {
	file
	Hash string // dm-verity root hash
	Data int64  // bytes of squashfs, padded
}

// packRoot makes the root image, and writes it: the initrd may still be at work.
func (b *baker) packRoot() error {
	if err := b.waitTools(); err != nil {
		return err
	}
	mksquashfs, version, err := b.mksquashfs()
	if err != nil {
		return err
	}
	c := b.Plan.Compression
	o := squashfs.Options{Algorithm: c.Algorithm, Level: c.Level, BlockSize: c.BlockSize, Epoch: b.Plan.Epoch}
	k := key(rootFormat, fmt.Sprintf("%x", b.tree.Digest()), fmt.Sprintf("%+v", o), version)
	content, cached, err := b.stages.stage("root-"+b.Plan.Role, k, &b.root, func(path string) (err error) {
		b.step("pack root image")
		packer := squashfs.Packer{Program: mksquashfs, Tool: version, Store: b.stages.pieces, Name: b.Plan.Role + "-" + b.Plan.Arch}
		if err := packer.Write(b.ctx, path, b.tree, o); err != nil {
			return err
		}
		b.step("hash root image")
		b.root, err = seal(b.ctx, path, k)
		return err
	})
	if cached {
		b.Progress(Step{"pack root image", true})
	}
	if err != nil {
		return err
	}
	b.rootFile = content
	return b.out.artifact(manifest.KindRoot, b.base()+bootspec.ExtRoot, content.CopyTo)
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
