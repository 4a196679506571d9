package netboot

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/slipway-os/slipway/builder/tpm"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/tpmtest"
)

func TestDecideTPM(t *testing.T) {
	claim := func(mac, tpm string) Claimed { return Claimed{MAC: mac, UUID: "u", Serial: "s", Key: "k", TPM: tpm} }
	with, without := claim(cpMAC, "a"), claim(cpMAC, "")
	for _, c := range []struct {
		what   string
		policy TPMPolicy
		record ClaimRecord
		asks   Claimed
		want   error
		bound  string // the TPM that the node is bound to then
	}{
		{"never claimed, with a TPM", TPMUse, ClaimRecord{Armed: true}, with, nil, "a"},
		{"never claimed, without", TPMUse, ClaimRecord{Armed: true}, without, nil, ""},
		{"never claimed, without, required", TPMRequired, ClaimRecord{Armed: true}, without, ErrNoTPM, ""},
		{"the same TPM", "", ClaimRecord{Bound: &with}, with, nil, "a"},
		{"another TPM, even with the same key", "", ClaimRecord{Bound: &with}, claim(cpMAC, "b"), ErrClaimed, "a"},
		{"without the TPM, even with the same key", TPMUse, ClaimRecord{Bound: &with}, without, ErrClaimed, "a"},
		{"another TPM, armed", TPMRequired, ClaimRecord{Bound: &with, Armed: true}, claim(cpMAC, "b"), nil, "b"},
		{"without, armed", TPMUse, ClaimRecord{Bound: &with, Armed: true}, without, nil, ""},
		{"without, armed, required", TPMRequired, ClaimRecord{Bound: &with, Armed: true}, without, ErrNoTPM, "a"},
		{"bound before TPMs were asked for", TPMUse, ClaimRecord{Bound: &without}, with, nil, "a"},
		{"ignored", TPMIgnore, ClaimRecord{Bound: &with}, without, nil, "a"},
		{"the document has another machine now", TPMUse, ClaimRecord{Bound: &with}, claim("52:54:00:00:00:12", "b"), nil, "b"},
	} {
		for _, policy := range []ClaimPolicy{ClaimSameMachine, ClaimOnce} {
			err := decideTPM(c.record, c.policy, c.asks)
			next := c.record
			if err == nil {
				next, err = decideClaim(c.record, policy, c.asks)
			}
			bound := ""
			if next.Bound != nil {
				bound = next.Bound.TPM
			}
			if !errors.Is(err, c.want) || bound != c.bound || err == nil && next.Recent[0].TPM != c.asks.TPM {
				t.Errorf("%s, %s: %v, bound to %q, want %v, %q", c.what, policy, err, bound, c.want, c.bound)
			}
		}
	}
}

// tpmMachine is a machine with a TPM, which does what the agent does, by its own code.
type tpmMachine struct {
	t    *testing.T
	link transport.TPM
	ek   *tpm2.CreatePrimaryResponse
	ask  func(route, from string, own *tls.Certificate, body string) (int, string)
	s    *serving

	certificate []byte
}

func newTPMMachine(t *testing.T, s *serving, line io.ReadWriter, ek tpm2.TPMTPublic) *tpmMachine {
	t.Helper()
	m := &tpmMachine{t: t, link: transport.FromReadWriter(line), s: s}
	var err error
	m.ek, err = tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(ek)}.Execute(m.link)
	must(t, err)
	return m
}

// boot is a boot of the machine: a key, and its claim with its TPM.
func (m *tpmMachine) boot(own *tls.Certificate, serial string) (int, string) {
	m.t.Helper()
	signer := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
		}),
	}
	ak, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHNull, InPublic: tpm2.New2B(signer)}.Execute(m.link)
	must(m.t, err)
	defer func() { _, _ = tpm2.FlushContext{FlushHandle: ak.ObjectHandle}.Execute(m.link) }()
	shown, _ := json.Marshal(bootspec.TPMRequest{Version: bootspec.ClaimVersion, MAC: cpMAC, EK: m.ek.OutPublic.Bytes(), AK: ak.OutPublic.Bytes(), Certificate: m.certificate})
	status, text := m.ask(bootspec.RouteTPM, cpAddress, own, string(shown))
	if status != 200 {
		return status, text
	}
	challenge, err := bootspec.ParseTPMChallenge(strings.NewReader(text))
	must(m.t, err)
	opened, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.NamedHandle{Handle: ak.ObjectHandle, Name: ak.Name},
		KeyHandle: tpm2.AuthHandle{Handle: m.ek.ObjectHandle, Name: m.ek.Name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(link transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
			_, err := tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement, PolicySession: session, NonceTPM: nonce}.Execute(link)
			return err
		})},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: challenge.Credential}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: challenge.Secret},
	}.Execute(m.link)
	must(m.t, err)
	signed, err := tpm2.Sign{
		KeyHandle:  tpm2.NamedHandle{Handle: ak.ObjectHandle, Name: ak.Name},
		Digest:     tpm2.TPM2BDigest{Buffer: bootspec.TPMStatement(opened.CertInfo.Buffer, fingerprintOf(m.t, own), m.s.tpms.authority)},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(m.link)
	must(m.t, err)
	signature, err := signed.Signature.Signature.ECDSA()
	must(m.t, err)
	fill := func(b []byte) []byte { return append(make([]byte, 32-len(b)), b...) }
	body, _ := json.Marshal(bootspec.Claim{Version: bootspec.ClaimVersion, MAC: cpMAC, UUID: cpUUID, Serial: serial,
		TPMProof: append(fill(signature.SignatureR.Buffer), fill(signature.SignatureS.Buffer)...)})
	return m.ask(bootspec.RouteClaim, cpAddress, own, string(body))
}

// TestNodeIsBoundToItsTPM: over TLS with real TPMs, a node that was claimed by a machine with a TPM is that machine's alone.
func TestNodeIsBoundToItsTPM(t *testing.T) {
	s := serveLoopback(t)
	ask := s.secureAsk()
	machine := newTPMMachine(t, s, tpmtest.Start(t, t.TempDir()), tpm2.ECCEKTemplate)
	thief := newTPMMachine(t, s, tpmtest.Start(t, t.TempDir()), tpm2.ECCEKTemplate)
	machine.ask, thief.ask = ask, ask
	absent := ""
	without := func() (int, string) {
		body, _ := json.Marshal(bootspec.Claim{Version: bootspec.ClaimVersion, MAC: cpMAC, UUID: cpUUID, Serial: "ABC1", TPMAbsent: absent})
		return ask(bootspec.RouteClaim, cpAddress, claimant(t), string(body))
	}
	expect := func(what string, code int, text string, wantCode int, want string) {
		t.Helper()
		if code != wantCode || !strings.Contains(text, want) || code != 200 && strings.Contains(text, secret) {
			t.Errorf("%s: %d %s", what, code, text)
		}
	}
	code, text := without()
	expect("an image of before", code, text, 200, secret)
	key := claimant(t)
	for _, what := range []string{"the first claim with the TPM", "the same boot again"} {
		code, text = machine.boot(key, "ABC1")
		expect(what, code, text, 200, secret)
	}
	code, text = machine.boot(claimant(t), "ABC1")
	expect("the next boot", code, text, 200, secret)
	code, text = thief.boot(claimant(t), "ABC1")
	expect("another TPM", code, text, 403, "with another TPM (an operator opens it again with: slipway arm cp-1)")
	code, text = without()
	expect("an image of before, again", code, text, 403, "(its image is of before TPMs were asked for: bake it anew) (an operator opens")
	absent = "switched off\nin the firmware"
	code, text = without()
	expect("without the TPM", code, text, 403, "without the TPM that the node is bound to (it says: switched off in the firmware) (an operator opens")
	for _, want := range []string{"CLAIM REFUSED", "with another TPM", `(it says: switched off in the firmware)`, "tpm=true"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log doesn't say %q:\n%s", want, s.log)
		}
	}
	record, _, err := readClaims(s.claims.store, "cp-1")
	if err != nil || len(record.Bound.TPM) != 64 || record.Recent[0].TPM != "" || strings.Contains(s.log.String(), record.Bound.TPM[:16]) {
		t.Errorf("kept: %+v, %v", record, err)
	}
	must(t, s.claims.arm("cp-1"))
	code, text = thief.boot(claimant(t), "ABC1")
	expect("another TPM, armed", code, text, 200, secret)
	code, text = machine.boot(claimant(t), "ABC1")
	expect("the TPM of before", code, text, 403, "with another TPM")

	must(t, s.claims.arm("cp-1"))
	s.claims.tpm = TPMRequired
	code, text = without()
	expect("required", code, text, 403, "required, and this machine shows no TPM 2.0 (it says: switched off in the firmware)")
	s.claims.tpm = TPMIgnore
	code, _ = machine.boot(claimant(t), "ABC1")
	expect("ignored: no challenge", code, "", 204, "")
	code, text = without()
	expect("ignored", code, text, 200, secret)
}

// TestTPMAsksWrongly: what is refused before any TPM is challenged, and a proof that belongs to no challenge.
func TestTPMAsksWrongly(t *testing.T) {
	s := serveLoopback(t)
	ask := s.secureAsk()
	good, _ := json.Marshal(bootspec.TPMRequest{Version: bootspec.ClaimVersion, MAC: cpMAC, EK: []byte{1}, AK: []byte{2}})
	for _, c := range []struct {
		what, from string
		own        *tls.Certificate
		body       string
		status     int
		says       string
	}{
		{"no key", cpAddress, nil, string(good), 401, "needs a certificate"},
		{"a stranger's address", strangerAddress, claimant(t), string(good), 403, "no configuration for this machine"},
		{"no JSON", cpAddress, claimant(t), "x", 400, "cannot read what a TPM shows"},
		{"another version", cpAddress, claimant(t), `{"version":2}`, 400, "the image speaks version 2"},
		{"too long", cpAddress, claimant(t), `{"version":1,"mac":"` + strings.Repeat("x", bootspec.MaxTPM) + `"}`, 400, ""},
		{"no TPM's key", cpAddress, claimant(t), string(good), 400, "its endorsement key: it is not a TPMT_PUBLIC"},
	} {
		if status, text := ask(bootspec.RouteTPM, c.from, c.own, c.body); status != c.status || !strings.Contains(text, c.says) {
			t.Errorf("%s: %d %q", c.what, status, text)
		}
	}
	body, _ := json.Marshal(bootspec.Claim{Version: bootspec.ClaimVersion, MAC: cpMAC, TPMProof: make([]byte, 64)})
	if status, text := ask(bootspec.RouteClaim, cpAddress, claimant(t), string(body)); status != 503 || !strings.Contains(text, "ask for another one") {
		t.Errorf("a proof of nothing: %d %s", status, text)
	}
	for range reportsPerMinute {
		ask(bootspec.RouteTPM, cpAddress, claimant(t), string(good))
	}
	if status, _ := ask(bootspec.RouteTPM, cpAddress, claimant(t), string(good)); status != 429 {
		t.Errorf("a flood: %d", status)
	}
}

// TestTPMOfAMaker: with makers that the operator believes, no other TPM counts, and the certificate is kept.
func TestTPMOfAMaker(t *testing.T) {
	s := serveLoopback(t)
	ask := s.secureAsk()
	state, makers := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(makers, "swtpm.pem"), tpmtest.Manufacture(t, state), 0o600))
	var err error
	s.tpms.makers, err = tpm.ReadAuthorities(makers)
	must(t, err)
	s.claims.tpm = TPMRequired
	plain := newTPMMachine(t, s, tpmtest.Start(t, t.TempDir()), tpm2.ECCEKTemplate)
	certified := newTPMMachine(t, s, tpmtest.Start(t, state), tpm2.RSAEKTemplate)
	plain.ask, certified.ask = ask, ask
	index := tpm2.TPMHandle(0x01c00002)
	found, err := tpm2.NVReadPublic{NVIndex: index}.Execute(certified.link)
	must(t, err)
	place, err := found.NVPublic.Contents()
	must(t, err)
	named := tpm2.NamedHandle{Handle: index, Name: found.NVName}
	read, err := tpm2.NVRead{AuthHandle: named, NVIndex: named, Size: place.DataSize}.Execute(certified.link)
	must(t, err)
	certified.certificate = read.Data.Buffer
	if code, text := plain.boot(claimant(t), "ABC1"); code != 403 || !strings.Contains(text, "its TPM has no certificate of its maker") || strings.Contains(text, "slipway arm") {
		t.Errorf("without a certificate: %d %s", code, text)
	}
	if code, text := certified.boot(claimant(t), "ABC1"); code != 200 {
		t.Fatalf("%d %s", code, text)
	}
	record, _, err := readClaims(s.claims.store, "cp-1")
	if err != nil || !strings.HasPrefix(record.Bound.TPMCertificate, "-----BEGIN CERTIFICATE-----") || !strings.Contains(record.Bound.TPMMaker, "swtpm-localca") ||
		record.Recent[0].TPMCertificate != "" || record.Bound.From != netip.MustParseAddr(cpAddress) {
		t.Errorf("kept: %+v, %v", record, err)
	}
}
