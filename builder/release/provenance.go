package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/slipway-os/slipway/builder/provenance"
	"github.com/slipway-os/slipway/builder/sigstore"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// statement is an image's provenance, with its file.
type statement struct {
	*provenance.Statement
	text []byte
}

// readProvenance reads an image's provenance, which must be about it; nil: it has none.
func readProvenance(ctx context.Context, beside Reader, m *manifest.Manifest, data []byte) (*statement, error) {
	name := provenance.FileName(m.Role, m.Version, m.Arch)
	text, err := beside(ctx, name, provenance.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	s, err := provenance.Decode(text)
	if err == nil {
		err = s.Check(m, data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &statement{s, text}, nil
}

// Provenance reads an image's provenance, nil where it has none. It must be about the image. Where keys are trusted, the release's
// checksum file must have it, and the bundle beside it, if there is one, the same statement; where Sigstore keys are among them, made
// by one of those.
func (t *Trust) Provenance(ctx context.Context, beside Reader, m *manifest.Manifest, data []byte) (*provenance.Statement, error) {
	var list Sums
	if t.Wanted() {
		var err error
		if list, _, err = t.release(ctx, beside, m.Version); err != nil {
			return nil, err
		}
	}
	s, err := t.provenance(ctx, beside, list, m, data)
	if s == nil || err != nil {
		return nil, err
	}
	return s.Statement, nil
}

// provenance is Provenance by a checksum file; without one nobody vouches.
func (t *Trust) provenance(ctx context.Context, beside Reader, list Sums, m *manifest.Manifest, data []byte) (*statement, error) {
	name := provenance.FileName(m.Role, m.Version, m.Arch)
	s, err := readProvenance(ctx, beside, m, data)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	case list == nil:
		return s, nil
	case s == nil && list[name] == "":
		return nil, nil
	case s == nil:
		return nil, fmt.Errorf("%w: %s is not there, and the release has it; get it again", ErrSignature, name)
	case list[name] != digest(s.text):
		return nil, fmt.Errorf("%w: %s is not the one that %s names: the image was baked again since, or it was changed; sign the release again",
			ErrSignature, name, FileName(m.Version, ExtSums))
	}
	bundle := bootspec.ArtifactBase(m.Role, m.Version, m.Arch) + ExtAttestation
	if list[bundle] == "" {
		return s, nil
	}
	if err := t.attested(ctx, beside, bundle, list[bundle], s.text); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrSignature, bundle, err)
	}
	return s, nil
}

// attested wants a bundle to have a statement, by a trusted Sigstore key where there is one.
func (t *Trust) attested(ctx context.Context, beside Reader, name, sum string, text []byte) error {
	data, err := beside(ctx, name, sigstore.MaxSize)
	if err != nil {
		return err
	}
	if digest(data) != sum {
		return errors.New("it is not the one that the checksum file names; sign the release again")
	}
	b, err := sigstore.Parse(data)
	if err != nil {
		return err
	}
	if !bytes.Equal(b.Statement(), text) {
		return errors.New("its statement is not the one that lies beside it")
	}
	wanted := false
	for _, k := range t.keys() {
		if k.sigstore == nil {
			continue
		}
		wanted = true
		if _, err := k.sigstore.VerifyStatement(b); err == nil {
			return nil
		} else if !errors.Is(err, sigstore.ErrOther) {
			return err
		}
	}
	if wanted {
		return fmt.Errorf("it was made with key %s, and %s trusted", b.KeyID(), t.who())
	}
	return nil
}
