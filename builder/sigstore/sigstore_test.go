package sigstore

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
)

func newKey(t testing.TB) PrivateKey {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := newPublicKey(&secret.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return PrivateKey{secret, public}
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestBlob(t *testing.T) {
	key, other, text := newKey(t), newKey(t), []byte("a checksum file\n")
	data := must[[]byte](t)(key.SignBlob(text))
	if again := must[[]byte](t)(key.SignBlob(text)); !bytes.Equal(again, data) {
		t.Error("the same key and bytes, another bundle")
	}
	b := must[*Bundle](t)(Parse(data))
	if err := key.VerifyBlob(b, text); err != nil || b.KeyID() != key.ID() {
		t.Errorf("%v, key %s", err, b.KeyID())
	}
	if err := other.VerifyBlob(b, text); !errors.Is(err, ErrOther) {
		t.Error(err)
	}
	if err := key.VerifyBlob(b, []byte("another file")); err == nil || !strings.Contains(err.Error(), "of another file") {
		t.Error(err)
	}
	b.signature[10] ^= 1
	if err := key.VerifyBlob(b, text); err == nil || !strings.Contains(err.Error(), "was changed") {
		t.Error(err)
	}
	if _, err := key.VerifyStatement(b); err == nil || !strings.Contains(err.Error(), "has no statement") {
		t.Error(err)
	}
}

func TestStatement(t *testing.T) {
	key, other, text := newKey(t), newKey(t), []byte(`{"_type": "https://in-toto.io/Statement/v1"}`)
	data := must[[]byte](t)(key.SignStatement(text))
	b := must[*Bundle](t)(Parse(data))
	if got, err := key.VerifyStatement(b); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := other.VerifyStatement(b); !errors.Is(err, ErrOther) {
		t.Error(err)
	}
	if err := key.VerifyBlob(b, text); err == nil || !strings.Contains(err.Error(), "is no signature of a file") {
		t.Error(err)
	}
	b.payload[0] = ' '
	if _, err := key.VerifyStatement(b); err == nil || !strings.Contains(err.Error(), "was changed") {
		t.Error(err)
	}
}

func TestParse(t *testing.T) {
	key := newKey(t)
	blob, envelope := string(must[[]byte](t)(key.SignBlob([]byte("x")))), string(must[[]byte](t)(key.SignStatement([]byte("{}"))))
	for name, bad := range map[string]string{
		"empty": "", "cut": blob[:len(blob)-20], "other version": strings.Replace(blob, "v0.3", "v9.9", 1), "no key": strings.Replace(blob, `"publicKey"`, `"x509CertificateChain"`, 1),
		"unknown": strings.Replace(blob, `"messageSignature"`, `"signature"`, 1), "other digest": strings.Replace(blob, "SHA2_256", "SHA2_512", 1),
		"other payload": strings.Replace(envelope, "vnd.in-toto", "vnd.other", 1), "no signature": envelope[:strings.Index(envelope, `"signatures":[`)] + `"signatures":[]}}`,
		"nothing": blob[:strings.Index(blob, `,"messageSignature"`)] + "}", "too long": blob + strings.Repeat(" ", MaxSize),
	} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestKeys(t *testing.T) {
	secret, public, err := Generate("secret word", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if !IsPEM(secret) || !IsEncrypted(secret) || IsEncrypted(public) {
		t.Errorf("%s\n%s", secret, public)
	}
	key := must[PrivateKey](t)(ParsePrivateKey(secret, "secret word"))
	if p := must[PublicKey](t)(ParsePublicKey(public)); p.ID() != key.ID() {
		t.Errorf("%s is not %s", p.ID(), key.ID())
	}
	if _, err := ParsePrivateKey(secret, "wrong"); !errors.Is(err, ErrPassword) {
		t.Error(err)
	}
	for kind, der := range map[string][]byte{
		pemPrivate: must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key.secret)),
		pemEC:      must[[]byte](t)(x509.MarshalECPrivateKey(key.secret)),
	} {
		if k, err := ParsePrivateKey(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), ""); err != nil || k.ID() != key.ID() {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestKeysThatAreNot(t *testing.T) {
	p384 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	rsaKey := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	for name, c := range map[string]struct{ text, words string }{
		"nothing": {"", "not one key in PEM"}, "certificate": {block("CERTIFICATE", nil), "no secret key"}, "damaged": {block(pemPrivate, []byte("x")), "asn1"},
		"other curve": {block(pemPrivate, must[[]byte](t)(x509.MarshalPKCS8PrivateKey(p384))), "its curve is P-384"},
		"rsa":         {block(pemPrivate, must[[]byte](t)(x509.MarshalPKCS8PrivateKey(rsaKey))), "only ECDSA on P-256"},
	} {
		if _, err := ParsePrivateKey([]byte(c.text), ""); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct{ text, words string }{
		"nothing": {"", "not one public key"}, "rsa": {block(pemPublic, must[[]byte](t)(x509.MarshalPKIXPublicKey(&rsaKey.PublicKey))), "only ECDSA on P-256"},
		"other curve": {block(pemPublic, must[[]byte](t)(x509.MarshalPKIXPublicKey(&p384.PublicKey))), "its curve is P-384"},
	} {
		if _, err := ParsePublicKey([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzBundle: nothing but what was signed is vouched for, whatever a bundle says.
func FuzzBundle(f *testing.F) {
	key, text := newKey(f), []byte("what was signed")
	f.Add(must[[]byte](f)(key.SignBlob(text)), text)
	f.Add(must[[]byte](f)(key.SignStatement(text)), text)
	f.Fuzz(func(t *testing.T, data, file []byte) {
		b, err := Parse(data)
		if err != nil {
			return
		}
		if key.VerifyBlob(b, file) == nil && !bytes.Equal(file, text) {
			t.Fatalf("vouched for %q", file)
		}
		if payload, err := key.VerifyStatement(b); err == nil && !bytes.Equal(payload, text) {
			t.Fatalf("vouched for %q", payload)
		}
	})
}

func FuzzKeys(f *testing.F) {
	key := newKey(f)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: must[[]byte](f)(x509.MarshalPKCS8PrivateKey(key.secret))}))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: must[[]byte](f)(x509.MarshalPKIXPublicKey(key.public))}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if IsEncrypted(data) {
			return // takes a tenth of a second each
		}
		if k, err := ParsePrivateKey(data, ""); err == nil {
			if _, err := k.SignBlob(data); err != nil {
				t.Fatal(err)
			}
		}
		if k, err := ParsePublicKey(data); err == nil && k.verify(data, data) {
			t.Fatal("a file is its own signature")
		}
	})
}
