package bootspec

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// The boot server gives configurations out over TLS 1.3 only, with a certificate of the cluster's boot authority for SecureName.
// An agent learns where, and of which authority, from RouteSecure over plain HTTP; whether that authority is the right one only a
// pin can tell (ArgBootCA). The agent shows a certificate of a key that it has made for this boot.
const (
	// SecurePort is the TCP port.
	SecurePort = 7446
	// SecureName is the name in the server's certificate: its address may change.
	SecureName = "boot.slipway.internal"
	// RouteSecure says where and with which authority the server answers over TLS (GET over plain HTTP, JSON, see Secure).
	RouteSecure = "/v1/secure"
	// RouteClaim takes a Claim (POST over TLS, JSON) and answers it with the node's Ignition configuration. RouteReport and RouteArtifacts are there too.
	RouteClaim = "/v1/claim"
	// ClaimVersion is the version of this protocol. A server or an agent of another one says so and ends.
	ClaimVersion = 1
	// BootServerDocument is where a node that didn't boot from the network finds its Secure (JSON).
	BootServerDocument = "/etc/slipway/boot-server.json"
)

// ArgBootCA is the kernel argument with the SHA-256 digests of the boot authorities' certificates (DER, hexadecimal), with commas
// between them, that this image trusts. Without it the image takes the authority that the boot server names.
const ArgBootCA = "slipway.boot-ca"

// MaxSecure bounds a Secure in bytes, as JSON; MaxClaim a Claim.
const (
	MaxSecure = 64 << 10
	MaxClaim  = 4 << 10
)

// Secure is how the boot server is reached over TLS. Nothing in it is secret.
type Secure struct {
	Version   int    `json:"version"`   // ClaimVersion
	URL       string `json:"url"`       // base URL: https://10.1.0.1:7446
	Authority string `json:"authority"` // certificate that signs the server's, PEM
	// Discover: the machine that asks is none of the cluster document's; it tells its hardware (RouteHardware) and waits.
	Discover bool `json:"discover,omitempty"`
	// Others are further boot servers of the site, at the same port and of the same authority; MaxServers at most.
	Others []netip.Addr `json:"others,omitempty"`
}

// ErrNotPinned says that a server's authority is none of those that an image trusts.
var ErrNotPinned = errors.New("the boot server's authority is not the one that is pinned in this image")

// ParseSecure reads and checks a Secure. Fields that it doesn't know are passed over.
func ParseSecure(data []byte) (Secure, error) {
	fail := func(err error) (Secure, error) {
		return Secure{}, fmt.Errorf("cannot read how the boot server is reached: %w", err)
	}
	var s Secure
	if len(data) > MaxSecure {
		return fail(fmt.Errorf("%d bytes are over the limit of %d", len(data), MaxSecure))
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return fail(err)
	}
	if s.Version != ClaimVersion {
		return fail(fmt.Errorf("the boot server speaks version %d of the claim, this image version %d: bake the image and run the boot server with the same slipway", s.Version, ClaimVersion))
	}
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return fail(fmt.Errorf("%.100q is not a URL like https://10.1.0.1:%d", s.URL, SecurePort))
	}
	s.URL = "https://" + u.Host
	s.Others = s.Others[:min(len(s.Others), MaxServers)]
	if _, err := s.certificate(); err != nil {
		return fail(err)
	}
	return s, nil
}

// certificate is the authority's.
func (s Secure) certificate() (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(s.Authority))
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("its authority is not one certificate in PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("its authority: %w", err)
	}
	if !c.IsCA {
		return nil, errors.New("its authority is not an authority's certificate")
	}
	return c, nil
}

// Trust is the authority as roots for a TLS client, and its digest. With pins it must be one of them: else ErrNotPinned.
func (s Secure) Trust(pins []string) (roots *x509.CertPool, digest string, err error) {
	c, err := s.certificate()
	if err != nil {
		return nil, "", err
	}
	digest = Fingerprint(c.Raw)
	if len(pins) > 0 && !slices.Contains(pins, digest) {
		return nil, digest, fmt.Errorf("%w: it is %s, pinned is %s", ErrNotPinned, digest, strings.Join(pins, " or "))
	}
	roots = x509.NewCertPool()
	roots.AddCert(c)
	return roots, digest, nil
}

// Fingerprint is SHA-256 of a certificate (DER) or public key, hexadecimal.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// ParsePins reads the value of ArgBootCA. An empty one pins nothing.
func ParsePins(value string) ([]string, error) {
	if value == "" {
		return nil, nil
	}
	var pins []string
	for pin := range strings.SplitSeq(value, ",") {
		pin = strings.ToLower(pin)
		if b, err := hex.DecodeString(pin); err != nil || len(b) != sha256.Size {
			return nil, fmt.Errorf("kernel argument %s: %.100q is not a SHA-256 value", ArgBootCA, pin)
		}
		pins = append(pins, pin)
	}
	return pins, nil
}

// Claim is what a machine says of itself to get its node's configuration.
type Claim struct {
	Version int    `json:"version"` // ClaimVersion
	MAC     string `json:"mac"`     // of the link that reached the server
	UUID    string `json:"uuid"`    // SMBIOS type 1; empty: the firmware tells none
	Serial  string `json:"serial"`  // likewise
	Image   string `json:"image"`   // artifact base name
	// TPMProof is the signature of TPMStatement (ECDSA P-256: r and s of 32 bytes each) by the key that was shown to RouteTPM; empty:
	// the machine shows no TPM, and TPMAbsent says why not.
	TPMProof  []byte `json:"tpmProof,omitempty"`
	TPMAbsent string `json:"tpmAbsent,omitempty"`
}

// ParseClaim reads a claim. Its texts are bounded; what they say is the sender's.
func ParseClaim(body io.Reader) (Claim, error) {
	var c Claim
	data, err := io.ReadAll(io.LimitReader(body, MaxClaim+1))
	if err != nil {
		return c, err
	}
	if len(data) > MaxClaim {
		return c, fmt.Errorf("cannot read claim: it is over %d bytes", MaxClaim)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return Claim{}, fmt.Errorf("cannot read claim: %w", err)
	}
	if c.Version != ClaimVersion {
		return Claim{}, fmt.Errorf("the image speaks version %d of the claim, this boot server version %d: bake the image and run the boot server with the same slipway", c.Version, ClaimVersion)
	}
	if len(c.MAC) > 64 || len(c.UUID) > 128 || len(c.Serial) > 256 || len(c.Image) > 256 || len(c.TPMProof) > 64 || len(c.TPMAbsent) > 512 {
		return Claim{}, errors.New("cannot read claim: a field is too long")
	}
	return c, nil
}
