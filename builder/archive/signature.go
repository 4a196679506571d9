package archive

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// Keys are OpenPGP public keys.
type Keys struct{ list openpgp.EntityList }

// maxKey bounds a key file in bytes.
const maxKey = 1 << 20

// LoadKeys reads ASCII-armored public keys by file name.
func LoadKeys(fsys fs.FS, names []string) (Keys, error) {
	var keys Keys
	for _, name := range names {
		if path.Base(name) != name {
			return keys, fmt.Errorf("cannot read archive key %q: not a plain file name", name)
		}
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return keys, fmt.Errorf("cannot read archive key: %w", err)
		}
		if len(data) > maxKey {
			return keys, fmt.Errorf("cannot read archive key %s: more than %d bytes", name, maxKey)
		}
		list, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(data))
		if err != nil {
			return keys, fmt.Errorf("cannot read archive key %s: %w", name, err)
		}
		keys.list = append(keys.list, list...)
	}
	return keys, nil
}

// VerifyInline checks a clear-signed message (InRelease) and returns the signed text and the fingerprint of the key
// that signed it. Whatever stands outside the signed text is not returned. The error wraps ErrSignature.
func VerifyInline(data []byte, keys Keys, now time.Time) (text []byte, signer string, err error) {
	block, rest := clearsign.Decode(data)
	if block == nil {
		return nil, "", fmt.Errorf("%w: not a signed message", ErrSignature)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, "", fmt.Errorf("%w: something follows the signed message", ErrSignature)
	}
	signer, err = verify(block.Bytes, block.ArmoredSignature.Body, keys, now)
	return block.Plaintext, signer, err
}

// VerifyDetached checks a file (Release) by its detached armored signature (Release.gpg), as VerifyInline does.
func VerifyDetached(data, signature []byte, keys Keys, now time.Time) (signer string, err error) {
	sig, err := dearmor(signature)
	if err != nil {
		return "", fmt.Errorf("%w: %v", ErrSignature, err)
	}
	return verify(data, sig, keys, now)
}

// verify accepts the text if any of its signatures is good: archives sign with the keys of two releases at once.
func verify(text []byte, signature io.Reader, keys Keys, now time.Time) (string, error) {
	config := &packet.Config{Time: func() time.Time { return now }}
	packets, err := io.ReadAll(io.LimitReader(signature, maxKey))
	if err != nil {
		return "", fmt.Errorf("%w: %v", ErrSignature, err)
	}
	_, entity, err := openpgp.VerifyDetachedSignature(keys.list, bytes.NewReader(text), bytes.NewReader(packets), config)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if entity == nil {
		return "", fmt.Errorf("%w: %w", ErrSignature, errors.New("no signer"))
	}
	return hex.EncodeToString(entity.PrimaryKey.Fingerprint), nil
}

// dearmor reads ASCII armor of a detached signature, or takes a binary one as it is.
func dearmor(data []byte) (io.Reader, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN ")) {
		return bytes.NewReader(data), nil
	}
	block, err := armor.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return block.Body, nil
}
