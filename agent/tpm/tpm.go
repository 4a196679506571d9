// Package tpm shows a boot server that this machine has the TPM that a node is bound to: the TPM's endorsement key, a signing key that
// it makes for this boot, and what only it can do with both (credential activation, TPM 2.0 Library part 1, section 24).
//
// Words: the endorsement key (EK) is the TPM's own for as long as its owner doesn't reset it; its certificate is of the TPM's maker. It
// can decrypt and not sign, so a second key (AK) signs. Keys follow TCG's EK Credential Profile for TPM 2.0, version 2.6, and nothing is written
// into the TPM. Measuring what was booted (PCRs) is not this package's work.
package tpm

import (
	"crypto/rand"
	"encoding/asn1"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Device is the kernel's resource manager of the first TPM. Only a TPM 2.0 has one.
const Device = "/dev/tpmrm0"

// ErrNone says that a machine has no TPM 2.0.
var ErrNone = errors.New("this machine has no TPM 2.0")

// TPM is one with both keys loaded. It is not for several goroutines at a time.
type TPM struct {
	link        transport.TPMCloser
	ek, ak      key
	certificate []byte
}

// key is a key in the TPM.
type key struct {
	tpm2.NamedHandle
	public     tpm2.TPM2BPublic
	persistent bool // it was there before
}

// Open opens a TPM by its device, finds its endorsement key and makes a signing key, which some TPMs take a minute for. ErrNone: there is no such device.
func Open(device string) (*TPM, error) {
	link, err := linuxtpm.Open(device)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat("/dev/tpm0"); err == nil {
			return nil, fmt.Errorf("%w: its TPM is of an earlier version", ErrNone)
		}
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the TPM: %w", err)
	}
	return prepare(link)
}

// prepare makes a TPM of a link to one, which it closes when that fails.
func prepare(link transport.TPMCloser) (t *TPM, err error) {
	t = &TPM{link: link}
	defer func() {
		if err != nil {
			t.Close()
			t = nil
		}
	}()
	if err = t.findEK(); err != nil {
		return t, fmt.Errorf("cannot use the TPM's endorsement key: %w", err)
	}
	if t.ak, err = t.makePrimary(tpm2.TPMRHNull, signingTemplate()); err != nil {
		return t, fmt.Errorf("the TPM cannot make a signing key: %w", err)
	}
	return t, nil
}

// Close forgets the keys of this boot.
func (t *TPM) Close() {
	for _, k := range []key{t.ak, t.ek} {
		if k.Handle != 0 && !k.persistent {
			_, _ = tpm2.FlushContext{FlushHandle: k.Handle}.Execute(t.link) // the kernel does it for who goes
		}
	}
	t.link.Close()
}

// Request is what the TPM shows to the boot server, of the machine with that MAC address.
func (t *TPM) Request(mac string) bootspec.TPMRequest {
	return bootspec.TPMRequest{
		Version: bootspec.ClaimVersion, MAC: mac, EK: t.ek.public.Bytes(), AK: t.ak.public.Bytes(), Certificate: t.certificate,
	}
}

// Answer opens a challenge and signs bootspec.TPMStatement of its secret, for a claim by a key to a server of an authority
// (bootspec.Fingerprint both). It fails on a challenge that is for another TPM or another signing key.
func (t *TPM) Answer(c bootspec.TPMChallenge, claimant, authority string) (proof []byte, err error) {
	opened, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: t.ak.Handle, Name: t.ak.Name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: t.ek.Handle, Name: t.ek.Name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, endorsementPolicy)},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: c.Credential},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: c.Secret},
	}.Execute(t.link)
	if err != nil {
		return nil, fmt.Errorf("the TPM cannot open the boot server's challenge: %w", err)
	}
	signed, err := tpm2.Sign{
		KeyHandle:  tpm2.AuthHandle{Handle: t.ak.Handle, Name: t.ak.Name, Auth: tpm2.PasswordAuth(nil)},
		Digest:     tpm2.TPM2BDigest{Buffer: bootspec.TPMStatement(opened.CertInfo.Buffer, claimant, authority)},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(t.link)
	if err != nil {
		return nil, fmt.Errorf("the TPM cannot sign the claim: %w", err)
	}
	signature, err := signed.Signature.Signature.ECDSA()
	if err != nil || len(signature.SignatureR.Buffer) > 32 || len(signature.SignatureS.Buffer) > 32 {
		return nil, errors.New("the TPM cannot sign the claim: its signature is not one of ECDSA with P-256")
	}
	proof = make([]byte, 64)
	copy(proof[32-len(signature.SignatureR.Buffer):], signature.SignatureR.Buffer)
	copy(proof[64-len(signature.SignatureS.Buffer):], signature.SignatureS.Buffer)
	return proof, nil
}

// endorsementPolicy is PolicyA of the profile: TPM2_PolicySecret of the endorsement hierarchy, whose password is empty.
func endorsementPolicy(link transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: session, NonceTPM: nonce,
	}.Execute(link)
	return err
}

// signingTemplate is of a P-256 key that signs what it is given and never leaves its TPM. Random bytes make it another one each time.
func signingTemplate() tpm2.TPMTPublic {
	x, y := make([]byte, 32), make([]byte, 32)
	rand.Read(x)
	rand.Read(y)
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y}}),
	}
}

func (t *TPM) makePrimary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) (key, error) {
	made, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(template),
	}.Execute(t.link)
	if err != nil {
		return key{}, err
	}
	return key{NamedHandle: tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name}, public: made.OutPublic}, nil
}

// one is the first DER value in data: makers pad certificates to the size of their place.
func one(data []byte) []byte {
	var value asn1.RawValue
	if _, err := asn1.Unmarshal(data, &value); err != nil {
		return nil
	}
	return value.FullBytes
}
