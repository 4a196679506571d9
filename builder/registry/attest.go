package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-os/slipway/builder/provenance"
	"github.com/slipway-os/slipway/builder/publish"
	"github.com/slipway-os/slipway/builder/sigstore"
)

// Words of cosign's about bundles that are attached to what a registry has (cosign, specs/BUNDLE_SPEC and pkg/types).
const (
	signPredicate    = "https://sigstore.dev/cosign/sign/v1" // somebody vouches for it, and says no more
	contentKey       = "dev.sigstore.bundle.content"
	predicateTypeKey = "dev.sigstore.bundle.predicateType"
)

// attest attaches bundles to a release that is pushed and has no tag yet: the key's signature to the index, and to each image its
// provenance, which is about the artifact's digest then and not about files. cosign finds them as referrers (distribution specification 1.1).
// Slipway itself goes by the checksum file and the signed index. The same release and key give the same bytes.
func (r *Repository) attest(ctx context.Context, o publish.Order, l layout) error {
	key := o.Sealing.By.Sigstore
	if err := r.attach(ctx, key, l.index.Descriptor, signPredicate, signStatement(l.index.Digest)); err != nil {
		return fmt.Errorf("cannot attach a signature: %w", err)
	}
	for n, i := range o.Release.Images {
		name := provenance.FileName(i.Role, i.Version, i.Arch)
		text, err := fs.ReadFile(o.From.FS(), name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && digest.FromBytes(text).Encoded() != o.Release.Sums[name] {
			err = errors.New("it was changed; sign the release again")
		}
		if err == nil {
			text, err = provenance.Of(text, i.Role, l.children[n].Digest.Encoded())
		}
		if err == nil {
			err = r.attach(ctx, key, l.children[n].Descriptor, provenance.PredicateType, text)
		}
		if err != nil {
			return fmt.Errorf("cannot attach %s: %w", name, err)
		}
	}
	return nil
}

// signStatement is the statement that cosign makes to sign something.
func signStatement(d digest.Digest) []byte {
	text, err := json.Marshal(map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "predicateType": signPredicate, "predicate": map[string]any{},
		"subject": []any{map[string]any{"digest": map[string]string{"sha256": d.Encoded()}}},
	})
	if err != nil {
		panic("registry: " + err.Error()) // plain maps always encode
	}
	return text
}

// attach signs a statement and pushes its bundle as what refers to a subject.
func (r *Repository) attach(ctx context.Context, key *sigstore.PrivateKey, subject ocispec.Descriptor, predicate string, statement []byte) error {
	data, err := key.SignStatement(statement)
	if err != nil {
		return err
	}
	blob := ocispec.Descriptor{MediaType: sigstore.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := (&pusher{Repository: r}).blob(ctx, blob, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }); err != nil {
		return err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: sigstore.MediaType, Config: ocispec.DescriptorEmptyJSON,
		Layers:      []ocispec.Descriptor{blob},
		Subject:     &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations: map[string]string{contentKey: "dsse-envelope", predicateTypeKey: predicate},
	}
	m.Config.Data = nil
	d := newDocument(ocispec.MediaTypeImageManifest, sigstore.MediaType, m)
	return r.pushManifest(ctx, d, d.Digest.String())
}

// referrers are what refers to something.
func (r *Repository) referrers(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var list []ocispec.Descriptor
	err := r.retry(ctx, func(ctx context.Context) error {
		list = nil
		return r.remote.Referrers(ctx, d, "", func(some []ocispec.Descriptor) error {
			list = append(list, some...)
			return nil
		})
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return list, err
}
