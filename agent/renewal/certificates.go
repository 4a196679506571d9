package renewal

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// certificates wants each certificate of a configuration to fit its key, to be its authority's and to be valid, and tells
// when the first of them ends.
func certificates(contents map[string]content, now time.Time) (until time.Time, err error) {
	for path, c := range contents {
		certificate, key, err := pair(contents, path, c.data)
		if err != nil {
			return until, fmt.Errorf("%s: %w", path, err)
		}
		if certificate == nil {
			continue
		}
		authority := contents[authorityOf(path)].data
		ends, err := good(certificate, key, authority, now)
		if err != nil {
			return until, fmt.Errorf("%s: %w", path, err)
		}
		if until.IsZero() || ends.Before(until) {
			until = ends
		}
	}
	if until.IsZero() {
		return until, errors.New("the configuration has no certificates")
	}
	return until, nil
}

// pair is the certificate and the key that a file holds or has beside it; nil: it holds none, or is an authority's.
func pair(contents map[string]content, path string, data []byte) (certificate, key []byte, err error) {
	switch {
	case strings.HasPrefix(path, bootspec.PKIDirectory+"/") && strings.HasSuffix(path, ".crt"):
		other, ok := contents[strings.TrimSuffix(path, ".crt")+".key"]
		if !ok || filepath.Base(path) == "ca.crt" {
			return nil, nil, nil
		}
		return data, other.data, nil
	case filepath.Dir(path) == bootspec.KubeconfigDirectory && strings.HasSuffix(path, ".conf"):
		if certificate, err = field(data, "client-certificate-data"); err == nil {
			key, err = field(data, "client-key-data")
		}
		return certificate, key, err
	}
	return nil, nil, nil
}

// field is a value of a kubeconfig, which the builder writes.
func field(data []byte, name string) ([]byte, error) {
	m := regexp.MustCompile(name + `"?:\s*"?([A-Za-z0-9+/=]+)`).FindSubmatch(data)
	if m == nil {
		return nil, fmt.Errorf("it has no %s", name)
	}
	return base64.StdEncoding.DecodeString(string(m[1]))
}

// authorityOf is the file of the authority that signs a certificate.
func authorityOf(path string) string {
	switch {
	case strings.HasPrefix(path, bootspec.PKIDirectory+"/etcd/"):
		return bootspec.PKIDirectory + "/etcd/ca.crt"
	case filepath.Base(path) == "front-proxy-client.crt":
		return bootspec.PKIDirectory + "/front-proxy-ca.crt"
	}
	return bootspec.PKIDirectory + "/ca.crt"
}

func good(certificate, key, authority []byte, now time.Time) (until time.Time, err error) {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return until, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return until, errors.New("the configuration does not have its authority")
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return pair.Leaf.NotAfter, err
}
