// Package authenticode signs EFI programs with the owner's own key, so that firmware with Secure Boot on starts them (UEFI 2.10,
// section 32.5; Microsoft, "Windows Authenticode Portable Executable Signature Format").
//
// The same key and program give the same bytes: a signature says no time. It makes no keys and doesn't enrol any: that is done at the firmware.
package authenticode

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/foxboron/go-uefi/authenticode"
	"golang.org/x/crypto/cryptobyte"
	tags "golang.org/x/crypto/cryptobyte/asn1"
)

// Signer signs EFI programs.
type Signer struct {
	key         crypto.Signer
	certificate *x509.Certificate
}

// least is how long a key must be, in bits. Firmware knows RSA with SHA-256; other kinds of key few do.
const least = 2048

// NewSigner makes a signer of an RSA key and its certificate.
func NewSigner(key crypto.Signer, certificate *x509.Certificate) (*Signer, error) {
	public, ok := key.Public().(*rsa.PublicKey)
	switch {
	case !ok:
		return nil, errors.New("the key is not an RSA key, and firmware knows no other")
	case public.N.BitLen() < least:
		return nil, fmt.Errorf("the key has %d bits, fewer than %d", public.N.BitLen(), least)
	case !public.Equal(certificate.PublicKey):
		return nil, errors.New("the certificate is of another key")
	}
	return &Signer{key, certificate}, nil
}

// Load reads a signer from files: a private key (PEM, PKCS #8 or PKCS #1, not encrypted) and its certificate (PEM).
func Load(key, certificate string) (*Signer, error) {
	private, err := readKey(key)
	if err != nil {
		return nil, err
	}
	block, err := readPEM(certificate, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate %s: %w", certificate, err)
	}
	s, err := NewSigner(private, parsed)
	if err != nil {
		return nil, fmt.Errorf("cannot sign with %s: %w", key, err)
	}
	return s, nil
}

func readKey(file string) (crypto.Signer, error) {
	block, err := readPEM(file, "PRIVATE KEY", "RSA PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	if block.Type == "RSA PRIVATE KEY" {
		key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("cannot read the key %s: %w", file, err)
		}
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read the key %s: %w", file, err)
	}
	if signer, ok := key.(crypto.Signer); ok {
		return signer, nil
	}
	return nil, fmt.Errorf("cannot read the key %s: it is of a kind that doesn't sign", file)
}

// readPEM is the first block of a file that has one of the types. Errors don't say what the file holds.
func readPEM(file string, types ...string) (*pem.Block, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot sign for Secure Boot: %w", err)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		for _, t := range types {
			if block.Type == t {
				return block, nil
			}
		}
	}
	return nil, fmt.Errorf("cannot sign for Secure Boot: %s has no PEM block %q that isn't encrypted", file, types[0])
}

// Sign is the program with a signature. A signature that it has stays, so that firmware with either key starts it.
func (s *Signer) Sign(program []byte) ([]byte, error) {
	pe, err := authenticode.Parse(bytes.NewReader(program))
	if err != nil {
		return nil, fmt.Errorf("cannot sign an EFI program: %w", err)
	}
	digest := sha256.Sum256(pe.HashContent.Bytes())
	content, err := authenticode.CreateSpcIndirectDataContent(digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("cannot sign an EFI program: %w", err)
	}
	signature, err := s.pkcs7(content)
	if err != nil {
		return nil, fmt.Errorf("cannot sign an EFI program: %w", err)
	}
	if err := pe.AppendSignature(signature); err != nil {
		return nil, fmt.Errorf("cannot sign an EFI program: %w", err)
	}
	return pe.Bytes(), nil
}

// Verify says whether a program has a signature of the certificate's key.
func Verify(program []byte, certificate *x509.Certificate) error {
	pe, err := authenticode.Parse(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("cannot verify an EFI program: %w", err)
	}
	if ok, err := pe.Verify(certificate); err != nil || !ok {
		return fmt.Errorf("the EFI program has no signature of %s: %w", certificate.Subject, errors.Join(err))
	}
	return nil
}

// Object identifiers (RFC 2315, RFC 8017, "Authenticode" section "PKCS #7 SignedData").
var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
)

// pkcs7 is the SignedData of a content, with the attributes that it must have and no others (RFC 2315 sections 9.1 and 9.2). The
// library's own would add the time.
func (s *Signer) pkcs7(content []byte) ([]byte, error) {
	digest := sha256.Sum256(content)
	attributes, err := attributes(digest[:])
	if err != nil {
		return nil, err
	}
	// What is signed is the set of attributes with its own tag, not with the implicit one that it has below.
	var set cryptobyte.Builder
	set.AddASN1(tags.SET, func(b *cryptobyte.Builder) { b.AddBytes(attributes) })
	signed, err := set.Bytes()
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(signed)
	signature, err := s.key.Sign(nil, hash[:], crypto.SHA256) // PKCS #1 v1.5 takes no random numbers
	if err != nil {
		return nil, err
	}
	sequence := func(b *cryptobyte.Builder, fill func(b *cryptobyte.Builder)) { b.AddASN1(tags.SEQUENCE, fill) }
	algorithm := func(b *cryptobyte.Builder, id asn1.ObjectIdentifier) {
		sequence(b, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(id); b.AddASN1NULL() })
	}
	within := tags.Tag(0).ContextSpecific().Constructed()
	var out cryptobyte.Builder
	sequence(&out, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidSignedData)
		b.AddASN1(within, func(b *cryptobyte.Builder) {
			sequence(b, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				b.AddASN1(tags.SET, func(b *cryptobyte.Builder) { algorithm(b, oidSHA256) })
				sequence(b, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(authenticode.OIDSpcIndirectDataContent)
					b.AddASN1(within, func(b *cryptobyte.Builder) { sequence(b, func(b *cryptobyte.Builder) { b.AddBytes(content) }) })
				})
				b.AddASN1(within, func(b *cryptobyte.Builder) { b.AddBytes(s.certificate.Raw) })
				b.AddASN1(tags.SET, func(b *cryptobyte.Builder) {
					sequence(b, func(b *cryptobyte.Builder) {
						b.AddASN1Int64(1)
						sequence(b, func(b *cryptobyte.Builder) {
							b.AddBytes(s.certificate.RawIssuer)
							b.AddASN1BigInt(s.certificate.SerialNumber)
						})
						algorithm(b, oidSHA256)
						b.AddASN1(within, func(b *cryptobyte.Builder) { b.AddBytes(attributes) })
						algorithm(b, oidRSA)
						b.AddASN1OctetString(signature)
					})
				})
			})
		})
	})
	return out.Bytes()
}

// attributes are what is signed of a content: its type and its digest, in the order of their encodings (X.690 section 11.6).
func attributes(digest []byte) ([]byte, error) {
	var b cryptobyte.Builder
	attribute := func(id asn1.ObjectIdentifier, value func(b *cryptobyte.Builder)) {
		b.AddASN1(tags.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(id)
			b.AddASN1(tags.SET, value)
		})
	}
	attribute(oidContentType, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(authenticode.OIDSpcIndirectDataContent) })
	attribute(oidMessageDigest, func(b *cryptobyte.Builder) { b.AddASN1OctetString(digest) })
	return b.Bytes()
}
