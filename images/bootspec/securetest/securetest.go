// Package securetest gives tests a boot server's side of TLS: an authority, a certificate for bootspec.SecureName, and a server that says
// where it is (bootspec.RouteSecure). It is not for programs.
package securetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Certificate is a new authority (PEM) and a certificate of it for a boot server.
func Certificate(t testing.TB) (authority []byte, own *tls.Certificate) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	sign := func(template, parent *x509.Certificate, public any, signer *ecdsa.PrivateKey) []byte {
		template.NotBefore, template.NotAfter = time.Now().Add(-24*time.Hour), time.Now().Add(24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	ca, leaf := key(), key()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test boot CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER := sign(root, root, &ca.PublicKey, ca)
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: bootspec.SecureName}, DNSNames: []string{bootspec.SecureName},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	own = &tls.Certificate{Certificate: [][]byte{sign(server, root, &leaf.PublicKey, ca)}, PrivateKey: leaf}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}), own
}

// Serve serves a mux over TLS as well, and has it say so. host is how machines reach this one's loopback.
func Serve(t testing.TB, mux *http.ServeMux, host string) bootspec.Secure {
	t.Helper()
	authority, own := Certificate(t)
	server := httptest.NewUnstartedServer(mux)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{*own}}
	server.StartTLS()
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := bootspec.Secure{Version: bootspec.ClaimVersion, URL: "https://" + net.JoinHostPort(host, port), Authority: string(authority)}
	mux.HandleFunc("GET "+bootspec.RouteSecure, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(s) })
	return s
}
