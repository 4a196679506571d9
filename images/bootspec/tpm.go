package bootspec

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A machine with a TPM 2.0 shows at a claim that it is the one with that TPM. It sends the TPM's endorsement key and a signing key that
// the TPM made for this boot (TPMRequest to RouteTPM); the server answers with a secret that only this TPM can open, and only while it holds that
// signing key (TPMChallenge: credential activation, TPM 2.0 Library part 1, section 24); the claim then carries a signature, with
// that key, of the secret and of both ends of the TLS connection (TPMStatement), so that nobody in between can pass it on.

const (
	// RouteTPM takes a TPMRequest (POST over TLS, JSON) and answers it with a TPMChallenge, or 204 (TPMs are not asked for). A server of an
	// earlier version doesn't know it: 404.
	RouteTPM = "/v1/claim/tpm"
	// MaxTPM bounds a TPMRequest and a TPMChallenge in bytes, as JSON.
	MaxTPM = 16 << 10
	// MaxTPMCertificate bounds an endorsement key's certificate in bytes.
	MaxTPMCertificate = 4 << 10
	// maxTPMPublic bounds a public area in bytes; that of an RSA key with 4096 bits has about 550.
	maxTPMPublic = 1 << 10
)

// TPMRequest shows a machine's TPM. Public areas are TPMT_PUBLIC as the TPM marshals them (TPM 2.0 Library part 2, section 12.2.4).
type TPMRequest struct {
	Version     int    `json:"version"`               // ClaimVersion
	MAC         string `json:"mac"`                   // of the link that reached the server
	EK          []byte `json:"ek"`                    // endorsement key
	Certificate []byte `json:"certificate,omitempty"` // the endorsement key's, DER, if the TPM has one
	AK          []byte `json:"ak"`                    // signing key that the TPM made for this boot
}

// TPMChallenge is for TPM2_ActivateCredential.
type TPMChallenge struct {
	Credential []byte `json:"credential"` // TPMS_ID_OBJECT, the contents of a TPM2B_ID_OBJECT
	Secret     []byte `json:"secret"`     // the contents of a TPM2B_ENCRYPTED_SECRET
}

// ParseTPMRequest reads a request. Its texts are bounded; what they say is the sender's.
func ParseTPMRequest(body io.Reader) (TPMRequest, error) {
	var r TPMRequest
	if err := readTPM(body, &r); err != nil {
		return TPMRequest{}, fmt.Errorf("cannot read what a TPM shows: %w", err)
	}
	if r.Version != ClaimVersion {
		return TPMRequest{}, fmt.Errorf("the image speaks version %d of the claim, this boot server version %d: bake the image and run the boot server with the same slipway", r.Version, ClaimVersion)
	}
	if len(r.MAC) > 64 || len(r.EK) > maxTPMPublic || len(r.AK) > maxTPMPublic || len(r.Certificate) > MaxTPMCertificate {
		return TPMRequest{}, errors.New("cannot read what a TPM shows: a field is too long")
	}
	return r, nil
}

// ParseTPMChallenge reads a challenge.
func ParseTPMChallenge(body io.Reader) (TPMChallenge, error) {
	var c TPMChallenge
	if err := readTPM(body, &c); err != nil {
		return TPMChallenge{}, fmt.Errorf("cannot read the challenge for the TPM: %w", err)
	}
	if len(c.Credential) == 0 || len(c.Credential) > maxTPMPublic || len(c.Secret) == 0 || len(c.Secret) > maxTPMPublic {
		return TPMChallenge{}, errors.New("cannot read the challenge for the TPM: a field is missing or too long")
	}
	return c, nil
}

func readTPM(body io.Reader, out any) error {
	data, err := io.ReadAll(io.LimitReader(body, MaxTPM+1))
	if err != nil {
		return err
	}
	if len(data) > MaxTPM {
		return fmt.Errorf("it is over %d bytes", MaxTPM)
	}
	return json.Unmarshal(data, out)
}

// TPMStatement is the digest (SHA-256) that the TPM's signing key signs for a claim: of the secret that the TPM has opened, of the
// claimant's key and of the server's authority, both as Fingerprint gives them.
func TPMStatement(secret []byte, claimant, authority string) []byte {
	opened := sha256.Sum256(secret)
	h := sha256.New()
	fmt.Fprintf(h, "slipway claim with a TPM, version %d\n%x\n%s\n%s\n", ClaimVersion, opened, claimant, authority)
	return h.Sum(nil)
}
