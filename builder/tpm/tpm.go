// Package tpm finds out whether a machine has the TPM 2.0 that it shows: it challenges the machine with a secret that only that TPM can
// open (credential activation, TPM 2.0 Library part 1, section 24), and reads the certificates that makers give to TPMs.
//
// Words: the endorsement key (EK) is the TPM's own; the signing key (AK) was made by the TPM for one boot. Both must follow the
// templates that the agent uses: the EK those of TCG's EK Credential Profile, the AK one that can't leave its TPM. It holds no TPM and asks none: what
// a node is bound to is builder/netboot's to say.
package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"github.com/slipway-os/slipway/images/bootspec"
)

// secretSize is that of challenges' secrets in bytes: the digest of the keys' names is the longest that a credential may be.
const secretSize = 32

// Shown is a TPM as a machine shows it: its keys are what they should be, and nothing is proven.
type Shown struct {
	// Fingerprint is that of the endorsement key (bootspec.Fingerprint of its PKIX form).
	Fingerprint string
	// Certificate is the endorsement key's; nil: the TPM has none.
	Certificate *x509.Certificate

	ek     tpm2.LabeledEncapsulationKey
	akName []byte
	ak     *ecdsa.PublicKey
}

// Parse reads and checks what a machine shows. Keys that are not as Slipway's agent makes them are refused: whoever can choose their
// attributes could keep them outside of a TPM.
func Parse(r bootspec.TPMRequest) (*Shown, error) {
	s := &Shown{}
	ek, err := parsePublic(r.EK, tpm2.RSAEKTemplate, tpm2.ECCEKTemplate)
	if err != nil {
		return nil, fmt.Errorf("its endorsement key: %w", err)
	}
	public, err := publicKey(ek)
	if err != nil {
		return nil, fmt.Errorf("its endorsement key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("its endorsement key: %w", err)
	}
	s.Fingerprint = bootspec.Fingerprint(der)
	if s.ek, err = tpm2.ImportEncapsulationKey(ek); err != nil {
		return nil, fmt.Errorf("its endorsement key: %w", err)
	}
	if len(r.Certificate) > 0 {
		if s.Certificate, err = parseCertificate(r.Certificate, public); err != nil {
			return nil, fmt.Errorf("its endorsement key's certificate: %w", err)
		}
	}
	ak, err := parsePublic(r.AK, signingTemplate())
	if err != nil {
		return nil, fmt.Errorf("its signing key: %w", err)
	}
	if public, err = publicKey(ak); err != nil {
		return nil, fmt.Errorf("its signing key: %w", err)
	}
	s.ak = public.(*ecdsa.PublicKey)
	name, err := tpm2.ObjectName(ak)
	if err != nil {
		return nil, fmt.Errorf("its signing key: %w", err)
	}
	s.akName = name.Buffer
	return s, nil
}

// parsePublic reads a public area, which must be one of the templates but for the key itself.
func parsePublic(data []byte, templates ...tpm2.TPMTPublic) (*tpm2.TPMTPublic, error) {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](data)
	if err != nil {
		return nil, errors.New("it is not a TPMT_PUBLIC")
	}
	for _, t := range templates {
		if t.Type != public.Type {
			continue
		}
		t.Unique = public.Unique
		if bytes.Equal(tpm2.Marshal(&t), data) {
			return public, nil
		}
	}
	return nil, errors.New("its attributes are not those that Slipway's agent uses")
}

// publicKey is that of an area: RSA with 2048 bits or a point of P-256.
func publicKey(public *tpm2.TPMTPublic) (any, error) {
	if public.Type == tpm2.TPMAlgRSA {
		n, err := public.Unique.RSA()
		if err != nil || len(n.Buffer) != 256 || n.Buffer[0] < 0x80 || n.Buffer[255]&1 == 0 {
			return nil, errors.New("it is not an RSA key with 2048 bits")
		}
		return tpm2.Pub(*public)
	}
	point, err := public.Unique.ECC()
	if err != nil || len(point.X.Buffer) > 32 || len(point.Y.Buffer) > 32 {
		return nil, errors.New("it is not a point of P-256")
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		return nil, err
	}
	if _, err := key.(*ecdsa.PublicKey).ECDH(); err != nil {
		return nil, errors.New("it is not a point of P-256")
	}
	return key, nil
}

// signingTemplate is of the agent's signing key: P-256, ECDSA with SHA-256, made in a TPM and never to leave it.
func signingTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
		}),
	}
}

// Challenge makes a secret for the TPM that is shown, and what only that TPM can open it from, while it holds the signing key.
func (s *Shown) Challenge() (secret []byte, c bootspec.TPMChallenge, err error) {
	secret = make([]byte, secretSize)
	rand.Read(secret)
	credential, encrypted, err := tpm2.CreateCredential(rand.Reader, s.ek, s.akName, secret)
	if err != nil {
		return nil, c, fmt.Errorf("cannot make a challenge for the TPM: %w", err)
	}
	return secret, bootspec.TPMChallenge{Credential: credential, Secret: encrypted}, nil
}

// Proves says whether a proof is the signing key's, of a challenge's secret and the two ends of a connection (bootspec.TPMStatement).
func (s *Shown) Proves(proof, secret []byte, claimant, authority string) bool {
	return len(proof) == 64 && ecdsa.Verify(s.ak, bootspec.TPMStatement(secret, claimant, authority),
		new(big.Int).SetBytes(proof[:32]), new(big.Int).SetBytes(proof[32:]))
}
