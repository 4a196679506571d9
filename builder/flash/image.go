package flash

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// Reference says which image is meant.
type Reference struct {
	// Name is an image file, or a folder of baked images, from which Role, Version and SectorSize choose one.
	Name string
	// SHA256 is the image file's digest where there is no manifest beside it.
	SHA256 string

	Role, Version string // of the node; empty: any
	SectorSize    int    // of the device; 0: any
}

// Image is an image that can be flashed, and what it must be.
type Image struct {
	Name       string // of its file, for people
	Size       int64  // of the disk image in bytes
	SectorSize int    // that it was made for, as its name says; 0: any
	Role       string // empty without a manifest
	SHA256     string // of its file

	open func(context.Context) (source, verifier, error)
}

// ErrImage is what errors about images that cannot be flashed wrap: they are found before anything is written.
var ErrImage = errors.New("cannot use the image")

// Open finds an image and its manifest. What the manifest says is compared while the image is written.
func Open(ctx context.Context, r Reference) (*Image, error) {
	i, err := openFile(r)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrImage, r.Name, err)
	}
	return i, nil
}

// forms are the kinds of files that can be flashed.
var forms = [...]struct {
	ext        string
	sectorSize int
}{
	{bootspec.ExtDisk, 512},
	{bootspec.ExtDisk4K, 4096},
	{bootspec.ExtISO, 512},
}

// form splits an image file's name.
func form(name string) (base string, sectorSize int, err error) {
	for _, f := range forms {
		if base, ok := strings.CutSuffix(name, f.ext); ok {
			return base, f.sectorSize, nil
		}
	}
	return "", 0, fmt.Errorf("its name does not end with %s, %s or %s", forms[0].ext, forms[1].ext, forms[2].ext)
}

func openFile(r Reference) (*Image, error) {
	info, err := os.Stat(r.Name)
	if err != nil {
		return nil, bare(err)
	}
	if info.IsDir() {
		if r.Name, err = choose(r); err != nil {
			return nil, err
		}
		if info, err = os.Stat(r.Name); err != nil {
			return nil, bare(err)
		}
	}
	base, sectorSize, err := form(filepath.Base(r.Name))
	if err != nil {
		return nil, err
	}
	i := &Image{Name: r.Name, Size: info.Size(), SectorSize: sectorSize}
	if err := i.promise(r, func() ([]byte, error) {
		return readManifest(filepath.Join(filepath.Dir(r.Name), base+bootspec.ExtManifest))
	}); err != nil {
		return nil, err
	}
	i.open = func(context.Context) (source, verifier, error) {
		f, err := os.Open(r.Name)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot read the image: %w", bare(err))
		}
		return newRawFile(f, i.Size), newWholeDigest(i.SHA256), nil
	}
	return i, nil
}

// promise finds out what the image's file must be.
func (i *Image) promise(r Reference, read func() ([]byte, error)) error {
	if r.SHA256 != "" {
		if i.SHA256 = strings.ToLower(r.SHA256); len(i.SHA256) != 64 || strings.Trim(i.SHA256, "0123456789abcdef") != "" {
			return fmt.Errorf("%q is no SHA-256 value", r.SHA256)
		}
		return nil
	}
	data, err := read()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no manifest beside it to verify it with (%w): put it there, or give the file's digest with --sha256", err)
	}
	if err != nil {
		return err
	}
	m, err := manifest.Decode(data)
	if err != nil {
		return err
	}
	for _, a := range m.Artifacts {
		if a.Name != filepath.Base(i.Name) {
			continue
		}
		if a.Size != i.Size {
			return fmt.Errorf("%w: it has %d bytes, and its manifest says %d: copy it again", ErrDigest, i.Size, a.Size)
		}
		i.Role, i.SHA256 = m.Role, a.SHA256
		return nil
	}
	return fmt.Errorf("its manifest does not list %s: put both there again", filepath.Base(i.Name))
}

func readManifest(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > manifest.MaxSize {
		return nil, fmt.Errorf("%s: %d bytes are over the limit of %d", path, info.Size(), manifest.MaxSize)
	}
	return os.ReadFile(path)
}

// choose finds the one image in a folder that fits a node and a device.
func choose(r Reference) (string, error) {
	version := r.Version
	if version == "" {
		version = "*"
	}
	sector := r.SectorSize
	if sector == 0 {
		sector = 512
	}
	ext := map[int]string{512: bootspec.ExtDisk, 4096: bootspec.ExtDisk4K}[sector]
	if r.Role == "" {
		return "", errors.New("it is a folder: name an image in it, or the node (--cluster, --node)")
	}
	pattern := bootspec.ArtifactBase(r.Role, version, "*") + ext
	found, err := filepath.Glob(filepath.Join(r.Name, pattern))
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", fmt.Errorf("the folder has no %s: bake it with `slipway bake --role %s --format disk`, or disk-4k for sectors of 4096 bytes", pattern, r.Role)
	case len(found) > 1:
		return "", fmt.Errorf("the folder has %d files %s: name one of them", len(found), pattern)
	}
	return found[0], nil
}

// bare is an error without the path that the message around it says already.
func bare(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
