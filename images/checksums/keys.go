package checksums

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"aead.dev/minisign"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Key is a public key that an image pins: minisign's, or one of ECDSA on P-256 as cosign has them.
type Key struct {
	ID       string // as `slipway keygen` and `minisign` show it
	minisign *minisign.PublicKey
	ecdsa    *ecdsa.PublicKey
	text     string
}

// maxKeys is how many an image may pin: a kernel command line has 2048 bytes.
const maxKeys = 8

// String is the key in one word without commas: minisign's own, which begins with RW, or the base64 of a SubjectPublicKeyInfo
// (RFC 5280).
func (k Key) String() string { return k.text }

// Keys are those of which one must have signed a release.
type Keys []Key

// String is what ParseKeys reads.
func (k Keys) String() string {
	var words []string
	for _, key := range k {
		words = append(words, key.text)
	}
	return strings.Join(words, ",")
}

// IDs are the keys' ids, for messages.
func (k Keys) IDs() string {
	var ids []string
	for _, key := range k {
		ids = append(ids, key.ID)
	}
	return strings.Join(ids, " or ")
}

// ParseKeys reads the value of bootspec.ArgReleaseKey. An empty one pins nothing.
func ParseKeys(value string) (Keys, error) {
	if value == "" {
		return nil, nil
	}
	words := strings.Split(value, ",")
	if len(words) > maxKeys {
		return nil, fmt.Errorf("kernel argument %s: %d keys are over the limit of %d", bootspec.ArgReleaseKey, len(words), maxKeys)
	}
	var keys Keys
	for _, word := range words {
		key, err := parseKey(word)
		if err != nil {
			return nil, fmt.Errorf("kernel argument %s: %.200q is no public key: %w", bootspec.ArgReleaseKey, word, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// parseKey reads what String gives.
func parseKey(word string) (Key, error) {
	raw, err := base64.StdEncoding.DecodeString(word)
	if err != nil {
		return Key{}, err
	}
	if bytes.HasPrefix(raw, []byte("Ed")) { // minisign's mark of Ed25519
		return parseMinisign(word)
	}
	return parseDER(raw)
}

func parseMinisign(text string) (Key, error) {
	var public minisign.PublicKey
	if err := public.UnmarshalText([]byte(text)); err != nil {
		return Key{}, errors.New("it is no minisign public key, and none in PEM")
	}
	return Key{ID: fmt.Sprintf("%016X", public.ID()), minisign: &public, text: public.String()}, nil
}

func parseDER(der []byte) (Key, error) {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return Key{}, err
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return Key{}, errors.New("it is not one of ECDSA on P-256")
	}
	sum := sha256.Sum256(der)
	return Key{ID: fmt.Sprintf("%X", sum[:8]), ecdsa: key, text: base64.StdEncoding.EncodeToString(der)}, nil
}

// Add reads a public key as its file has it, minisign's .pub or a PUBLIC KEY in PEM, and adds it. The same key counts once.
func (k Keys) Add(file []byte) (Keys, error) {
	key, err := parseFile(file)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(k, func(other Key) bool { return other.text == key.text }) {
		return k, nil
	}
	if len(k) == maxKeys {
		return nil, fmt.Errorf("it is one too many: %d may be pinned", maxKeys)
	}
	return append(slices.Clone(k), key), nil
}

func parseFile(data []byte) (Key, error) {
	data = bytes.TrimSpace(data)
	if !bytes.HasPrefix(data, []byte("-----BEGIN ")) {
		return parseMinisign(string(data))
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return Key{}, errors.New("it is not one public key in PEM")
	}
	return parseDER(block.Bytes)
}

// Signed is a release's own files, as they came from somewhere. What isn't there is nil.
type Signed struct {
	Sums      []byte // the checksum file
	Signature []byte // minisign's of it
	Bundle    []byte // Sigstore's of it
}

// ErrSignature is what errors wrap about a release that no pinned key has signed.
var ErrSignature = errors.New("the signature does not vouch for it")

// Verify wants a release's checksum file to be signed by one of the keys. It gives what it says and who has signed it.
func (k Keys) Verify(version string, s Signed) (Sums, Key, error) {
	name := FileName(version, ExtSums)
	if s.Sums == nil || s.Signature == nil && s.Bundle == nil {
		return nil, Key{}, fmt.Errorf("%w: nobody has signed version %s (%s), and only key %s is pinned in this image", ErrSignature, version, name, k.IDs())
	}
	key, err := k.verify(name, s)
	if err != nil {
		return nil, Key{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	sums, err := Decode(s.Sums)
	if err != nil {
		return nil, Key{}, fmt.Errorf("%w: cannot read %s: %w", ErrSignature, name, err)
	}
	return sums, key, nil
}

// verify finds the key. Of two faults it tells the one of a key that is pinned.
func (k Keys) verify(name string, s Signed) (Key, error) {
	var signers []string
	var worst error
	for _, attempt := range []func(Signed) (id string, key Key, err error){k.verifyMinisign, k.verifyBundle} {
		id, key, err := attempt(s)
		switch {
		case err == nil && key.ID != "":
			return key, nil
		case err != nil:
			worst = errors.Join(worst, fmt.Errorf("%s %w", name, err))
		case id != "":
			signers = append(signers, id)
		}
	}
	if worst != nil {
		return Key{}, worst
	}
	return Key{}, fmt.Errorf("%s is signed with key %s, and only key %s is pinned in this image", name, strings.Join(signers, " and "), k.IDs())
}

// verifyMinisign finds the pinned key that made the signature. Of one that isn't pinned it gives the id.
func (k Keys) verifyMinisign(s Signed) (id string, key Key, err error) {
	if s.Signature == nil {
		return "", Key{}, nil
	}
	var signature minisign.Signature
	if err := signature.UnmarshalText(s.Signature); err != nil {
		return "", Key{}, errors.New("has a damaged signature")
	}
	id = fmt.Sprintf("%016X", signature.KeyID)
	named := false
	for _, key := range k {
		if key.minisign == nil || key.ID != id {
			continue
		}
		if named = true; minisign.Verify(*key.minisign, s.Sums, s.Signature) {
			return id, key, nil
		}
	}
	if named {
		return id, Key{}, fmt.Errorf("is not what key %s signed: it or its signature was changed", id)
	}
	return id, Key{}, nil
}

// bundle is as much of a Sigstore bundle (version 0.3, protojson) as a signature by a key needs.
type bundle struct {
	VerificationMaterial struct {
		PublicKey struct {
			Hint []byte `json:"hint"` // SHA-256 of the key
		} `json:"publicKey"`
	} `json:"verificationMaterial"`
	MessageSignature struct {
		Signature []byte `json:"signature"` // ECDSA (ASN.1), of the file's SHA-256
	} `json:"messageSignature"`
}

// verifyBundle is verifyMinisign for a Sigstore bundle.
func (k Keys) verifyBundle(s Signed) (id string, key Key, err error) {
	if s.Bundle == nil {
		return "", Key{}, nil
	}
	var b bundle
	if err := json.Unmarshal(s.Bundle, &b); err != nil || len(b.MessageSignature.Signature) == 0 {
		return "", Key{}, errors.New("has a damaged Sigstore bundle")
	}
	hint := b.VerificationMaterial.PublicKey.Hint
	id = fmt.Sprintf("%X", hint[:min(8, len(hint))])
	sum := sha256.Sum256(s.Sums)
	named := false
	for _, key := range k {
		if key.ecdsa == nil {
			continue
		}
		if ecdsa.VerifyASN1(key.ecdsa, sum[:], b.MessageSignature.Signature) {
			return id, key, nil
		}
		named = named || key.ID == id
	}
	if named {
		return id, Key{}, fmt.Errorf("is not what key %s signed: it or its signature was changed", id)
	}
	return id, Key{}, nil
}
