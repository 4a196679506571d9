package firstboot

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate is a self-signed certificate for 127.0.0.1 and its key, as PEM.
func certificate(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func TestReadyFromTheAPIServer(t *testing.T) {
	dir := t.TempDir()
	serverCert, serverKey := certificate(t, "kube-apiserver")
	pair, err := tls.X509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	answer, user := `{"status":{"conditions":[{"type":"Ready","status":"False","reason":"KubeletNotReady","message":"no network"}]}}`, ""
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user = r.TLS.PeerCertificates[0].Subject.CommonName
		if r.URL.Path != "/api/v1/nodes/worker-1" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte(answer))
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	srv.StartTLS()
	defer srv.Close()
	k := &kube{address: srv.URL + "/api/v1/nodes/worker-1", ca: filepath.Join(dir, "ca.crt"), certificate: filepath.Join(dir, "kubelet.pem"), kubeconfig: filepath.Join(dir, "kubelet.conf")}
	if err := os.WriteFile(k.ca, serverCert, 0o644); err != nil {
		t.Fatal(err)
	}
	expect := func(ready bool, text, asked string) {
		t.Helper()
		c, err := k.Ready(t.Context())
		got, why := c.Ready, c.Why
		if err != nil {
			why = err.Error()
		}
		if got != ready || !strings.Contains(why, text) || user != asked {
			t.Errorf("ready %v, why %q, asked as %q", got, why, user)
		}
	}
	expect(false, "the kubelet has no certificate", "")
	firstCert, firstKey := certificate(t, "system:node:worker-1 first")
	b64 := base64.StdEncoding.EncodeToString
	conf := "users:\n- name: kubelet\n  user:\n    client-certificate-data: " + b64(firstCert) + "\n    client-key-data: " + b64(firstKey) + "\n"
	if err := os.WriteFile(k.kubeconfig, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(false, "KubeletNotReady: no network", "system:node:worker-1 first")
	rotate := func(name string, when time.Time) {
		t.Helper()
		cert, key := certificate(t, name)
		if err := os.WriteFile(k.certificate, append(cert, key...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(k.certificate, when, when); err != nil {
			t.Fatal(err)
		}
	}
	rotate("system:node:worker-1", time.Unix(1e9, 0))
	expect(false, "KubeletNotReady: no network", "system:node:worker-1")
	rotate("system:node:worker-1 rotated", time.Unix(2e9, 0))
	answer = `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`
	expect(true, "", "system:node:worker-1 rotated")
	answer = `{}`
	expect(false, "no condition", "system:node:worker-1 rotated")
	k.address = srv.URL + "/api/v1/nodes/other"
	expect(false, "not registered", "system:node:worker-1 rotated")
}
