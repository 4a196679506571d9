// Package etcdtest runs a real etcd for tests: the one that images have, over mutual TLS. It is imported by tests only.
package etcdtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/component"
	"github.com/slipway-os/slipway/builder/kv/etcdkv"
)

// Server is an etcd of one member.
type Server struct {
	URL           string // etcd://…, for --store
	CA, Cert, Key string // files
	t             testing.TB
	program, dir  string
	client, peer  string // URLs
	running       *exec.Cmd
}

// Program is the file of the etcd that images have; the cache that bakes use has it, or it is built.
func Program(t testing.TB) string {
	t.Helper()
	cache := os.Getenv("SLIPWAY_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		must(t, err)
		cache = filepath.Join(dir, "slipway")
	}
	_, here, _, _ := runtime.Caller(0)
	builder, err := component.New(component.Options{ImagesDir: filepath.Join(filepath.Dir(here), "../../../../images"), CacheDir: cache})
	must(t, err)
	built, err := builder.Build(context.Background(), "etcd", runtime.GOARCH)
	must(t, err)
	for _, f := range built.Files {
		if filepath.Base(f.Path) == "etcd" && f.Source != "" {
			link := filepath.Join(t.TempDir(), "etcd")
			must(t, os.Symlink(f.Source, link))
			return link
		}
	}
	t.Fatal("the component etcd has no etcd")
	return ""
}

// Start starts one on loopback; it ends with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	return StartAt(t, "127.0.0.1")
}

// StartAt starts one at an address of this machine.
func StartAt(t testing.TB, address string) *Server {
	t.Helper()
	dir := t.TempDir()
	s := &Server{
		t: t, program: Program(t), dir: dir, client: "https://" + free(t, address), peer: "http://" + free(t, "127.0.0.1"),
		CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "boot.crt"), Key: filepath.Join(dir, "boot.key"),
	}
	s.URL = "etcd://" + strings.TrimPrefix(s.client, "https://") + "/slipway/lab"
	certificates(t, s, net.ParseIP(address))
	t.Cleanup(s.Kill)
	s.Run()
	return s
}

// Run starts it (again) and waits until it answers.
func (s *Server) Run() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(s.t, err)
	defer log.Close()
	s.running = exec.Command(s.program, "--name=one", "--data-dir="+filepath.Join(s.dir, "data"), "--listen-client-urls="+s.client, "--advertise-client-urls="+s.client,
		"--listen-peer-urls="+s.peer, "--initial-advertise-peer-urls="+s.peer, "--initial-cluster=one="+s.peer,
		"--client-cert-auth", "--trusted-ca-file="+s.CA, "--cert-file="+s.Cert, "--key-file="+s.Key, "--log-level=warn")
	s.running.Stdout, s.running.Stderr = log, log
	s.running.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is that of the thread
	must(s.t, s.running.Start())
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		store, err := etcdkv.Open(context.Background(), s.Place())
		if err == nil {
			store.Close()
			return
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			s.t.Fatalf("etcd doesn't start: %v\n%s", err, text)
		}
	}
}

// Kill kills it; what it has acknowledged is on disk.
func (s *Server) Kill() {
	if s.running != nil {
		_ = s.running.Process.Kill()
		_ = s.running.Wait()
		s.running = nil
	}
}

// Freeze stops it without closing its connections, as a machine that hangs; Thaw lets it go on.
func (s *Server) Freeze() {
	pid := s.running.Process.Pid
	must(s.t, s.running.Process.Signal(syscall.SIGSTOP))
	_, err := syscall.Wait4(pid, nil, syscall.WUNTRACED, nil) // its threads stop one by one, and answer until then
	must(s.t, err)
}

// Thaw ends Freeze.
func (s *Server) Thaw() { must(s.t, s.running.Process.Signal(syscall.SIGCONT)) }

// Place is where it is, with a client's certificate.
func (s *Server) Place() etcdkv.Place {
	s.t.Helper()
	place, err := etcdkv.ParsePlace(s.URL)
	must(s.t, err)
	place.TLS, err = etcdkv.LoadTLS(s.CA, s.Cert, s.Key)
	must(s.t, err)
	return place
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// free is an address and a port that nobody listens on.
func free(t testing.TB, address string) string {
	t.Helper()
	l, err := net.Listen("tcp", address+":0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// certificates writes an authority and one certificate for both sides.
func certificates(t testing.TB, s *Server, address net.IP) {
	t.Helper()
	sign := func(template, parent *x509.Certificate, public any, signer *ecdsa.PrivateKey) []byte {
		template.NotBefore, template.NotAfter = time.Now().Add(-24*time.Hour), time.Now().Add(24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
		must(t, err)
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test etcd CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "boot servers"}, IPAddresses: []net.IP{address},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.MarshalPKCS8PrivateKey(own)
	must(t, err)
	for file, content := range map[string][]byte{
		s.CA: sign(root, root, &ca.PublicKey, ca), s.Cert: sign(leaf, root, &own.PublicKey, ca),
		s.Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		must(t, os.WriteFile(file, bytes.Clone(content), 0o600))
	}
	if _, err := tls.LoadX509KeyPair(s.Cert, s.Key); err != nil {
		t.Fatal(fmt.Errorf("certificates of a test: %w", err))
	}
}
