package pki_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/profiles/cluster"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func environment(seed byte) pki.Environment {
	return pki.Environment{Now: now, Rand: mathrand.NewChaCha8([32]byte{seed})}
}

func lab(t *testing.T) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Parse("lab.yaml", cluster.Lab())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func create(t *testing.T) *pki.Identity {
	t.Helper()
	id, err := pki.Create(t.TempDir()+"/identity", lab(t), environment(1))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// nodeFiles are a node's files by path.
func nodeFiles(t *testing.T, id *pki.Identity, name string) map[string]pki.File {
	t.Helper()
	c := lab(t)
	n, _ := c.Node(name)
	list, err := id.NodeFiles(c, n, environment(2))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]pki.File{}
	for _, f := range list {
		files[f.Path] = f
	}
	return files
}

func TestNodeFiles(t *testing.T) {
	id := create(t)
	for node, want := range map[string]string{
		"worker-1": `0600 flanneld.conf
0600 kube-proxy.conf
0600 kubelet.conf
0600 pki/manage.key
0644 pki/ca.crt
0644 pki/manage.crt`,
		"cp-1": `0600 addons.conf
0600 controller-manager.conf
0600 flanneld.conf
0600 kube-proxy.conf
0600 kubelet.conf
0600 pki/apiserver-kubelet-client.key
0600 pki/apiserver.key
0600 pki/ca.key
0600 pki/etcd/apiserver-client.key
0600 pki/etcd/peer.key
0600 pki/etcd/server.key
0600 pki/front-proxy-client.key
0600 pki/manage.key
0600 pki/sa.key
0600 scheduler.conf
0644 pki/apiserver-kubelet-client.crt
0644 pki/apiserver.crt
0644 pki/ca.crt
0644 pki/etcd/apiserver-client.crt
0644 pki/etcd/ca.crt
0644 pki/etcd/peer.crt
0644 pki/etcd/server.crt
0644 pki/front-proxy-ca.crt
0644 pki/front-proxy-client.crt
0644 pki/manage.crt
0644 pki/sa.pub
0644 pki/signer.crt`,
	} {
		var lines []string
		for p, f := range nodeFiles(t, id, node) {
			lines = append(lines, fmt.Sprintf("%04o %s", f.Mode, strings.TrimPrefix(p, "/etc/kubernetes/")))
			if bytes.Contains(f.Data, []byte("PRIVATE KEY")) != (strings.HasSuffix(p, ".key")) {
				t.Errorf("%s: %s: a private key where none should be, or the other way", node, p)
			}
		}
		slices.Sort(lines)
		if got := strings.Join(lines, "\n"); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", node, got, want)
		}
	}
}

// pair is a certificate with its key, from pki/NAME.crt and .key or from NAME.conf.
func pair(t *testing.T, files map[string]pki.File, name string) tls.Certificate {
	t.Helper()
	certificate, key := files["/etc/kubernetes/pki/"+name+".crt"].Data, files["/etc/kubernetes/pki/"+name+".key"].Data
	if f, ok := files["/etc/kubernetes/"+name+".conf"]; ok {
		_, certificate, key, _ = readKubeconfig(t, f.Data)
	}
	p, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return p
}

func readKubeconfig(t *testing.T, data []byte) (authority, certificate, key []byte, server string) {
	t.Helper()
	var k struct {
		Clusters []struct {
			Cluster struct {
				Server string
				CA     string `yaml:"certificate-authority-data"`
			}
		}
		Users []struct {
			User struct {
				Certificate string `yaml:"client-certificate-data"`
				Key         string `yaml:"client-key-data"`
			}
		}
	}
	if err := yaml.Unmarshal(data, &k); err != nil {
		t.Fatal(err)
	}
	out := [3][]byte{}
	for i, s := range []string{k.Clusters[0].Cluster.CA, k.Users[0].User.Certificate, k.Users[0].User.Key} {
		var err error
		if out[i], err = base64.StdEncoding.DecodeString(s); err != nil {
			t.Fatal(err)
		}
	}
	return out[0], out[1], out[2], k.Clusters[0].Cluster.Server
}

// TestHandshakes lets each client talk to each server over real TLS: who is let in, and who isn't.
func TestHandshakes(t *testing.T) {
	id := create(t)
	cp, worker := nodeFiles(t, id, "cp-1"), nodeFiles(t, id, "worker-1")
	pool := func(name string) *x509.CertPool {
		p := x509.NewCertPool()
		p.AppendCertsFromPEM(cp["/etc/kubernetes/pki/"+name].Data)
		return p
	}
	type server struct {
		name, authority string
		hosts           []string
	}
	api := server{"apiserver", "ca.crt", []string{"10.96.0.1", "10.1.0.11", "127.0.0.1", "localhost", "cp-1", "kubernetes", "kubernetes.default.svc.cluster.local"}}
	etcd := server{"etcd/server", "etcd/ca.crt", []string{"10.1.0.11", "127.0.0.1", "localhost", "cp-1"}}
	peer := server{"etcd/peer", "etcd/ca.crt", []string{"10.1.0.11", "cp-1"}}
	tests := []struct {
		to     server
		from   map[string]pki.File
		client string
		trusts string // the authority the client trusts
		ok     bool
	}{
		{api, cp, "kubelet", "ca.crt", true},
		{api, worker, "kubelet", "ca.crt", true},
		{api, worker, "kube-proxy", "ca.crt", true},
		{api, worker, "flanneld", "ca.crt", true},
		{api, cp, "controller-manager", "ca.crt", true},
		{api, cp, "scheduler", "ca.crt", true},
		{api, cp, "addons", "ca.crt", true},
		{api, cp, "apiserver-kubelet-client", "ca.crt", true},
		{etcd, cp, "etcd/apiserver-client", "etcd/ca.crt", true},
		{etcd, cp, "etcd/server", "etcd/ca.crt", true},
		{peer, cp, "etcd/peer", "etcd/ca.crt", true},
		// Nobody of one authority is anybody to another.
		{api, cp, "etcd/apiserver-client", "ca.crt", false},
		{api, cp, "front-proxy-client", "ca.crt", false},
		{etcd, worker, "kubelet", "etcd/ca.crt", false},
		{etcd, cp, "addons", "etcd/ca.crt", false},
		{etcd, cp, "apiserver-kubelet-client", "etcd/ca.crt", false},
		{peer, cp, "front-proxy-client", "etcd/ca.crt", false},
		// A client is not taken in by a server of another authority, a server certificate is no client's.
		{api, worker, "kubelet", "etcd/ca.crt", false},
		{etcd, cp, "etcd/apiserver-client", "ca.crt", false},
		{api, cp, "apiserver", "ca.crt", false},
	}
	for _, tt := range tests {
		name := fmt.Sprintf("%s to %s trusting %s", tt.client, tt.to.name, tt.trusts)
		for _, host := range tt.to.hosts {
			err := handshake(t,
				&tls.Config{Certificates: []tls.Certificate{pair(t, cp, tt.to.name)}, ClientCAs: pool(tt.to.authority), ClientAuth: tls.RequireAndVerifyClientCert, Time: clock},
				&tls.Config{Certificates: []tls.Certificate{pair(t, tt.from, tt.client)}, RootCAs: pool(tt.trusts), ServerName: host, Time: clock})
			if (err == nil) != tt.ok {
				t.Errorf("%s at %s: %v", name, host, err)
			}
		}
	}
	err := handshake(t, &tls.Config{Certificates: []tls.Certificate{pair(t, cp, "apiserver")}, Time: clock}, &tls.Config{RootCAs: pool("ca.crt"), ServerName: "10.1.0.21", Time: clock})
	if err == nil {
		t.Error("the API server passes for another machine")
	}
}

func clock() time.Time { return now }

// handshake connects two TLS ends over loopback and sends a byte each way.
func handshake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	deadline := time.Now().Add(20 * time.Second)
	errs := make(chan error, 1)
	go func() { errs <- answer(listener, server, deadline) }()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(deadline)
	c := tls.Client(conn, client)
	_, err = c.Write([]byte{1})
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	conn.Close()
	return errors.Join(err, <-errs)
}

// answer takes one connection, reads a byte and writes one.
func answer(listener net.Listener, config *tls.Config, deadline time.Time) error {
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(deadline)
	s := tls.Server(conn, config)
	if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
		return err
	}
	_, err = s.Write([]byte{1})
	return err
}

// TestNames has what each certificate says, in full.
func TestNames(t *testing.T) {
	id := create(t)
	cp := nodeFiles(t, id, "cp-1")
	for name, want := range map[string]string{
		"kubelet":                  "CN=system:node:cp-1,O=system:nodes | client | 168h0m0s",
		"kube-proxy":               "CN=system:kube-proxy | client | 8760h0m0s",
		"flanneld":                 "CN=slipway:flanneld | client | 8760h0m0s",
		"controller-manager":       "CN=system:kube-controller-manager | client | 8760h0m0s",
		"scheduler":                "CN=system:kube-scheduler | client | 8760h0m0s",
		"addons":                   "CN=slipway:addons,O=system:masters | client | 8760h0m0s",
		"apiserver":                "CN=kube-apiserver | server kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local localhost cp-1 10.96.0.1 10.1.0.11 127.0.0.1 | 8760h0m0s",
		"apiserver-kubelet-client": "CN=slipway:apiserver-kubelet-client | client | 8760h0m0s",
		"front-proxy-client":       "CN=front-proxy-client | client | 8760h0m0s",
		"etcd/server":              "CN=cp-1 | server client cp-1 localhost 10.1.0.11 127.0.0.1 | 8760h0m0s",
		"etcd/peer":                "CN=cp-1 | server client cp-1 localhost 10.1.0.11 127.0.0.1 | 8760h0m0s",
		"etcd/apiserver-client":    "CN=kube-apiserver-etcd-client | client | 8760h0m0s",
	} {
		c := pair(t, cp, name).Leaf
		var words []string
		for _, u := range c.ExtKeyUsage {
			words = append(words, map[x509.ExtKeyUsage]string{x509.ExtKeyUsageServerAuth: "server", x509.ExtKeyUsageClientAuth: "client"}[u])
		}
		words = append(words, c.DNSNames...)
		for _, ip := range c.IPAddresses {
			words = append(words, ip.String())
		}
		if got := fmt.Sprintf("%s | %s | %s", c.Subject, strings.Join(words, " "), c.NotAfter.Sub(now)); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, want)
		}
		if c.NotBefore != now.Add(-pki.Backdate) || c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature {
			t.Errorf("%s: from %s, authority %v, usage %b", name, c.NotBefore, c.IsCA, c.KeyUsage)
		}
	}
}

// TestWorkerHoldsNoAuthority walks everything a worker gets for a key of an authority or of the cluster.
func TestWorkerHoldsNoAuthority(t *testing.T) {
	id := create(t)
	var secrets [][]byte
	for p, f := range nodeFiles(t, id, "cp-1") {
		if path.Base(p) == "ca.key" || path.Base(p) == "sa.key" {
			block, _ := pem.Decode(f.Data)
			secrets = append(secrets, block.Bytes)
		}
	}
	for _, a := range []*pki.Authority{id.CA, id.Etcd, id.FrontProxy} {
		raw, err := a.Key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, raw)
	}
	secrets = append(secrets, id.EncryptionKey)
	if len(secrets) != 6 {
		t.Fatalf("%d secrets to look for", len(secrets))
	}
	for p, f := range nodeFiles(t, id, "worker-1") {
		for _, blob := range unwrap(f.Data) {
			for _, s := range secrets {
				if bytes.Contains(blob, s) {
					t.Errorf("%s holds a key of the cluster's", p)
				}
			}
		}
	}
}

// unwrap is data and all that is in it as PEM or base64, to the third depth.
func unwrap(data []byte) [][]byte {
	out := [][]byte{data}
	for i := 0; i < len(out) && i < 1000; i++ {
		for block, rest := pem.Decode(out[i]); block != nil; block, rest = pem.Decode(rest) {
			out = append(out, block.Bytes)
		}
		for word := range strings.FieldsSeq(string(out[i])) {
			if b, err := base64.StdEncoding.DecodeString(word); err == nil && len(b) > 16 {
				out = append(out, b)
			}
		}
	}
	return out
}

// TestServersOfKubeconfigs: what runs on a node asks the node's own balancer.
func TestServersOfKubeconfigs(t *testing.T) {
	id := create(t)
	for node, files := range map[string][]string{
		"worker-1": {"kubelet", "kube-proxy", "flanneld"},
		"cp-1":     {"kubelet", "kube-proxy", "flanneld", "scheduler", "controller-manager", "addons"},
	} {
		for _, name := range files {
			ca, _, _, got := readKubeconfig(t, nodeFiles(t, id, node)["/etc/kubernetes/"+name+".conf"].Data)
			if got != "https://127.0.0.1:7443" || !bytes.Equal(ca, id.CA.PEM()) {
				t.Errorf("%s: %s: server %s", node, name, got)
			}
		}
	}
}

func TestAdminKubeconfig(t *testing.T) {
	id, c := create(t), lab(t)
	data, err := id.AdminKubeconfig(c, environment(3))
	if err != nil {
		t.Fatal(err)
	}
	_, certificate, key, server := readKubeconfig(t, data)
	p, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	if server != "https://10.1.0.11:6443" || p.Leaf.Subject.String() != "CN=slipway:admin,O=system:masters" || p.Leaf.NotAfter != now.Add(pki.AdminLifetime) {
		t.Errorf("%s %s %s", server, p.Leaf.Subject, p.Leaf.NotAfter)
	}
	c.Metadata.Name = "other"
	if _, err := id.AdminKubeconfig(c, environment(3)); err == nil || !strings.Contains(err.Error(), `the identity was made for cluster "lab", the document's is "other"`) {
		t.Errorf("another cluster's document: %v", err)
	}
}

// TestEndpoint has the names of an API server that is reached by a name or a shared address.
func TestEndpoint(t *testing.T) {
	id, c := create(t), lab(t)
	for host, ok := range map[string]bool{"api.example.com": true, "10.1.0.5": true, "10.1.0.6": false} {
		c.Kubernetes.Endpoint = cluster.Endpoint{Host: host, Port: 6443}
		if !ok {
			c.Kubernetes.Endpoint.Host = "10.1.0.5"
		}
		list, err := id.NodeFiles(c, c.ControlPlanes()[0], environment(2))
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(list, func(f pki.File) bool { return strings.HasSuffix(f.Path, "/apiserver.crt") })
		block, _ := pem.Decode(list[i].Data)
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if err := leaf.VerifyHostname(host); (err == nil) != ok {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// TestVirtualAddress: every control plane's API server answers by the virtual address, by its own and by the balancer's, and
// the administrator asks the virtual address.
func TestVirtualAddress(t *testing.T) {
	for _, endpoint := range []string{"", "  endpoint: api.example.com\n"} {
		doc := strings.Replace(string(cluster.Reference()), "  virtualAddress:", endpoint+"  virtualAddress:", 1)
		c, err := cluster.Parse("reference.yaml", []byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		id, err := pki.Create(t.TempDir()+"/identity", c, environment(1))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range c.ControlPlanes() {
			list, err := id.NodeFiles(c, n, environment(2))
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(list, func(f pki.File) bool { return strings.HasSuffix(f.Path, "/apiserver.crt") })
			block, _ := pem.Decode(list[i].Data)
			leaf, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"10.1.0.5", "127.0.0.1", c.NodeAddress(n).String(), c.Kubernetes.Endpoint.Host} {
				if err := leaf.VerifyHostname(name); err != nil {
					t.Errorf("%s: %v", n.Name, err)
				}
			}
		}
		data, err := id.AdminKubeconfig(c, environment(3))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, server := readKubeconfig(t, data); server != "https://"+c.Kubernetes.Endpoint.Host+":6443" {
			t.Errorf("the administrator asks %s", server)
		}
	}
}

func TestDeterministic(t *testing.T) {
	a, b := nodeFiles(t, create(t), "cp-1"), nodeFiles(t, create(t), "cp-1")
	for p := range a {
		if !bytes.Equal(a[p].Data, b[p].Data) {
			t.Errorf("%s differs between two runs with the same clock and entropy", p)
		}
	}
}

func TestLeafNeverOutlivesAuthority(t *testing.T) {
	id := create(t)
	end := id.CA.Certificate.NotAfter
	env := pki.Environment{Now: end.Add(-time.Hour), Rand: rand.Reader}
	p, err := id.CA.Issue(pki.Leaf{CommonName: "a", Client: true, Lifetime: pki.LeafLifetime}, env)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(p.Certificate)
	if leaf, err := x509.ParseCertificate(block.Bytes); err != nil || !leaf.NotAfter.Equal(end) {
		t.Errorf("until %s, the authority until %s (%v)", leaf.NotAfter, end, err)
	}
	env.Now = end.Add(time.Hour)
	if _, err := id.CA.Issue(pki.Leaf{CommonName: "a", Client: true, Lifetime: time.Hour}, env); !errors.Is(err, pki.ErrExpired) {
		t.Errorf("signed after its end: %v", err)
	}
}

func TestNoEntropy(t *testing.T) {
	_, err := pki.Create(t.TempDir()+"/identity", lab(t), pki.Environment{Now: now, Rand: strings.NewReader("little")})
	if err == nil || !strings.Contains(err.Error(), "cannot read entropy") {
		t.Error(err)
	}
}
