// Package secure is the agent's way to the boot server over TLS: it learns where that is and with which authority, compares the
// authority with what is pinned in the image, and makes the key that this boot claims its configuration with.
//
// It keeps nothing: the key lives as long as the first stage.
package secure

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// ErrOld says that a boot server knows no TLS: it is of an earlier version than this image.
var ErrOld = errors.New("the boot server is older than this image and gives configurations out without TLS: run the slipway that baked the image")

// Discover asks a boot server, over plain HTTP, how it is reached over TLS. ErrOld and what ParseSecure refuses are for good; another
// try may help with other errors, and again says so.
func Discover(ctx context.Context, client *http.Client, base string) (found bootspec.Secure, again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+bootspec.RouteSecure, nil)
	if err != nil {
		return bootspec.Secure{}, false, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return bootspec.Secure{}, true, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return bootspec.Secure{}, false, ErrOld
	default:
		return bootspec.Secure{}, true, fmt.Errorf("the boot server says %s", answer.Status)
	}
	data, err := io.ReadAll(io.LimitReader(answer.Body, bootspec.MaxSecure+1))
	if err != nil {
		return bootspec.Secure{}, true, err
	}
	found, err = bootspec.ParseSecure(data)
	return found, false, err
}

// Client talks to a boot server over TLS 1.3 and to nobody else: the certificate must be of its authority, which must be one of the pins
// if there are any (bootspec.ErrNotPinned). It shows own, if that is given. digest is that of the authority. It goes on with others of the
// servers; nil: with those that s names.
func Client(s bootspec.Secure, pins []string, own *tls.Certificate, servers *Servers) (client *http.Client, digest string, err error) {
	if servers == nil {
		servers = &Servers{others: s.Others}
	}
	roots, digest, err := s.Trust(pins)
	if err != nil {
		return nil, digest, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: bootspec.SecureName}
	if own != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: servers.Dial, TLSClientConfig: config, TLSHandshakeTimeout: 20 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
		},
	}, digest, nil
}

// Key makes a key and a certificate of its own for it. The certificate says nothing but that key.
func Key() (*tls.Certificate, error) {
	fail := func(err error) (*tls.Certificate, error) {
		return nil, fmt.Errorf("cannot make a key for the claim: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "slipway claim"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // this machine's clock may be off (RFC 5280, 4.1.2.5)
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return fail(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Digest is that of a certificate's public key (bootspec.Fingerprint), as the server sees it.
func Digest(own *tls.Certificate) string {
	key, ok := own.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return ""
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return ""
	}
	return bootspec.Fingerprint(der)
}
