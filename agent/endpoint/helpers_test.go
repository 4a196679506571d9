package endpoint

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-os/slipway/agent/network"
	"github.com/slipway-os/slipway/images/bootspec"
)

// helper names what a process of the test binary is: processes are what can be killed. Each runs in a namespace of its own.
const helper = "SLIPWAY_TEST_HELPER"

// setting is what a helper gets, as JSON.
type setting struct {
	Kind   string        // node, server, client, network
	Folder string        // with the authority's certificate and the servers' pair
	Name   string        // server: what it answers
	API    *bootspec.API // node
	Ask    string        // client: host and port
	Fresh  bool          // client: a new connection for each request, given up after 200 ms
}

func TestMain(m *testing.M) {
	text := os.Getenv(helper)
	if text == "" {
		os.Exit(m.Run())
	}
	var s setting
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err = map[string]func(context.Context, setting) error{"node": runNode, "server": runServer, "client": runClient, "network": runNetwork}[s.Kind](ctx, s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, s.Kind, s.Name, err)
		os.Exit(1)
	}
}

// runNode is the service slipway-api of one machine.
func runNode(ctx context.Context, s setting) error {
	node, err := json.Marshal(bootspec.Node{APIVersion: bootspec.Version, Name: s.Name, Role: "control-plane", Target: "x", API: s.API})
	if err != nil {
		return err
	}
	document := filepath.Join(s.Folder, s.Name+".json")
	if err := os.WriteFile(document, node, 0o600); err != nil {
		return err
	}
	c, err := Load(document, filepath.Join(s.Folder, "ca.crt"))
	if err != nil {
		return err
	}
	c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	c.Notify = func(text string) { fmt.Println(text) }
	return Run(ctx, c)
}

// runNetwork is the agent, which makes the machine's network what its document says.
func runNetwork(ctx context.Context, s setting) error {
	link := bootspec.Link{Name: "eth0", Kind: bootspec.KindPhysical, Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.1" + s.Name + "/24")}}
	err := network.Configure(ctx, bootspec.Network{Links: []bootspec.Link{link}}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err == nil {
		fmt.Println("configured")
	}
	return err
}

// runServer is an API server: it says who it is, and that it is ready unless there is a file NAME.unready.
func runServer(ctx context.Context, s setting) error {
	pair, err := tls.LoadX509KeyPair(filepath.Join(s.Folder, "server.crt"), filepath.Join(s.Folder, "server.key"))
	if err != nil {
		return err
	}
	server := &http.Server{
		Addr: ":6443", TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := os.Stat(filepath.Join(s.Folder, s.Name+".unready")); r.URL.Path == "/readyz" && !errors.Is(err, fs.ErrNotExist) {
				http.Error(w, "not ready", http.StatusInternalServerError)
				return
			}
			fmt.Fprint(w, s.Name)
		}),
	}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.ListenAndServeTLS("", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// runClient asks without end and writes a line for each answer: the server's name, or "error" and why. A request that breaks is tried
// once more, like those of Kubernetes' clients, unless it is a fresh one.
func runClient(ctx context.Context, s setting) error {
	pem, err := os.ReadFile(filepath.Join(s.Folder, "ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: s.Fresh},
		Timeout:   20 * time.Second,
	}
	if s.Fresh {
		client.Timeout = 200 * time.Millisecond
	}
	for ctx.Err() == nil {
		body, err := ask(client, s.Ask)
		if err != nil && !s.Fresh {
			body, err = ask(client, s.Ask)
		}
		if err != nil {
			body = "error " + err.Error()
		}
		fmt.Println(body)
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

func ask(c *http.Client, address string) (string, error) {
	resp, err := c.Get("https://" + address + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// authority writes a folder with an authority's certificate and a pair for servers with all these addresses.
func authority(t *testing.T, addresses ...string) string {
	t.Helper()
	folder := t.TempDir()
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		}
	}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write := func(name, kind string, der []byte, err error) {
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ca, caKey := template("authority"), key()
	ca.IsCA, ca.KeyUsage = true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	write("ca.crt", "CERTIFICATE", der, err)
	leaf, leafKey := template("kube-apiserver"), key()
	for _, a := range addresses {
		leaf.IPAddresses = append(leaf.IPAddresses, net.ParseIP(a))
	}
	der, err = x509.CreateCertificate(rand.Reader, leaf, ca, &leafKey.PublicKey, caKey)
	write("server.crt", "CERTIFICATE", der, err)
	der, err = x509.MarshalPKCS8PrivateKey(leafKey)
	write("server.key", "PRIVATE KEY", der, err)
	return folder
}
