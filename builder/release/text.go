package release

import (
	"errors"
	"fmt"

	"aead.dev/minisign"
)

// Wanted tells whether there is a key to sign with.
func (s Signers) Wanted() bool { return s.Minisign != nil || s.Sigstore != nil }

// Trust trusts the keys' own public halves. name is what messages call them by.
func (s Signers) Trust(name string) *Trust {
	t := &Trust{}
	if s.Minisign != nil {
		if public, ok := s.Minisign.secret.Public().(minisign.PublicKey); ok {
			t.Keys = append(t.Keys, Key{ID: s.Minisign.ID(), File: name, minisign: &public})
		}
	}
	if s.Sigstore != nil {
		public := s.Sigstore.PublicKey
		t.Keys = append(t.Keys, Key{ID: public.ID(), File: name, sigstore: &public})
	}
	return t
}

// And trusts the keys of both.
func (t *Trust) And(other *Trust) *Trust {
	return &Trust{append(append([]Key{}, t.keys()...), other.keys()...)}
}

// SignText signs a text that is no release, such as an index of releases: by minisign, with a comment that is signed too, and as a
// Sigstore bundle. What there is no key for is nil.
func (s Signers) SignText(text []byte, comment string) (signature, bundle []byte, err error) {
	if s.Minisign != nil {
		signature = s.Minisign.sign(text, comment)
	}
	if s.Sigstore != nil {
		if bundle, err = s.Sigstore.SignBlob(text); err != nil {
			return nil, nil, err
		}
	}
	return signature, bundle, nil
}

// VerifyText wants one of a text's signatures to be of a trusted key. Errors wrap ErrSignature.
func (t *Trust) VerifyText(name string, text, signature, bundle []byte) (Key, error) {
	key, err := t.verify(name, text, [2]attempt{{name + "'s signature", signature, t.verifyMinisign}, {name + "'s bundle", bundle, t.verifyBundle}})
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return key, nil
}

// attempt is one signature of a text, and who verifies such a one.
type attempt struct {
	name   string
	data   []byte // nil: there is none
	verify func(text, data []byte) (Key, error)
}

var errNobody = errors.New("is not signed")
