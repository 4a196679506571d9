package initramfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/checksums"
)

// signedRelease is what a pinned key has signed of the release that this image belongs to.
type signedRelease struct {
	sums checksums.Sums // nil: the image pins no key
	list string         // name of the checksum file
	key  checksums.Key
}

// signedRelease asks the boot server for the checksum file of a version and its signatures, where the image pins release keys. Without
// a pin it says so: the image vouches for itself, and nobody for who baked it.
func (b *boot) signedRelease(ctx context.Context, version string) (signedRelease, error) {
	keys, err := checksums.ParseKeys(b.args[bootspec.ArgReleaseKey])
	if err != nil {
		return signedRelease{}, err
	}
	if len(keys) == 0 {
		b.log.Warn("RELEASE KEY NOT PINNED: this image asks for nobody's signature before it is installed (slipway bake --release-key pins whose)")
		return signedRelease{}, nil
	}
	s := signedRelease{list: checksums.FileName(version, checksums.ExtSums)}
	var own checksums.Signed
	for _, f := range []struct {
		ext  string
		most int64
		into *[]byte
	}{
		{checksums.ExtSums, checksums.MaxSums, &own.Sums},
		{checksums.ExtSignature, checksums.MaxSignature, &own.Signature},
		{checksums.ExtBundle, checksums.MaxBundle, &own.Bundle},
	} {
		if *f.into, err = b.getIfThere(ctx, b.secure.URL+bootspec.RouteArtifacts+checksums.FileName(version, f.ext), f.most); err != nil {
			return signedRelease{}, err
		}
	}
	if s.sums, s.key, err = keys.Verify(version, own); err != nil {
		return signedRelease{}, fmt.Errorf("the boot server's release: %w (slipway sign the images, then restart slipway serve)", err)
	}
	b.log.Info("the release is signed with a key that is pinned in this image", "key", s.key.ID, "version", version)
	return s, nil
}

// vouch wants a file to be what was signed.
func (s signedRelease) vouch(name string, data []byte) error {
	if s.sums == nil {
		return nil
	}
	sum := sha256.Sum256(data)
	switch is := hex.EncodeToString(sum[:]); s.sums[name] {
	case is:
		return nil
	case "":
		return fmt.Errorf("%w: %s, which key %s signed, doesn't name %s: sign the release again", checksums.ErrSignature, s.list, s.key.ID, name)
	default:
		return fmt.Errorf("%w: %s is not the one that key %s signed: its SHA-256 is %s, %s says %s", checksums.ErrSignature, name, s.key.ID, is, s.list, s.sums[name])
	}
}

// words are for the report.
func (s signedRelease) words() string {
	if s.sums == nil {
		return "no release key is pinned in this image"
	}
	return "signed with key " + s.key.ID
}

// getIfThere is get for what the boot server may not have: then it is nil.
func (b *boot) getIfThere(ctx context.Context, address string, limit int64) ([]byte, error) {
	data, err := b.get(ctx, address, limit)
	var answer *answerError
	if errors.As(err, &answer) && answer.status == http.StatusNotFound {
		return nil, nil
	}
	return data, err
}
