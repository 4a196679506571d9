package tpm

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/tpmtest"
)

// machine is a machine with a TPM, without the agent's code.
type machine struct {
	t      *testing.T
	link   transport.TPM
	ek, ak *tpm2.CreatePrimaryResponse
	shows  bootspec.TPMRequest
}

func newMachine(t *testing.T, line io.ReadWriter, ek, ak tpm2.TPMTPublic) *machine {
	t.Helper()
	m := &machine{t: t, link: transport.FromReadWriter(line)}
	create := func(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) *tpm2.CreatePrimaryResponse {
		made, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(m.link)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	m.ek, m.ak = create(tpm2.TPMRHEndorsement, ek), create(tpm2.TPMRHOwner, ak)
	m.shows = bootspec.TPMRequest{Version: bootspec.ClaimVersion, EK: m.ek.OutPublic.Bytes(), AK: m.ak.OutPublic.Bytes()}
	return m
}

// flush makes room for another machine's keys: a TPM holds three.
func (m *machine) flush() {
	for _, key := range []*tpm2.CreatePrimaryResponse{m.ek, m.ak} {
		if _, err := (tpm2.FlushContext{FlushHandle: key.ObjectHandle}).Execute(m.link); err != nil {
			m.t.Fatal(err)
		}
	}
}

// open opens a challenge.
func (m *machine) open(c bootspec.TPMChallenge) ([]byte, error) {
	opened, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.NamedHandle{Handle: m.ak.ObjectHandle, Name: m.ak.Name},
		KeyHandle: tpm2.AuthHandle{Handle: m.ek.ObjectHandle, Name: m.ek.Name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(link transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
			_, err := tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement, PolicySession: session, NonceTPM: nonce}.Execute(link)
			return err
		})},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: c.Credential}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: c.Secret},
	}.Execute(m.link)
	if err != nil {
		return nil, err
	}
	return opened.CertInfo.Buffer, nil
}

// sign signs a statement with the signing key.
func (m *machine) sign(statement []byte) []byte {
	m.t.Helper()
	signed, err := tpm2.Sign{
		KeyHandle: tpm2.NamedHandle{Handle: m.ak.ObjectHandle, Name: m.ak.Name}, Digest: tpm2.TPM2BDigest{Buffer: statement},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(m.link)
	if err != nil {
		m.t.Fatal(err)
	}
	s, err := signed.Signature.Signature.ECDSA()
	if err != nil {
		m.t.Fatal(err)
	}
	fill := func(b []byte) []byte { return append(make([]byte, 32-len(b)), b...) }
	return append(fill(s.SignatureR.Buffer), fill(s.SignatureS.Buffer)...)
}

func parse(t *testing.T, shows bootspec.TPMRequest) *Shown {
	t.Helper()
	s, err := Parse(shows)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestTPMIsProven: of both kinds of endorsement keys, only the TPM that is shown opens the challenge, and what it signs is good for the
// one connection that it was signed for.
func TestTPMIsProven(t *testing.T) {
	line := tpmtest.Start(t, t.TempDir())
	now := time.Unix(1e9, 0)
	for name, ek := range map[string]tpm2.TPMTPublic{"ECC": tpm2.ECCEKTemplate, "RSA": tpm2.RSAEKTemplate} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, line, ek, signingTemplate())
			s := parse(t, m.shows)
			if again := parse(t, m.shows); s.Fingerprint != again.Fingerprint || len(s.Fingerprint) != 64 || s.Certificate != nil {
				t.Errorf("shown: %+v", s)
			}
			p := &Pending{}
			challenge, err := p.Challenge("cp-1", "claimant", s, now)
			if err != nil {
				t.Fatal(err)
			}
			secret, err := m.open(challenge)
			if err != nil || len(secret) != secretSize {
				t.Fatalf("%d bytes, %v", len(secret), err)
			}
			proof := m.sign(bootspec.TPMStatement(secret, "claimant", "authority"))
			for range 2 { // an answer may get lost
				if got := p.Proven("cp-1", "claimant", "authority", proof, now.Add(time.Minute)); got != s {
					t.Error("the proof is refused")
				}
			}
			for what, got := range map[string]*Shown{
				"of another node":                     p.Proven("cp-2", "claimant", "authority", proof, now),
				"by another claimant":                 p.Proven("cp-1", "somebody", "authority", proof, now),
				"for a server of another authority":   p.Proven("cp-1", "claimant", "other", proof, now),
				"too late":                            p.Proven("cp-1", "claimant", "authority", proof, now.Add(pendingFor)),
				"without a proof":                     p.Proven("cp-1", "claimant", "authority", nil, now),
				"with zeros":                          p.Proven("cp-1", "claimant", "authority", make([]byte, 64), now),
				"of a guessed secret":                 p.Proven("cp-1", "claimant", "authority", m.sign(bootspec.TPMStatement(make([]byte, 32), "claimant", "authority")), now),
				"that somebody passes on as his own":  p.Proven("cp-1", "claimant", "authority", m.sign(bootspec.TPMStatement(secret, "somebody", "authority")), now),
				"without that a challenge was wanted": (&Pending{}).Proven("cp-1", "claimant", "authority", proof, now),
			} {
				if got != nil {
					t.Errorf("a proof counts %s", what)
				}
			}
			// The same endorsement key with another signing key, as a thief's who has seen both.
			m.flush()
			m2 := newMachine(t, line, ek, signingTemplateOf(7))
			if _, err := m2.open(challenge); err == nil {
				t.Error("a challenge is opened for another signing key")
			}
			m2.flush()
		})
	}
}

// signingTemplateOf is another signing key for each number.
func signingTemplateOf(n byte) tpm2.TPMTPublic {
	t := signingTemplate()
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: bytes.Repeat([]byte{n}, 32)}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)}})
	return t
}

// TestChallengesAreBounded: a node has few at a time, the newest, and a claimant one.
func TestChallengesAreBounded(t *testing.T) {
	m := newMachine(t, tpmtest.Start(t, t.TempDir()), tpm2.ECCEKTemplate, signingTemplate())
	s, p, now := parse(t, m.shows), &Pending{}, time.Unix(1e9, 0)
	for i := range 20 {
		if _, err := p.Challenge("cp-1", string(rune('a'+i/2)), s, now); err != nil {
			t.Fatal(err)
		}
	}
	var claimants []string
	for _, w := range p.nodes["cp-1"] {
		claimants = append(claimants, w.claimant)
	}
	if got := strings.Join(claimants, ""); got != "ghij" {
		t.Errorf("kept are those of %s", got)
	}
	if _, err := p.Challenge("cp-1", "z", s, now.Add(pendingFor)); err != nil || len(p.nodes["cp-1"]) != 1 {
		t.Errorf("%d are kept, %v", len(p.nodes["cp-1"]), err)
	}
}

// TestOnlyKeysOfATPM: keys whose attributes would let them be made or used elsewhere are refused, and what is no key at all.
func TestOnlyKeysOfATPM(t *testing.T) {
	line := tpmtest.Start(t, t.TempDir())
	m := newMachine(t, line, tpm2.ECCEKTemplate, signingTemplate())
	edit := func(data []byte, change func(*tpm2.TPMTPublic)) []byte {
		public, err := tpm2.Unmarshal[tpm2.TPMTPublic](data)
		if err != nil {
			t.Fatal(err)
		}
		change(public)
		return tpm2.Marshal(public)
	}
	rsa := tpm2.RSAEKTemplate
	rsa.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: bytes.Repeat([]byte{2}, 256)})
	for want, shows := range map[string]bootspec.TPMRequest{
		"its signing key: its attributes":     {EK: m.shows.EK, AK: edit(m.shows.AK, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false })},
		"its endorsement key: its attributes": {EK: edit(m.shows.EK, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SignEncrypt = true }), AK: m.shows.AK},
		"its endorsement key: it is not a point": {EK: edit(m.shows.EK, func(p *tpm2.TPMTPublic) {
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte{1}}, Y: tpm2.TPM2BECCParameter{Buffer: []byte{2}}})
		}), AK: m.shows.AK},
		"its endorsement key: it is not an RSA key with 2048 bits": {EK: tpm2.Marshal(&rsa), AK: m.shows.AK},
		"its endorsement key: it is not a TPMT_PUBLIC":             {EK: m.shows.EK[:40], AK: m.shows.AK},
		"its signing key: it is not a TPMT_PUBLIC":                 {EK: m.shows.EK},
		"its signing key: its attributes are":                      {EK: m.shows.EK, AK: append(bytes.Clone(m.shows.AK), 0)},
		"certificate: it is not a certificate":                     {EK: m.shows.EK, AK: m.shows.AK, Certificate: []byte{0x30, 0}},
	} {
		if _, err := Parse(shows); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want: %s", err, want)
		}
	}
	m.flush()
	// A key of the same kind, but one that another system could have the private half of.
	loose := signingTemplate()
	loose.ObjectAttributes.FixedTPM, loose.ObjectAttributes.FixedParent = false, false
	if _, err := Parse(newMachine(t, line, tpm2.ECCEKTemplate, loose).shows); err == nil {
		t.Error("a signing key that may leave the TPM is taken")
	}
}

// TestMakersOfTPMs: a TPM whose certificate is of a maker in the folder counts; one of another maker, or without one, doesn't.
func TestMakersOfTPMs(t *testing.T) {
	makers, state := t.TempDir(), t.TempDir()
	authorities := tpmtest.Manufacture(t, state)
	file := func(dir, name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file(makers, "swtpm.pem", authorities)
	file(makers, "README", []byte("not a certificate"))
	a, err := ReadAuthorities(makers)
	if err != nil {
		t.Fatal(err)
	}
	line := tpmtest.Start(t, state)
	read, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(0x01c00002)}.Execute(transport.FromReadWriter(line))
	if err != nil {
		t.Fatal(err)
	}
	place, err := read.NVPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	index := tpm2.NamedHandle{Handle: 0x01c00002, Name: read.NVName}
	data, err := tpm2.NVRead{AuthHandle: index, NVIndex: index, Size: place.DataSize}.Execute(transport.FromReadWriter(line))
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, line, tpm2.RSAEKTemplate, signingTemplate())
	without := parse(t, m.shows)
	m.shows.Certificate = data.Data.Buffer
	s := parse(t, m.shows)
	if err := a.Verify(s, time.Now()); err != nil {
		t.Error(err)
	}
	if err := a.Verify(s, time.Now().AddDate(-1, 0, 0)); err == nil {
		t.Error("a certificate counts before its time")
	}
	if err := a.Verify(without, time.Now()); err == nil || !strings.Contains(err.Error(), "has no certificate of its maker") {
		t.Error(err)
	}
	m.flush()
	theirs := newMachine(t, line, tpm2.ECCEKTemplate, signingTemplate()).shows
	theirs.Certificate = m.shows.Certificate
	if _, err := Parse(theirs); err == nil || !strings.Contains(err.Error(), "it is of another key") {
		t.Errorf("the certificate of another TPM: %v", err)
	}

	block, _ := pem.Decode(authorities)
	if c, err := x509.ParseCertificate(block.Bytes); err != nil || bytes.Equal(c.RawIssuer, c.RawSubject) {
		t.Fatal("the first one should be between the root and the TPM", err)
	}
	others := t.TempDir()
	file(others, "issuer.der", block.Bytes)
	if _, err := ReadAuthorities(others); err == nil || !strings.Contains(err.Error(), "has signed itself") {
		t.Errorf("without a root: %v", err)
	}
	tpmtestOther := tpmtest.Manufacture(t, t.TempDir())
	file(others, "other.crt", tpmtestOther)
	if b, err := ReadAuthorities(others); err != nil || b.Verify(s, time.Now()) == nil {
		t.Errorf("another maker's TPM: %v", err)
	}
	file(others, "broken.pem", []byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"))
	if _, err := ReadAuthorities(others); err == nil || !strings.Contains(err.Error(), "broken.pem") {
		t.Error(err)
	}
}

// FuzzParse: whatever is shown, it is refused or gives a challenge, and no proof of nothing counts.
func FuzzParse(f *testing.F) {
	ecc := tpm2.ECCEKTemplate
	ak := signingTemplate()
	ak.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: base[:32]}, Y: tpm2.TPM2BECCParameter{Buffer: base[32:]}})
	ecc.Unique = ak.Unique
	rsa := tpm2.RSAEKTemplate
	rsa.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: bytes.Repeat([]byte{0x81}, 256)})
	f.Add(tpm2.Marshal(&ecc), tpm2.Marshal(&ak), []byte{})
	f.Add(tpm2.Marshal(&rsa), tpm2.Marshal(&ak), []byte{0x30, 0})
	f.Add(tpm2.Marshal(&ak), tpm2.Marshal(&ecc), []byte{})
	if _, err := Parse(bootspec.TPMRequest{EK: tpm2.Marshal(&rsa), AK: tpm2.Marshal(&ak)}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, ek, ak, certificate []byte) {
		s, err := Parse(bootspec.TPMRequest{EK: ek, AK: ak, Certificate: certificate})
		if err != nil {
			return
		}
		secret, c, err := s.Challenge()
		if err != nil || len(c.Credential) == 0 || len(c.Secret) == 0 || len(secret) != secretSize {
			t.Errorf("%d, %d, %v", len(c.Credential), len(c.Secret), err)
		}
		if s.Proves(make([]byte, 64), secret, "", "") || s.Proves(certificate, secret, "", "") {
			t.Error("nothing proves it")
		}
	})
}

// base is P-256's base point (SEC 2, section 2.4.2).
var base, _ = hex.DecodeString("6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5")

func TestSigningKeyIsTheAgents(t *testing.T) {
	template := signingTemplate()
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	if got := hex.EncodeToString(tpm2.Marshal(&template)); got != tpmtest.SigningKey {
		t.Errorf("it is %s", got)
	}
}
