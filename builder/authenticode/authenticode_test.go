package authenticode

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/internal/fixture"
)

// owner makes a key and its certificate, and files of them.
func owner(t *testing.T, bits int) (s *Signer, certificate *x509.Certificate, key, cert string) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, bits)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "owner"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	must(t, err)
	certificate, err = x509.ParseCertificate(der)
	must(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	dir := t.TempDir()
	key, cert = filepath.Join(dir, "key"), filepath.Join(dir, "cert")
	must(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	must(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	if bits < least {
		return nil, certificate, key, cert
	}
	s, err = Load(key, cert)
	must(t, err)
	return s, certificate, key, cert
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestSign: a signed program is verified by the library and by sbverify, and by nobody when a byte of it differs.
func TestSign(t *testing.T) {
	s, certificate, _, cert := owner(t, 2048)
	_, other, _, otherCert := owner(t, 2048)
	program := fixture.Stub(3)
	signed, err := s.Sign(program)
	must(t, err)
	again, err := s.Sign(program)
	must(t, err)
	if !bytes.Equal(signed, again) {
		t.Error("two signatures of one program differ")
	}
	must(t, Verify(signed, certificate))
	if Verify(signed, other) == nil || Verify(program, certificate) == nil {
		t.Error("a signature of another key, or none, is taken")
	}
	changed := bytes.Clone(signed)
	changed[len(program)-1] ^= 1
	if Verify(changed, certificate) == nil {
		t.Error("a changed program is taken")
	}
	if _, err := s.Sign([]byte("no program")); err == nil {
		t.Error("what is no program was signed")
	}
	t.Run("sbverify", func(t *testing.T) {
		if _, err := exec.LookPath("sbverify"); err != nil {
			t.Skip("sbverify is not installed (make deps)")
		}
		file := filepath.Join(t.TempDir(), "signed.efi")
		for _, c := range []struct {
			program []byte
			cert    string
			good    bool
		}{{signed, cert, true}, {signed, otherCert, false}, {changed, cert, false}} {
			must(t, os.WriteFile(file, c.program, 0o600))
			if said, err := exec.Command("sbverify", "--cert", c.cert, file).CombinedOutput(); (err == nil) != c.good {
				t.Errorf("good %v: %v: %s", c.good, err, said)
			}
		}
	})
}

// TestLoad: what can't sign is said with the file's name, and without what is in it.
func TestLoad(t *testing.T) {
	_, _, key, cert := owner(t, 2048)
	_, _, weak, weakCert := owner(t, 1024)
	_, _, otherKey, _ := owner(t, 2048)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(curve)
	must(t, err)
	elliptic := filepath.Join(t.TempDir(), "ec")
	must(t, os.WriteFile(elliptic, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	for want, files := range map[string][2]string{
		"no such file":                           {key + "x", cert},
		`has no PEM block "PRIVATE KEY"`:         {cert, cert},
		`has no PEM block "CERTIFICATE"`:         {key, key},
		"the key has 1024 bits, fewer than 2048": {weak, weakCert},
		"the certificate is of another key":      {otherKey, cert},
		"the key is not an RSA key":              {elliptic, cert},
	} {
		if _, err := Load(files[0], files[1]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
