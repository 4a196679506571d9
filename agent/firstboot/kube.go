package firstboot

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// kubeletCertificate is the kubelet's own certificate and key once it has rotated; before, it has those in its kubeconfig.
const (
	kubeletCertificate = "/var/lib/kubelet/pki/kubelet-client-current.pem"
	kubeletConfig      = bootspec.KubeconfigDirectory + "/kubelet.conf"
)

// maxNodeObject bounds the API server's answer in bytes.
const maxNodeObject = 4 << 20

// condition is how Kubernetes sees the node.
type condition struct {
	Registered bool   // there is a node object
	Ready      bool   // its condition Ready is true
	Why        string // for people, when it isn't
}

// kube asks the API server for this node with the kubelet's certificate: the node may read itself.
type kube struct {
	address     string // of the node object
	ca          string // file
	certificate string // file with certificate and key
	kubeconfig  string // file with both in it, if there is no certificate file

	client *http.Client
	made   time.Time // modification time of the file the client's certificate is from
}

func newKube(node bootspec.Node) *kube {
	return &kube{
		address:     node.APIServer + "/api/v1/nodes/" + url.PathEscape(node.Name),
		ca:          bootspec.PKIDirectory + "/ca.crt",
		certificate: kubeletCertificate,
		kubeconfig:  kubeletConfig,
	}
}

// Ready is the node's condition of that name.
func (k *kube) Ready(ctx context.Context) (condition, error) {
	if err := k.connect(); err != nil {
		return condition{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.address, nil)
	if err != nil {
		return condition{}, err
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return condition{}, fmt.Errorf("cannot ask the API server: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxNodeObject))
	switch {
	case err != nil:
		return condition{}, fmt.Errorf("cannot ask the API server: %w", err)
	case resp.StatusCode == http.StatusNotFound:
		return condition{Why: "the kubelet has not registered it"}, nil
	case resp.StatusCode != http.StatusOK:
		return condition{}, fmt.Errorf("the API server says %s", resp.Status)
	}
	return readyCondition(body)
}

// readyCondition reads a Node object (k8s.io/api/core/v1).
func readyCondition(body []byte) (condition, error) {
	var node struct {
		Status struct {
			Conditions []struct{ Type, Status, Reason, Message string }
		}
	}
	if err := json.Unmarshal(body, &node); err != nil {
		return condition{}, fmt.Errorf("cannot read the node object: %w", err)
	}
	for _, c := range node.Status.Conditions {
		if c.Type == "Ready" {
			return condition{Registered: true, Ready: c.Status == "True", Why: c.Reason + ": " + c.Message}, nil
		}
	}
	return condition{Registered: true, Why: "it has no condition Ready yet"}, nil
}

// connect makes a client with the kubelet's present certificate.
func (k *kube) connect() error {
	file := k.certificate
	st, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		file = k.kubeconfig
		st, err = os.Stat(file)
	}
	if err != nil {
		return fmt.Errorf("the kubelet has no certificate: %w", err)
	}
	if k.client != nil && st.ModTime().Equal(k.made) {
		return nil
	}
	certificate, err := readCertificate(file)
	if err != nil {
		return fmt.Errorf("cannot use the kubelet's certificate in %s: %w", file, err)
	}
	ca, err := os.ReadFile(k.ca)
	if err != nil {
		return fmt.Errorf("cannot read the cluster's CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return fmt.Errorf("cannot read the cluster's CA: %s holds no certificate", k.ca)
	}
	if k.client != nil {
		k.client.CloseIdleConnections()
	}
	k.made = st.ModTime()
	k.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true,
		IdleConnTimeout:   time.Minute,
	}}
	return nil
}

// readCertificate reads a certificate and its key from a PEM file with both, or from a kubeconfig with both in it.
func readCertificate(file string) (tls.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return tls.Certificate{}, err
	}
	if bytes.HasPrefix(data, []byte("-----BEGIN")) {
		return tls.X509KeyPair(data, data)
	}
	certificate, cerr := embedded(data, "client-certificate-data")
	key, kerr := embedded(data, "client-key-data")
	if err := errors.Join(cerr, kerr); err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(certificate, key)
}

// embedded is a base64 value of a kubeconfig, in YAML or JSON. The one user there is the kubelet.
func embedded(kubeconfig []byte, name string) ([]byte, error) {
	m := regexp.MustCompile(`"?` + name + `"?:\s*"?([A-Za-z0-9+/=]+)`).FindSubmatch(kubeconfig)
	if m == nil {
		return nil, fmt.Errorf("there is no %s", name)
	}
	value, err := base64.StdEncoding.DecodeString(string(m[1]))
	if err != nil {
		return nil, fmt.Errorf("%s is not base64", name)
	}
	return value, nil
}
