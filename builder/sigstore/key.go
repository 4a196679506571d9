// Package sigstore makes and verifies signatures in Sigstore's bundle format (version 0.3), as cosign does with a key of its own:
// ECDSA on P-256 with SHA-256, no certificate, no transparency log, no clock.
//
// A bundle is one JSON document: a signature of a file, or a DSSE envelope (https://github.com/secure-systems-lab/dsse) with an
// in-toto statement. What may be trusted for what is builder/release's.
package sigstore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
)

// Types of PEM blocks. cosign encrypts keys by scrypt and NaCl's secretbox; older ones have its own name in them.
const (
	pemPublic    = "PUBLIC KEY"
	pemPrivate   = "PRIVATE KEY"
	pemEC        = "EC PRIVATE KEY"
	pemEncrypted = "ENCRYPTED SIGSTORE PRIVATE KEY"
	pemCosign    = "ENCRYPTED COSIGN PRIVATE KEY"
)

// ErrPassword says that a key's password is not the one that was given.
var ErrPassword = errors.New("its password is wrong")

// PrivateKey is a secret key. It makes the same signature of the same bytes each time (RFC 6979).
type PrivateKey struct {
	secret *ecdsa.PrivateKey
	PublicKey
}

// PublicKey is a public key.
type PublicKey struct {
	public *ecdsa.PublicKey
	sum    [sha256.Size]byte // of its DER form
}

// IsPEM tells whether a key file may be one of these keys, and not one in another format.
func IsPEM(data []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN ")) }

// IsEncrypted tells whether a secret key needs a password, which may be an empty one.
func IsEncrypted(data []byte) bool {
	block, _ := pem.Decode(data)
	return block != nil && (block.Type == pemEncrypted || block.Type == pemCosign)
}

// ParsePrivateKey reads a secret key in PEM: one of cosign generate-key-pair, PKCS#8 (RFC 5958), or SEC 1 (RFC 5915). The password is
// that of an encrypted one; ErrPassword says that it is another.
func ParsePrivateKey(data []byte, password string) (PrivateKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return PrivateKey{}, errors.New("it is not one key in PEM")
	}
	key, err := parsePrivate(block, password)
	if err != nil {
		return PrivateKey{}, err
	}
	public, err := newPublicKey(&key.PublicKey)
	return PrivateKey{key, public}, err
}

func parsePrivate(block *pem.Block, password string) (*ecdsa.PrivateKey, error) {
	der := block.Bytes
	switch block.Type {
	case pemEC:
		return x509.ParseECPrivateKey(der)
	case pemEncrypted, pemCosign:
		var err error
		if der, err = encrypted.Decrypt(der, []byte(password)); err != nil {
			return nil, ErrPassword
		}
	case pemPrivate:
	default:
		return nil, fmt.Errorf("it is a %s, and no secret key", block.Type)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a key of type %T: only ECDSA on P-256 is known", key)
	}
	return ec, nil
}

// ParsePublicKey reads a public key in PEM (RFC 5280's SubjectPublicKeyInfo), as in cosign.pub.
func ParsePublicKey(data []byte) (PublicKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemPublic || len(bytes.TrimSpace(rest)) > 0 {
		return PublicKey{}, errors.New("it is not one public key in PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return PublicKey{}, err
	}
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return PublicKey{}, fmt.Errorf("it is a key of type %T: only ECDSA on P-256 is known", key)
	}
	return newPublicKey(ec)
}

func newPublicKey(key *ecdsa.PublicKey) (PublicKey, error) {
	if key.Curve != elliptic.P256() {
		return PublicKey{}, fmt.Errorf("its curve is %s: only ECDSA on P-256 is known", key.Params().Name)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return PublicKey{}, err
	}
	return PublicKey{key, sha256.Sum256(der)}, nil
}

// ID is what people tell keys apart by: the first 16 hexadecimal digits of the SHA-256 of its DER form.
func (k PublicKey) ID() string { return fmt.Sprintf("%X", k.sum[:8]) }

// hint is what a bundle names the key by, as cosign does it.
func (k PublicKey) hint() string { return base64.StdEncoding.EncodeToString(k.sum[:]) }

// Generate makes a key pair in PEM, as cosign generate-key-pair does: the secret key is encrypted, if with an empty password.
func Generate(password string, entropy io.Reader) (secret, public []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), entropy)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	sealed, err := encrypted.Encrypt(der, []byte(password))
	if err != nil {
		return nil, nil, err
	}
	shown, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemEncrypted, Bytes: sealed}), pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: shown}), nil
}

func (k PrivateKey) sign(text []byte) ([]byte, error) {
	sum := sha256.Sum256(text)
	return k.secret.Sign(nil, sum[:], crypto.SHA256) // without entropy: RFC 6979
}

func (k PublicKey) verify(text, signature []byte) bool {
	sum := sha256.Sum256(text)
	return ecdsa.VerifyASN1(k.public, sum[:], signature)
}
