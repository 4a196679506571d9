package etcdkv

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// LoadTLS reads the authority that etcd's certificate must be of, and the certificate and key that are shown to it. The files of the
// latter are read again for each connection, so that they may be renewed.
func LoadTLS(ca, cert, key string) (*tls.Config, error) {
	fail := func(err error) (*tls.Config, error) {
		return nil, fmt.Errorf("cannot use the store's certificates: %w", err)
	}
	text, err := os.ReadFile(ca)
	if err != nil {
		return fail(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return fail(fmt.Errorf("%s has no certificate", ca))
	}
	if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
		return fail(fmt.Errorf("%s and %s: %w", cert, key, err))
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			own, err := tls.LoadX509KeyPair(cert, key)
			return &own, err
		},
	}, nil
}
