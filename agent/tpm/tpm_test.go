package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/tpmtest"
)

func open(t *testing.T, line io.ReadWriteCloser) *TPM {
	t.Helper()
	opened, err := prepare(transport.FromReadWriteCloser(line))
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// challenge is what a server sends: a secret for an endorsement key and a signing key.
func challenge(t *testing.T, ek, ak, secret []byte) bootspec.TPMChallenge {
	t.Helper()
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.ImportEncapsulationKey(public)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := tpm2.Unmarshal[tpm2.TPMTPublic](ak)
	if err != nil {
		t.Fatal(err)
	}
	name, err := tpm2.ObjectName(signer)
	if err != nil {
		t.Fatal(err)
	}
	credential, encrypted, err := tpm2.CreateCredential(rand.Reader, key, name.Buffer, secret)
	if err != nil {
		t.Fatal(err)
	}
	return bootspec.TPMChallenge{Credential: credential, Secret: encrypted}
}

// signed says whether a proof is of a signing key and a statement.
func signed(t *testing.T, ak, statement, proof []byte) bool {
	t.Helper()
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](ak)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		t.Fatal(err)
	}
	return ecdsa.Verify(key.(*ecdsa.PublicKey), statement, new(big.Int).SetBytes(proof[:32]), new(big.Int).SetBytes(proof[32:]))
}

// TestTPMProvesItself: a TPM has the same endorsement key at each boot and another signing key, opens what is for both, and nothing else.
func TestTPMProvesItself(t *testing.T) {
	dir := t.TempDir()
	first := open(t, tpmtest.Start(t, dir))
	shown := first.Request("52:54:00:00:00:11")
	if shown.Certificate != nil || shown.MAC != "52:54:00:00:00:11" || shown.Version != bootspec.ClaimVersion {
		t.Errorf("shown: %+v", shown)
	}
	secret := []byte("for this TPM alone")
	for range 4 { // leading zeros of a signature must not matter, nor sessions that stay
		proof, err := first.Answer(challenge(t, shown.EK, shown.AK, secret), "claimant", "authority")
		if err != nil {
			t.Fatal(err)
		}
		if !signed(t, shown.AK, bootspec.TPMStatement(secret, "claimant", "authority"), proof) {
			t.Error("the proof is not of what was asked for")
		}
		if signed(t, shown.AK, bootspec.TPMStatement(secret, "claimant", "another authority"), proof) {
			t.Error("the proof is of anything")
		}
	}
	first.Close()

	again := open(t, tpmtest.Start(t, dir))
	later := again.Request("")
	if !bytes.Equal(shown.EK, later.EK) || bytes.Equal(shown.AK, later.AK) {
		t.Error("the endorsement key must stay and the signing key must not")
	}
	if _, err := again.Answer(challenge(t, later.EK, shown.AK, secret), "c", "a"); !errors.Is(err, tpm2.TPMRCIntegrity) {
		t.Errorf("the signing key of another boot: %v", err)
	}
	if _, err := again.Answer(bootspec.TPMChallenge{Credential: []byte{0}, Secret: []byte{1}}, "c", "a"); err == nil {
		t.Error("a broken challenge is answered")
	}

	other := open(t, tpmtest.Start(t, t.TempDir()))
	theirs := other.Request("")
	if bytes.Equal(theirs.EK, shown.EK) {
		t.Error("two TPMs have the same endorsement key")
	}
	if _, err := other.Answer(challenge(t, shown.EK, theirs.AK, secret), "c", "a"); err == nil {
		t.Error("a challenge for another TPM is answered")
	}
	if _, err := other.Answer(challenge(t, theirs.EK, theirs.AK, secret), "c", "a"); err != nil {
		t.Errorf("after a challenge that failed: %v", err)
	}
}

// TestCertifiedKeyIsShown: of a TPM whose maker certified a key, that key is shown, with its certificate.
func TestCertifiedKeyIsShown(t *testing.T) {
	dir := t.TempDir()
	tpmtest.Manufacture(t, dir)
	machine := open(t, tpmtest.Start(t, dir))
	shown := machine.Request("")
	certificate, err := x509.ParseCertificate(shown.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if certificate.PublicKeyAlgorithm != x509.RSA {
		t.Errorf("the key is %s", certificate.PublicKeyAlgorithm) // swtpm certifies RSA 2048 and P-384
	}
	secret := []byte("for this TPM alone")
	proof, err := machine.Answer(challenge(t, shown.EK, shown.AK, secret), "claimant", "authority")
	if err != nil || !signed(t, shown.AK, bootspec.TPMStatement(secret, "claimant", "authority"), proof) {
		t.Errorf("proof: %v", err)
	}
	// The maker has left the key in the TPM. It stays there, and without it the same key is made.
	if !machine.ek.persistent {
		t.Fatal("the maker left no key in the TPM")
	}
	machine.Close()
	machine = open(t, tpmtest.Start(t, dir))
	if !machine.ek.persistent {
		t.Error("the key was removed")
	}
	if _, err := (tpm2.EvictControl{
		Auth: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, ObjectHandle: machine.ek.NamedHandle, PersistentHandle: machine.ek.Handle,
	}).Execute(machine.link); err != nil {
		t.Fatal(err)
	}
	machine.Close()
	machine = open(t, tpmtest.Start(t, dir))
	if again := machine.Request(""); machine.ek.persistent || !bytes.Equal(again.EK, shown.EK) || !bytes.Equal(again.Certificate, shown.Certificate) {
		t.Errorf("another key is shown: %+v", machine.ek)
	}
}

func TestNoTPM(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "tpmrm0")); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

func TestPaddedCertificate(t *testing.T) {
	value, _ := hex.DecodeString("3003020101")
	for _, padding := range []string{"", "\x00\x00", "\xff\xff\xff"} {
		if got := one(append(bytes.Clone(value), padding...)); !bytes.Equal(got, value) {
			t.Errorf("%x", got)
		}
	}
	if one([]byte{0x30, 0x82}) != nil || one(nil) != nil {
		t.Error("a certificate out of nothing")
	}
}

func TestSigningKeyIsTheServers(t *testing.T) {
	template := signingTemplate()
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	if got := hex.EncodeToString(tpm2.Marshal(&template)); got != tpmtest.SigningKey {
		t.Errorf("it is %s", got)
	}
}
