package sigstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	dssepb "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	"google.golang.org/protobuf/encoding/protojson"
)

// MediaType is that of bundles which are written; PayloadType that of envelopes.
const (
	MediaType   = "application/vnd.dev.sigstore.bundle.v0.3+json"
	PayloadType = "application/vnd.in-toto+json"
)

// MaxSize bounds a bundle in bytes.
const MaxSize = 32 << 20

// ErrOther says that a bundle is of another key than the one it was asked about.
var ErrOther = errors.New("it was made with another key")

// Bundle is a bundle that was read, not verified.
type Bundle struct {
	hint      string
	digest    []byte // of the signed file; nil: it is an envelope
	payload   []byte
	signature []byte
}

// SignBlob makes the bundle of a file.
func (k PrivateKey) SignBlob(text []byte) ([]byte, error) {
	signature, err := k.sign(text)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	return k.encode(&bundlepb.Bundle{Content: &bundlepb.Bundle_MessageSignature{MessageSignature: &commonpb.MessageSignature{
		MessageDigest: &commonpb.HashOutput{Algorithm: commonpb.HashAlgorithm_SHA2_256, Digest: sum[:]}, Signature: signature,
	}}})
}

// SignStatement makes a bundle that has an in-toto statement in an envelope.
func (k PrivateKey) SignStatement(statement []byte) ([]byte, error) {
	signature, err := k.sign(dsse.PAE(PayloadType, statement))
	if err != nil {
		return nil, err
	}
	return k.encode(&bundlepb.Bundle{Content: &bundlepb.Bundle_DsseEnvelope{DsseEnvelope: &dssepb.Envelope{
		PayloadType: PayloadType, Payload: statement, Signatures: []*dssepb.Signature{{Sig: signature}},
	}}})
}

// encode is a bundle as JSON in one line. protojson changes its white space from build to build, on purpose, and so it is taken out.
func (k PrivateKey) encode(b *bundlepb.Bundle) ([]byte, error) {
	b.MediaType = MediaType
	b.VerificationMaterial = &bundlepb.VerificationMaterial{Content: &bundlepb.VerificationMaterial_PublicKey{PublicKey: &commonpb.PublicKeyIdentifier{Hint: k.hint()}}}
	text, err := protojson.Marshal(b)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	err = json.Compact(&packed, text)
	packed.WriteByte('\n')
	return packed.Bytes(), err
}

// Parse reads a bundle strictly: one key, one signature, SHA-256. Certificates and logs are not taken.
func Parse(data []byte) (*Bundle, error) {
	b, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("it is no Sigstore bundle that was made with a key: %w", err)
	}
	return b, nil
}

func parse(data []byte) (*Bundle, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes are over the limit of %d", len(data), MaxSize)
	}
	var b bundlepb.Bundle
	if err := protojson.Unmarshal(data, &b); err != nil {
		return nil, err
	}
	if b.MediaType != MediaType {
		return nil, fmt.Errorf("its media type %q is not %s", b.MediaType, MediaType)
	}
	id, ok := b.VerificationMaterial.GetContent().(*bundlepb.VerificationMaterial_PublicKey)
	if !ok {
		return nil, errors.New("it names no key")
	}
	parsed := &Bundle{hint: id.PublicKey.GetHint()}
	switch c := b.Content.(type) {
	case *bundlepb.Bundle_MessageSignature:
		m := c.MessageSignature
		if d := m.GetMessageDigest(); d.GetAlgorithm() != commonpb.HashAlgorithm_SHA2_256 || len(d.GetDigest()) != sha256.Size {
			return nil, errors.New("it has no SHA-256 of what was signed")
		}
		parsed.digest, parsed.signature = m.MessageDigest.Digest, m.Signature
	case *bundlepb.Bundle_DsseEnvelope:
		e := c.DsseEnvelope
		if e.GetPayloadType() != PayloadType || len(e.GetSignatures()) != 1 {
			return nil, fmt.Errorf("its envelope has payload type %q and %d signatures, not %s and one", e.GetPayloadType(), len(e.GetSignatures()), PayloadType)
		}
		parsed.payload, parsed.signature = append([]byte{}, e.Payload...), e.Signatures[0].GetSig()
	default:
		return nil, errors.New("it signs nothing")
	}
	return parsed, nil
}

// Statement is what an envelope has, not verified; nil where the bundle is the signature of a file.
func (b *Bundle) Statement() []byte { return b.payload }

// KeyID is that of the key which the bundle names; empty where it names none that is known here. It is only a hint.
func (b *Bundle) KeyID() string {
	sum, err := base64.StdEncoding.DecodeString(b.hint)
	if err != nil || len(sum) != sha256.Size {
		return ""
	}
	return fmt.Sprintf("%X", sum[:8])
}

// VerifyBlob wants a bundle to be a key's signature of a file.
func (k PublicKey) VerifyBlob(b *Bundle, text []byte) error {
	sum := sha256.Sum256(text)
	switch {
	case b.digest == nil:
		return errors.New("it has a statement, and is no signature of a file")
	case !bytes.Equal(b.digest, sum[:]):
		return fmt.Errorf("it is of another file: that one's SHA-256 is %x, not %x", b.digest, sum)
	case k.verify(text, b.signature):
		return nil
	}
	return k.fault(b)
}

// VerifyStatement wants a bundle to be a key's, and gives the statement that it signed.
func (k PublicKey) VerifyStatement(b *Bundle) ([]byte, error) {
	switch {
	case b.digest != nil:
		return nil, errors.New("it is a signature of a file, and has no statement")
	case k.verify(dsse.PAE(PayloadType, b.payload), b.signature):
		return b.payload, nil
	}
	return nil, k.fault(b)
}

// fault says why a signature is not the key's.
func (k PublicKey) fault(b *Bundle) error {
	if b.hint != k.hint() {
		return ErrOther
	}
	return errors.New("its signature is wrong: it or what it signs was changed")
}
