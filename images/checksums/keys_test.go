package checksums

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"aead.dev/minisign"
)

var text = Sums{"slipway-worker-1.0.0-amd64.efi": strings.Repeat("0", 64)}.Encode()

// signer is a key pair of one of both kinds.
type signer struct {
	file []byte // the public key's
	sign func(text []byte) Signed
}

func newMinisign(t testing.TB) signer {
	t.Helper()
	public, secret, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	file, _ := public.MarshalText()
	return signer{file, func(text []byte) Signed { return Signed{Sums: text, Signature: minisign.Sign(secret, text)} }}
}

func newECDSA(t testing.TB, curve elliptic.Curve) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return signer{pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), func(text []byte) Signed {
		var b bundle
		hint, sum := sha256.Sum256(der), sha256.Sum256(text)
		b.VerificationMaterial.PublicKey.Hint = hint[:]
		if b.MessageSignature.Signature, err = ecdsa.SignASN1(rand.Reader, key, sum[:]); err != nil {
			t.Fatal(err)
		}
		data, _ := json.Marshal(b)
		return Signed{Sums: text, Bundle: data}
	}}
}

func pin(t testing.TB, signers ...signer) Keys {
	t.Helper()
	var keys Keys
	for _, s := range signers {
		var err error
		if keys, err = keys.Add(s.file); err != nil {
			t.Fatal(err)
		}
	}
	read, err := ParseKeys(keys.String())
	if err != nil || read.String() != keys.String() || strings.ContainsAny(keys.String(), " \"") {
		t.Fatalf("%q comes back as %q: %v", keys, read, err)
	}
	return read
}

// TestVerify: one of the pinned keys must have signed just this text.
func TestVerify(t *testing.T) {
	a, b, c, d := newMinisign(t), newMinisign(t), newECDSA(t, elliptic.P256()), newECDSA(t, elliptic.P256())
	both := a.sign(text)
	both.Bundle = c.sign(text).Bundle
	changed := func(s Signed) Signed {
		s.Sums = []byte(strings.Replace(string(s.Sums), "000", "111", 1))
		return s
	}
	for _, tt := range []struct {
		name   string
		keys   Keys
		signed Signed
		want   string // of the error; empty: none
	}{
		{"minisign", pin(t, a), a.sign(text), ""},
		{"Sigstore", pin(t, c), c.sign(text), ""},
		{"either", pin(t, b, d, a, c), a.sign(text), ""},
		{"two signatures, the first one's key pinned", pin(t, a), both, ""},
		{"two signatures, the second one's key pinned", pin(t, c), both, ""},
		{"nothing", pin(t, a), Signed{}, "nobody has signed version 1.0.0"},
		{"no signature", pin(t, a), Signed{Sums: text}, "nobody has signed version 1.0.0"},
		{"another minisign key", pin(t, b), a.sign(text), "is signed with key " + pin(t, a)[0].ID + ", and only key " + pin(t, b)[0].ID + " is pinned in this image"},
		{"another Sigstore key", pin(t, d), c.sign(text), "is signed with key " + pin(t, c)[0].ID},
		{"two others", pin(t, b, d), both, " and " + pin(t, c)[0].ID},
		{"changed, minisign", pin(t, a), changed(a.sign(text)), "is not what key " + pin(t, a)[0].ID + " signed"},
		{"changed, Sigstore", pin(t, c), changed(c.sign(text)), "is not what key " + pin(t, c)[0].ID + " signed"},
		{"damaged signature", pin(t, a), Signed{Sums: text, Signature: []byte("x")}, "has a damaged signature"},
		{"damaged bundle", pin(t, a), Signed{Sums: text, Bundle: []byte(`{"messageSignature": {}}`)}, "has a damaged Sigstore bundle"},
		{"no checksum file", pin(t, a), a.sign([]byte("something\n")), "cannot read slipway-1.0.0.sha256sums"},
	} {
		sums, key, err := tt.keys.Verify("1.0.0", tt.signed)
		switch {
		case tt.want == "" && (err != nil || string(sums.Encode()) != string(text) || key.ID == ""):
			t.Errorf("%s: %v %v %v", tt.name, sums, key, err)
		case tt.want != "" && (!errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), tt.want) || sums != nil):
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

// TestKeysThatAreNone: what is not a public key is said where it is pinned and where it is read.
func TestKeysThatAreNone(t *testing.T) {
	_, secret, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := secret.MarshalText()
	for name, file := range map[string][]byte{
		"empty": nil, "a secret key": text, "another curve": newECDSA(t, elliptic.P384()).file, "no PEM": []byte("-----BEGIN x"),
		"two": append(newECDSA(t, elliptic.P256()).file, newECDSA(t, elliptic.P256()).file...), "a secret key in PEM": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY"}),
	} {
		if keys, err := Keys(nil).Add(file); err == nil {
			t.Errorf("%s: %v", name, keys)
		}
	}
	for _, value := range []string{",", "x", "RWQ=", pin(t, newMinisign(t)).String() + ",", strings.Repeat(",", maxKeys)} {
		if keys, err := ParseKeys(value); err == nil || !strings.Contains(err.Error(), "slipway.release-key") {
			t.Errorf("%q: %v %v", value, keys, err)
		}
	}
	keys, one := Keys{}, newMinisign(t)
	for range 2 { // the same one
		if keys, err = keys.Add(one.file); err != nil || len(keys) != 1 {
			t.Fatal(keys, err)
		}
	}
	for len(keys) < maxKeys {
		if keys, err = keys.Add(newMinisign(t).file); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := keys.Add(newMinisign(t).file); err == nil {
		t.Error("there is no end")
	}
	if none, err := ParseKeys(""); none != nil || err != nil {
		t.Error(none, err)
	}
}

// FuzzVerify: nothing but what was signed is vouched for, whatever the signatures' files say.
func FuzzVerify(f *testing.F) {
	a, b := newMinisign(f), newECDSA(f, elliptic.P256())
	keys := pin(f, a, b)
	f.Add(text, a.sign(text).Signature, b.sign(text).Bundle)
	f.Add([]byte{}, []byte("untrusted comment: \nAAAA\ntrusted comment: \nAAAA\n"), []byte("{}"))
	f.Fuzz(func(t *testing.T, data, signature, bundle []byte) {
		if _, _, err := keys.Verify("1.0.0", Signed{data, signature, bundle}); err == nil && string(data) != string(text) {
			t.Fatalf("vouched for %q", data)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add(pin(f, newMinisign(f), newECDSA(f, elliptic.P256())).String())
	f.Fuzz(func(t *testing.T, value string) {
		keys, err := ParseKeys(value)
		if again, err2 := ParseKeys(keys.String()); err == nil && (err2 != nil || again.String() != keys.String()) {
			t.Fatalf("%q comes back as %q", keys, again)
		}
	})
}
