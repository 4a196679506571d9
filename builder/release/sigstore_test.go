package release

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/provenance"
	"github.com/slipway-os/slipway/builder/sigstore"
	"github.com/slipway-os/slipway/images/checksums"
	"github.com/slipway-os/slipway/images/manifest"
)

const (
	base        = "slipway-worker-1.0.0-amd64"
	attestation = base + ExtAttestation
	bundle      = "slipway-1.0.0" + ExtBundle
)

// newSigstoreKey makes a key pair in files, as openssl would, and reads both halves.
func newSigstoreKey(t *testing.T) (sigstore.PrivateKey, *Trust) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cosign")
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	put(t, file+ExtSecret, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
	put(t, file+ExtPublic, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	k, err := ReadSigstoreKey(file+ExtSecret, nil)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := ReadTrust([]string{file + ExtPublic}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k, trust
}

// putProven writes a worker's image with its provenance.
func putProven(t *testing.T, dir, content string) {
	t.Helper()
	putImage(t, dir, "worker", "1.0.0", content)
	m, err := manifest.Decode(get(t, filepath.Join(dir, base+".json")))
	if err != nil {
		t.Fatal(err)
	}
	text, err := provenance.Build{Origin: provenance.Origin{Builder: "https://ci.example.com/" + content}, Manifest: m}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, base+provenance.Ext), text)
}

// prove checks the worker's image and its provenance.
func prove(t *testing.T, trust *Trust, dir string) (*provenance.Statement, error) {
	t.Helper()
	if err := check(t, trust, dir); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	data := get(t, filepath.Join(dir, base+".json"))
	m, err := manifest.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	return trust.Provenance(context.Background(), Folder(root), m, data)
}

// TestEitherKeyIsEnough: a release that is signed with both is trusted by whoever has one of the public keys.
func TestEitherKeyIsEnough(t *testing.T) {
	dir := t.TempDir()
	putProven(t, dir, "w")
	key, trust := newKey(t)
	cosign, cosignTrust := newSigstoreKey(t)
	_, strangers := newSigstoreKey(t)
	signed, err := Sign(dir, "", Signers{&key, &cosign})
	if err != nil || signed.Files != 5 || signed.Bundle != bundle {
		t.Fatalf("%+v, %v", signed, err)
	}
	for _, trusted := range []*Trust{trust, cosignTrust, {append(strangers.Keys, cosignTrust.Keys...)}} {
		if s, err := prove(t, trusted, dir); err != nil || s.Builder != "https://ci.example.com/w" {
			t.Errorf("%+v, %v", s, err)
		}
	}
	if _, err := prove(t, strangers, dir); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), "is signed with key "+key.ID()+" and key "+cosign.ID()+", and only key") {
		t.Error(err)
	}
	before := []string{attestation, bundle, "slipway-1.0.0" + ExtSignature}
	var files [][]byte
	for _, name := range before {
		files = append(files, get(t, filepath.Join(dir, name)))
	}
	if _, err := Sign(dir, "", Signers{&key, &cosign}); err != nil {
		t.Fatal(err)
	}
	for n, name := range before {
		if !bytes.Equal(get(t, filepath.Join(dir, name)), files[n]) {
			t.Errorf("signed twice, two of %s", name)
		}
	}
	if _, err := Sign(dir, "", Signers{Minisign: &key}); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.sigstore.json")); len(left) > 0 {
		t.Errorf("signed without the key, and yet there is %v", left)
	}
	if _, err := prove(t, trust, dir); err != nil {
		t.Error(err)
	}
}

// TestWhatASigstoreKeyDoesNotVouchFor: each of these is refused where the key is trusted, by its own words.
func TestWhatASigstoreKeyDoesNotVouchFor(t *testing.T) {
	resign := func(t *testing.T, dir string) {
		other, _ := newSigstoreKey(t)
		if _, err := Sign(dir, "", Signers{Sigstore: &other}); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		words string
	}{
		"unsigned":    {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, bundle)) }, "nobody has signed version 1.0.0"},
		"another key": {resign, "is signed with key"},
		"cut":         {func(t *testing.T, dir string) { cutFile(t, filepath.Join(dir, bundle)) }, bundle + " is no bundle: it is damaged"},
		"too large": {func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, bundle), make([]byte, checksums.MaxBundle+1))
		}, "over the limit"},
		"of another file": {func(t *testing.T, dir string) { copyTo(t, dir, attestation, bundle) }, "has a statement, and is no signature of a file"},
		"changed list":    {func(t *testing.T, dir string) { put(t, filepath.Join(dir, "slipway-1.0.0"+ExtSums), []byte("x")) }, "it is of another file"},
		"no statement":    {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, base+provenance.Ext)) }, "is not there, and the release has it"},
		"cut statement":   {func(t *testing.T, dir string) { cutFile(t, filepath.Join(dir, base+provenance.Ext)) }, "it is no provenance"},
		"baked again":     {bakedAgain, "is not the one that slipway-1.0.0.sha256sums names"},
		"other subjects":  {func(t *testing.T, dir string) { otherSubjects(t, dir) }, "the provenance is not that of the image"},
		"no attestation":  {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, attestation)) }, attestation},
		"cut attestation": {func(t *testing.T, dir string) { cutFile(t, filepath.Join(dir, attestation)) }, "is not the one that the checksum file names"},
		"large statement": {func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, base+provenance.Ext), make([]byte, provenance.MaxSize+1))
		}, "over the limit"},
		"another manifest": {func(t *testing.T, dir string) { putImage(t, dir, "worker", "1.0.0", "other") }, "is not the one that key"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			putProven(t, dir, "w")
			key, trust := newSigstoreKey(t)
			if _, err := Sign(dir, "", Signers{Sigstore: &key}); err != nil {
				t.Fatal(err)
			}
			if _, err := prove(t, trust, dir); err != nil {
				t.Fatal(err)
			}
			c.spoil(t, dir)
			if _, err := prove(t, trust, dir); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v\nwant: %s", err, c.words)
			}
		})
	}
}

func cutFile(t *testing.T, name string) {
	t.Helper()
	data := get(t, name)
	put(t, name, data[:len(data)/2])
}

func copyTo(t *testing.T, dir, from, to string) {
	t.Helper()
	put(t, filepath.Join(dir, to), get(t, filepath.Join(dir, from)))
}

// bakedAgain has the same image, from another commit.
func bakedAgain(t *testing.T, dir string) {
	t.Helper()
	name := filepath.Join(dir, base+provenance.Ext)
	put(t, name, bytes.Replace(get(t, name), []byte("ci.example.com"), []byte("ci2.example.com"), 1))
}

// otherSubjects puts the provenance of another image there.
func otherSubjects(t *testing.T, dir string) {
	t.Helper()
	other := t.TempDir()
	putProven(t, other, "other")
	put(t, filepath.Join(dir, base+provenance.Ext), get(t, filepath.Join(other, base+provenance.Ext)))
}

// TestAnAttestationOfAnotherKey is in the checksum file that a trusted minisign key has signed, but not of the trusted Sigstore key.
func TestAnAttestationOfAnotherKey(t *testing.T) {
	dir := t.TempDir()
	putProven(t, dir, "w")
	key, trust := newKey(t)
	theirs, _ := newSigstoreKey(t)
	_, ours := newSigstoreKey(t)
	if _, err := Sign(dir, "", Signers{&key, &theirs}); err != nil {
		t.Fatal(err)
	}
	both := &Trust{append(trust.Keys, ours.Keys...)}
	if _, err := prove(t, both, dir); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), attestation+": it was made with key "+theirs.ID()) {
		t.Error(err)
	}
}

func TestSignRefusesProvenanceOfSomethingElse(t *testing.T) {
	dir := t.TempDir()
	putProven(t, dir, "w")
	otherSubjects(t, dir)
	key, _ := newSigstoreKey(t)
	if _, err := Sign(dir, "", Signers{Sigstore: &key}); !errors.Is(err, provenance.ErrSubjects) {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*sha256sums*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestSigstoreKeyFiles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "k")
	if _, err := GenerateSigstore(name, "secret word", rand.Reader); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(name + ExtSecret); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := GenerateSigstore(name, "", rand.Reader); err == nil || !strings.Contains(err.Error(), "never replaced") {
		t.Error(err)
	}
	if _, err := ReadSigstoreKey(name+ExtSecret, func() (string, error) { return "wrong", nil }); !errors.Is(err, ErrPassword) {
		t.Error(err)
	}
	if _, err := ReadSigstoreKey(name+ExtSecret, func() (string, error) { return "secret word", nil }); err != nil {
		t.Error(err)
	}
	if _, err := ReadSigningKey(name+ExtSecret, nil); err == nil || !strings.Contains(err.Error(), "--cosign-key") {
		t.Error(err)
	}
}
