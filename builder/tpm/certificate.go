package tpm

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// parseCertificate reads the certificate of an endorsement key.
func parseCertificate(der []byte, public any) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("it is not a certificate")
	}
	own, ok := c.PublicKey.(interface{ Equal(x crypto.PublicKey) bool })
	if !ok || !own.Equal(public) {
		return nil, errors.New("it is of another key")
	}
	return c, nil
}

// Authorities are the authorities of TPMs' makers that an operator believes.
type Authorities struct {
	dir                  string
	roots, intermediates *x509.CertPool
}

// maxAuthority bounds a file of certificates in bytes.
const maxAuthority = 4 << 20

// ReadAuthorities reads a folder of certificates, PEM (any number in a file) or DER, in files that end with .pem, .crt, .cer or .der. Those that have
// signed themselves are believed; the others may stand between them and a TPM's certificate.
func ReadAuthorities(dir string) (*Authorities, error) {
	a := &Authorities{dir: dir, roots: x509.NewCertPool(), intermediates: x509.NewCertPool()}
	roots := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || !slices.Contains([]string{".pem", ".crt", ".cer", ".der"}, filepath.Ext(path)) {
			return nil
		}
		certificates, err := readCertificates(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, c := range certificates {
			if bytes.Equal(c.RawIssuer, c.RawSubject) && c.IsCA {
				a.roots.AddCert(c)
				roots++
				continue
			}
			a.intermediates.AddCert(c)
		}
		return nil
	})
	if err == nil && roots == 0 {
		err = errors.New("no certificate there is an authority's that has signed itself")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the authorities of TPMs' makers in %s: %w", dir, err)
	}
	return a, nil
}

func readCertificates(path string) (out []*x509.Certificate, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxAuthority {
		return nil, fmt.Errorf("it is over %d bytes", maxAuthority)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	if block == nil {
		c, err := x509.ParseCertificate(data)
		return []*x509.Certificate{c}, err
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// Verify says why a TPM isn't one of a maker that the operator believes; nil: it is.
func (a *Authorities) Verify(s *Shown, now time.Time) error {
	if s.Certificate == nil {
		return errors.New("its TPM has no certificate of its maker")
	}
	c := *s.Certificate
	// The subject's alternative name holds the TPM's maker and model, in a form that crypto/x509 doesn't read and that is critical when the
	// subject is empty (EK Credential Profile, section 3.2.9).
	c.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(c.UnhandledCriticalExtensions), func(id asn1.ObjectIdentifier) bool {
		return id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17})
	})
	_, err := c.Verify(x509.VerifyOptions{
		Roots: a.roots, Intermediates: a.intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("its TPM's certificate is of no maker in %s: %w", a.dir, err)
	}
	return nil
}
