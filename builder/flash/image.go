package flash

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/blockmap"
	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// Reference says which image is meant.
type Reference struct {
	// Name is an image file or its http(s) URL; or one without the extension, of which SectorSize chooses it; or a folder
	// of baked images, from which Role, Version and SectorSize choose one.
	Name string
	// SHA256 is the image file's digest where there is no manifest beside it.
	SHA256 string

	Role, Version string // of the node; empty: any
	SectorSize    int    // of the device in bytes; 0: 512

	// Trust says whose signatures count. An image whose digest is given is taken without one: that vouches for it.
	Trust *release.Trust
}

// Image is an image that can be flashed, and what it must be.
type Image struct {
	Name       string // of its file, for people
	Size       int64  // of the disk image in bytes
	SectorSize int    // that it was made for, as its name says
	Role       string // empty without a manifest
	SHA256     string // of its file
	SignedBy   string // id of the key that vouches for it; empty where no signature was asked for

	shelf  shelf
	file   string
	packed bool
	blocks *blockmap.Map // nil: none
}

// ErrImage is what errors about images that cannot be flashed wrap: they are found before anything is written.
var ErrImage = errors.New("cannot use the image")

var errNoManifest = errors.New("there is no manifest")

// Open finds an image and its manifest. What the manifest says is compared while the image is written.
func Open(ctx context.Context, r Reference) (*Image, error) {
	i, err := open(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrImage, redacted(r.Name), err)
	}
	return i, nil
}

// redacted is a URL without its password.
func redacted(name string) string {
	if u, err := url.Parse(name); err == nil && u.User != nil {
		return u.Redacted()
	}
	return name
}

func open(ctx context.Context, r Reference) (*Image, error) {
	i := &Image{Name: redacted(r.Name)}
	if strings.HasPrefix(r.Name, "http://") || strings.HasPrefix(r.Name, "https://") {
		s, name, err := newSite(r.Name)
		if err != nil {
			return nil, err
		}
		i.shelf, i.file = s, name
	} else if err := i.findFolder(r); err != nil {
		return nil, err
	}
	base, form, named := splitName(i.file)
	if !named {
		base = i.file
	}
	m, err := i.readManifest(ctx, base, r)
	if !named && (errors.Is(err, errNoManifest) || m == nil && err == nil) {
		return nil, fmt.Errorf("its name does not end with %s, or with .zst after one of them", extensions())
	}
	if err != nil {
		return nil, err
	}
	if !named {
		if form, err = i.chooseForm(m, r.SectorSize); err != nil {
			return nil, err
		}
	}
	i.SectorSize, i.packed = form.sectorSize, strings.HasSuffix(i.file, bootspec.ExtZstd)
	return i, i.promise(ctx, m, r)
}

// form is a kind of image file.
type form struct {
	ext, kind  string
	sectorSize int
}

func forms() []form {
	return []form{{bootspec.ExtDisk, manifest.KindDisk, 512}, {bootspec.ExtDisk4K, manifest.KindDisk4K, 4096}, {bootspec.ExtISO, "", 512}}
}

func extensions() string {
	var list []string
	for _, f := range forms() {
		list = append(list, f.ext)
	}
	return strings.Join(list, ", ")
}

// splitName splits an image file's name; ok is false when it is none.
func splitName(name string) (base string, f form, ok bool) {
	name = strings.TrimSuffix(name, bootspec.ExtZstd)
	for _, f := range forms() {
		if base, ok := strings.CutSuffix(name, f.ext); ok {
			return base, f, true
		}
	}
	return "", form{}, false
}

// findFolder finds the folder of a local image, and its name there, which may lack the extension still.
func (i *Image) findFolder(r Reference) error {
	info, err := os.Stat(r.Name)
	if err != nil || !info.IsDir() {
		i.shelf, i.file = folder(filepath.Dir(r.Name)), filepath.Base(r.Name)
		return nil
	}
	if r.Role == "" {
		return errors.New("it is a folder: name an image in it, or the node (--cluster, --node)")
	}
	version := r.Version
	if version == "" {
		version = "*"
	}
	pattern := bootspec.ArtifactBase(r.Role, version, "*") + bootspec.ExtManifest
	found, err := filepath.Glob(filepath.Join(r.Name, pattern))
	found = slices.DeleteFunc(found, func(f string) bool { return !manifest.IsName(filepath.Base(f)) })
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return fmt.Errorf("the folder has no %s: bake it with `slipway bake --role %s --format disk`", pattern, r.Role)
	case len(found) > 1:
		return fmt.Errorf("the folder has %d files %s: name the image", len(found), pattern)
	}
	i.shelf, i.file = folder(r.Name), strings.TrimSuffix(filepath.Base(found[0]), bootspec.ExtManifest)
	i.Name = filepath.Join(r.Name, i.file)
	return nil
}

// chooseForm chooses a file of a manifest for a device's sectors, and one that is not packed first.
func (i *Image) chooseForm(m *manifest.Manifest, sectorSize int) (form, error) {
	if sectorSize == 0 {
		sectorSize = 512
	}
	for _, f := range forms() {
		for _, packing := range []string{"", manifest.FormZstd} {
			if a, ok := m.Artifact(f.kind + packing); ok && f.kind != "" && f.sectorSize == sectorSize {
				i.Name, i.file = strings.TrimSuffix(i.Name, i.file)+a.Name, a.Name
				return f, nil
			}
		}
	}
	format := map[int]string{512: manifest.KindDisk, 4096: manifest.KindDisk4K}[sectorSize]
	return form{}, fmt.Errorf("there is no disk image for sectors of %d bytes: bake it with `slipway bake --format %s`", sectorSize, format)
}

// readManifest reads the manifest of an image; nil when a digest is given instead.
func (i *Image) readManifest(ctx context.Context, base string, r Reference) (*manifest.Manifest, error) {
	if r.SHA256 != "" {
		return nil, nil
	}
	data, err := i.shelf.read(ctx, base+bootspec.ExtManifest, manifest.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		if f, ok := i.shelf.(folder); ok {
			if _, err := os.Stat(filepath.Join(string(f), i.file)); err != nil {
				return nil, bare(err)
			}
		}
		return nil, fmt.Errorf("%w %s beside it to verify it with: put it there, or give the file's digest with --sha256", errNoManifest, base+bootspec.ExtManifest)
	}
	if err != nil {
		return nil, err
	}
	m, err := manifest.Decode(data)
	if err != nil {
		return nil, err
	}
	key, err := r.Trust.Check(ctx, i.shelf.read, m, data)
	i.SignedBy = key.ID
	return m, err
}

// promise finds out what the image must be, and opens its file once to see that it is there.
func (i *Image) promise(ctx context.Context, m *manifest.Manifest, r Reference) error {
	in, size, err := i.shelf.open(ctx, i.file)
	if err != nil {
		return err
	}
	defer in.Close()
	if m == nil {
		if i.SHA256 = strings.ToLower(r.SHA256); len(i.SHA256) != 64 || strings.Trim(i.SHA256, "0123456789abcdef") != "" {
			return fmt.Errorf("%q is no SHA-256 value", r.SHA256)
		}
	} else if err := i.promised(ctx, m, size); err != nil {
		return err
	}
	switch {
	case i.blocks != nil:
		i.Size = i.blocks.ImageSize
		if !i.packed && i.Size != size {
			return fmt.Errorf("%w: its block map is of %d bytes, and it has %d", ErrDigest, i.Size, size)
		}
	case i.packed:
		const headerMax = 18 // bytes of a zstd frame's header (RFC 8878, 3.1.1.1) with its magic number
		head, err := start(in, headerMax)
		if err != nil {
			return err
		}
		i.Size, err = contentSize(head)
		return err
	default:
		i.Size = size
	}
	return nil
}

// promised takes from the manifest what the image must be, and its block map.
func (i *Image) promised(ctx context.Context, m *manifest.Manifest, size int64) error {
	a, ok := artifact(m, i.file)
	if !ok {
		return fmt.Errorf("its manifest does not list %s: they are not of the same bake", i.file)
	}
	if a.Size != size {
		return fmt.Errorf("%w: it has %d bytes, and its manifest says %d: copy it again", ErrDigest, size, a.Size)
	}
	i.Role, i.SHA256 = m.Role, a.SHA256
	name := strings.TrimSuffix(i.file, bootspec.ExtZstd) + bootspec.ExtBlockMap
	a, ok = artifact(m, name)
	if !ok {
		return nil
	}
	data, err := i.shelf.read(ctx, name, blockmap.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was not copied along: everything is read then
	}
	if err != nil {
		return err
	}
	if got := fmt.Sprintf("%x", sha256.Sum256(data)); got != a.SHA256 {
		return fmt.Errorf("%w: SHA-256 of %s is %s, not %s", ErrDigest, name, got, a.SHA256)
	}
	i.blocks, err = blockmap.Decode(data)
	if err == nil && i.blocks.BlockSize%block != 0 {
		err = fmt.Errorf("block map %s has blocks of %d bytes, not multiples of %d", name, i.blocks.BlockSize, block)
	}
	return err
}

func artifact(m *manifest.Manifest, name string) (manifest.Artifact, bool) {
	for _, a := range m.Artifacts {
		if a.Name == name {
			return a, true
		}
	}
	return manifest.Artifact{}, false
}

// open opens the image for one reading.
func (i *Image) open(ctx context.Context) (source, verifier, error) {
	in, _, err := i.shelf.open(ctx, i.file)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the image: %w", err)
	}
	s, v := &image{size: i.Size, done: func() error { return nil }}, verifier(nothing{})
	switch {
	case i.blocks != nil:
		v = newRangeDigests(i.blocks)
	case i.packed:
		d := newDigested(in, i.SHA256)
		s.done, in = d.verify, d
	default:
		v = newWholeDigest(i.SHA256)
	}
	if i.packed {
		u, err := unpack(in)
		if err != nil {
			in.Close()
			return nil, nil, fmt.Errorf("cannot read the image: %w", err)
		}
		in = u
	}
	s.in, s.run = in, in.run
	if i.blocks != nil {
		s.run = mapped(i.blocks)
	}
	return s, v, nil
}

// bare is an error without the path that the message around it says already.
func bare(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
