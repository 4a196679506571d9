package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/slipway-os/slipway/builder/publish"
	"github.com/slipway-os/slipway/builder/release"
)

// sealed is what is published, and by which artifact that was said.
type sealed struct {
	index  *publish.Index
	digest digest.Digest // of the artifact that the tag _index names; empty: there is none
}

// signed reads the signed index, without verifying it. fs.ErrNotExist: there is none.
func (r *Repository) signed(ctx context.Context) (sealed, error) {
	d, body, err := r.remote.FetchReference(ctx, indexTag)
	if err != nil {
		return sealed{}, r.explain(err)
	}
	defer body.Close()
	data, err := readAll(body, d)
	if err != nil {
		return sealed{}, err
	}
	layer, err := indexLayer(data)
	if err != nil {
		return sealed{}, publish.Final{Err: fmt.Errorf("tag %s: %w", indexTag, err)}
	}
	text, err := r.remote.Blobs().Fetch(ctx, layer)
	if err != nil {
		return sealed{}, r.explain(err)
	}
	defer text.Close()
	if data, err = content.ReadAll(text, layer); err != nil {
		return sealed{}, err
	}
	x, err := publish.DecodeIndex(data)
	if err != nil {
		return sealed{}, publish.Final{Err: fmt.Errorf("tag %s: %w", indexTag, err)}
	}
	return sealed{x, d.Digest}, nil
}

// indexLayer reads the manifest of an artifact with an index.
func indexLayer(data []byte) (ocispec.Descriptor, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return ocispec.Descriptor{}, err
	}
	if m.ArtifactType != TypeIndex || len(m.Layers) != 1 {
		return ocispec.Descriptor{}, errors.New("it is no index of Slipway's releases")
	}
	l := m.Layers[0]
	if l.Size < 0 || l.Size > publish.MaxIndex || l.Digest.Validate() != nil {
		return ocispec.Descriptor{}, fmt.Errorf("its index has %d bytes (%s)", l.Size, l.Digest)
	}
	return l, nil
}

// findSigned finds a release by the signed index, and takes it by the digest that this names. A version, and where the guard allows it a
// channel, may be had from a repository without one.
func (r *Repository) findSigned(ctx context.Context, w publish.Want) (publish.Release, error) {
	channel := w.Version == ""
	s, err := r.signed(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		if err := r.Guard.Check(r.String(), publish.NewIndex(), channel); err != nil {
			return publish.Release{}, publish.Final{Err: err}
		}
		return r.findTag(ctx, w)
	}
	if err != nil {
		return publish.Release{}, err
	}
	if err := r.Guard.Check(r.String(), s.index, channel); err != nil {
		return publish.Release{}, publish.Final{Err: err}
	}
	want, err := s.index.Find(w)
	if err != nil {
		return publish.Release{}, err
	}
	if digest.Digest(want.OCI).Validate() != nil {
		return want, publish.Final{Err: fmt.Errorf("the signed index names no manifest of version %s: it is one of a folder", want.Version)}
	}
	found, err := r.load(ctx, want.OCI)
	if errors.Is(err, fs.ErrNotExist) {
		return found, fmt.Errorf("version %s is in the signed index, but %s is not there: %w", want.Version, want.OCI, err)
	}
	if err == nil && found.Version != want.Version {
		err = publish.Final{Err: fmt.Errorf("%w: %s is version %s, not %s", release.ErrSignature, want.OCI, found.Version, want.Version)}
	}
	return found, err
}

// before is what is published before a change: the signed index, if the change may be made to it, else what tags tell of it.
func (r *Repository) before(ctx context.Context, o publish.Order, described *publish.Release) (sealed, error) {
	s, err := r.signed(ctx)
	if err == nil {
		if err = r.Guard.Writes(r.String(), s.index, o.Sealing); err != nil {
			err = publish.Final{Err: err}
		}
		return s, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if o.Sealing == nil {
		s.index, err = r.state(ctx, o, described)
		return s, err
	}
	if s.index, err = r.all(ctx); err != nil {
		return s, err
	}
	if err = r.Guard.Writes(r.String(), s.index, o.Sealing); err != nil {
		err = publish.Final{Err: err}
	}
	return s, err
}

// all reads all that tags name, with all files.
func (r *Repository) all(ctx context.Context) (*publish.Index, error) {
	x, err := r.list(ctx, func(x *publish.Index, v string) error {
		found, err := r.load(ctx, tag(v))
		if err == nil {
			_, err = x.Add(found)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, known := range x.Releases {
		for channel, v := range x.Channels {
			if known.Digest == "" && v == known.Version { // it has no tag of its own any more
				if x.Releases[i], err = r.load(ctx, channel); err != nil {
					return nil, err
				}
			}
		}
	}
	return x, nil
}

// named is the index document of a version: where the place is signed, that which the signed index names.
func (r *Repository) named(ctx context.Context, x *publish.Index, v string) (document, error) {
	reference := tag(v)
	if found, err := x.Release(v); err == nil && x.Seal != nil {
		reference = found.OCI
	}
	var d document
	err := r.retry(ctx, func(ctx context.Context) (err error) {
		d, _, _, err = r.index(ctx, reference)
		return err
	})
	return d, err
}

// seal signs the index and makes its tag name it, unless somebody else has changed it meanwhile: registries can't replace a tag only
// where it is what one has read, so it is looked at right before, and read back after.
func (r *Repository) seal(ctx context.Context, s *publish.Sealing, before sealed) error {
	x := before.index
	if err := s.Seal(x); err != nil {
		return err
	}
	text := x.Encode()
	file := release.File{Name: publish.IndexName, Size: int64(len(text)), SHA256: digest.FromBytes(text).Encoded()}
	d := artifact(TypeIndex, strconv.FormatInt(x.Seal.Counter, 10), []release.File{file}, nil)
	p := &pusher{Repository: r}
	for _, blob := range []struct {
		ocispec.Descriptor
		data []byte
	}{
		{ocispec.DescriptorEmptyJSON, ocispec.DescriptorEmptyJSON.Data},
		{ocispec.Descriptor{MediaType: TypeFile, Digest: digest.FromBytes(text), Size: int64(len(text))}, text},
	} {
		if err := p.blob(ctx, blob.Descriptor, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob.data)), nil }); err != nil {
			return fmt.Errorf("cannot push the signed index: %w", err)
		}
	}
	if err := r.stillIndex(ctx, before.digest); err != nil {
		return err
	}
	if err := r.pushManifest(ctx, d, indexTag); err != nil {
		return fmt.Errorf("cannot push tag %s: %w", indexTag, err)
	}
	if err := wait(ctx, r.Settle); err != nil {
		return err
	}
	if err := r.stillIndex(ctx, d.Digest); err != nil {
		return err
	}
	return r.Guard.Wrote(r.String(), x)
}

// stillIndex wants the tag of the signed index to name what it should; empty: to be not there.
func (r *Repository) stillIndex(ctx context.Context, want digest.Digest) error {
	var d ocispec.Descriptor
	err := r.retry(ctx, func(ctx context.Context) (err error) {
		d, err = r.remote.Resolve(ctx, indexTag)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil && d.Digest != want {
		err = fmt.Errorf("%w: somebody else changed them at the same moment; run it again", publish.ErrRefused)
	}
	return err
}
