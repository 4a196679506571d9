// Package container has container images that come as they are, not made of a component: from OCI archives and from
// registries. It finds the one for an architecture, keeps what it is made of by digest in a cache folder, and says what
// could not be had.
//
// Words: an origin is where an image comes from; a manifest is the image for one architecture, and its digest names the
// whole image; blobs are its configuration and layers. Trust comes from digests alone: those of a definition or a lock.
//
// It does not write archives for nodes (builder/oci) and does not publish (builder/registry).
package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

// Origin is where an image comes from: one of both.
type Origin struct {
	Archive string // file: a tar of an OCI image layout, as `skopeo copy ... oci-archive:FILE` and `docker save` write it
	Source  string // registry.example.com/team/exporter@sha256:...
}

// String is the origin for people.
func (o Origin) String() string { return o.Archive + o.Source }

// Image is an image for one architecture.
type Image struct {
	Digest string // sha256:... of its manifest
	Size   int64  // bytes of the manifest and all it names
}

// ErrGone: the origin does not have the image (any more).
var ErrGone = errors.New("it is not there")

// Bounds of what is read into memory.
const (
	maxManifest = 4 << 20  // bytes of a manifest, an index or a configuration
	maxImage    = 16 << 30 // bytes of an image
)

// Media types of Docker's, which mean the same as those of OCI.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

func isIndex(d ocispec.Descriptor) bool {
	return d.MediaType == ocispec.MediaTypeImageIndex || d.MediaType == dockerList
}

func isManifest(d ocispec.Descriptor) bool {
	return d.MediaType == ocispec.MediaTypeImageManifest || d.MediaType == dockerManifest
}

// Resolve finds the image for an architecture (Go's name). Of an archive, and of an index in a registry, it is the one
// that says so; an image that says nothing must have a configuration that does.
func (s *Store) Resolve(ctx context.Context, o Origin, arch string) (Image, error) {
	found, err := s.resolve(ctx, o, arch)
	if err != nil {
		return Image{}, fmt.Errorf("cannot find container image in %s for %s: %w", o, arch, err)
	}
	return found, nil
}

func (s *Store) resolve(ctx context.Context, o Origin, arch string) (found Image, err error) {
	err = s.try(ctx, func() error {
		from, roots, err := open(ctx, o)
		if err != nil {
			return err
		}
		d, err := choose(ctx, from, roots, arch)
		if err != nil {
			return err
		}
		found, err = measure(ctx, from, d, arch)
		return err
	})
	return found, err
}

// choose walks indexes down to the one manifest for the architecture.
func choose(ctx context.Context, from content.Fetcher, roots []ocispec.Descriptor, arch string) (ocispec.Descriptor, error) {
	var fit, others []ocispec.Descriptor
	for depth := 0; len(roots) > 0; depth++ {
		if depth > 3 {
			return ocispec.Descriptor{}, final("indexes name indexes name indexes")
		}
		var next []ocispec.Descriptor
		for _, d := range roots {
			switch {
			case isIndex(d):
				var index ocispec.Index
				if err := read(ctx, from, d, &index); err != nil {
					return d, err
				}
				next = append(next, index.Manifests...)
			case !isManifest(d):
			case d.Platform == nil || d.Platform.OS == "linux" && d.Platform.Architecture == arch:
				fit = append(fit, d)
			default:
				others = append(others, d)
			}
		}
		roots = next
	}
	return pick(fit, others, arch)
}

func pick(fit, others []ocispec.Descriptor, arch string) (ocispec.Descriptor, error) {
	plain := slices.DeleteFunc(slices.Clone(fit), func(d ocispec.Descriptor) bool {
		return d.Platform != nil && d.Platform.Variant != "" && d.Platform.Variant != "v8"
	})
	switch {
	case len(fit) == 1:
		return fit[0], nil
	case len(plain) == 1:
		return plain[0], nil
	case len(fit) > 1:
		return ocispec.Descriptor{}, final("it has %d images for linux/%s: keep one", len(fit), arch)
	}
	var platforms []string
	for _, d := range others {
		if d.Platform.OS != "unknown" { // attestations
			platforms = append(platforms, d.Platform.OS+"/"+d.Platform.Architecture)
		}
	}
	if len(platforms) == 0 {
		return ocispec.Descriptor{}, final("it has no image")
	}
	return ocispec.Descriptor{}, final("it has no image for linux/%s (there are: %s)", arch, strings.Join(platforms, ", "))
}

// measure reads the manifest and checks what the configuration says of the architecture.
func measure(ctx context.Context, from content.Fetcher, d ocispec.Descriptor, arch string) (Image, error) {
	var m ocispec.Manifest
	if err := read(ctx, from, d, &m); err != nil {
		return Image{}, err
	}
	var config ocispec.Image
	if err := read(ctx, from, m.Config, &config); err != nil {
		return Image{}, err
	}
	if config.OS != "linux" || config.Architecture != arch {
		return Image{}, final("the image is for %s/%s", config.OS, config.Architecture)
	}
	size := d.Size + m.Config.Size
	for _, l := range m.Layers {
		if l.Size < 0 || size+l.Size > maxImage {
			return Image{}, final("the image is larger than %d GiB", int64(maxImage)>>30)
		}
		size += l.Size
	}
	return Image{Digest: d.Digest.String(), Size: size}, nil
}

// read reads a small JSON document and compares it with its digest.
func read(ctx context.Context, from content.Fetcher, d ocispec.Descriptor, out any) error {
	if d.Size < 0 || d.Size > maxManifest {
		return final("%s has %d bytes, more than the %d that are read", d.Digest, d.Size, maxManifest)
	}
	if d.Digest.Algorithm() != digest.SHA256 || d.Digest.Validate() != nil {
		return final("%q is not a SHA-256 digest", d.Digest)
	}
	data, err := content.FetchAll(ctx, from, d)
	if errors.Is(err, errdef.ErrNotFound) {
		return permanent{fmt.Errorf("%w: %s", ErrGone, d.Digest)}
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, out); err != nil {
		return final("%s: %v", d.Digest, err)
	}
	return nil
}

// permanent marks an error that trying again would not change.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

func final(format string, args ...any) error { return permanent{fmt.Errorf(format, args...)} }

// limited is a reader that refuses to be too long.
func limited(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = final("more than %d bytes", limit)
	}
	return data, err
}
