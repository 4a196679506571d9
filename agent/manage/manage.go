// Package manage is a running node's management API (images/bootspec, manage.go): how the node is, its journal, a snapshot
// of its etcd, those that it keeps (kept.go), its restore from one (restore.go), a newer configuration for it (renew.go), and the
// end of all that it keeps (reset.go).
//
// It serves operators only: clients with a certificate of the cluster's authority whose organisation is that of operators.
// Nobody else gets past the handshake. No answer but the snapshot and the journal holds
// what units or users wrote: of the node's own keys and configuration nothing is ever sent.
package manage

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Bounds of the server.
const (
	maxConnections = 64
	maxStreams     = 8 // journals and snapshots that are sent at the same time
	retryListen    = 5 * time.Second
	stopLimit      = 3 * time.Second
	minFree        = 25               // percent that scheduled snapshots leave of a file system
	writeLimit     = 30 * time.Second // a client that doesn't read is let go
)

// controlPlane is the role that has an etcd.
const controlPlane = "control-plane"

// Node is what the API tells of and where it finds it.
type Node struct {
	Name, Role, Target string
	Address            string // host and port to listen on
	Root               string // where the node's files are: / but for tests
	Journal            string // the program journalctl
	EtcdMetrics        string // base URL of etcd's metrics: http://127.0.0.1:2381
	EtcdClient         string // base URL of etcd's clients: https://127.0.0.1:2379
	Log                *slog.Logger
	Backup             *bootspec.EtcdBackup // scheduled snapshots of etcd; nil: none
	EtcdTool           []string             // the program slipway-etcd, and arguments that it always gets
	Control            Control              // nil: systemd
}

// Server is the API of one node.
type Server struct {
	node    Node
	streams chan struct{}
	keeping keeping

	restoring sync.Mutex // one restore of etcd at a time
	renewals  renewals
}

// New makes a server.
func New(n Node) *Server {
	if n.Control == nil {
		n.Control = systemdControl{}
	}
	s := &Server{node: n, streams: make(chan struct{}, maxStreams)}
	s.keeping.change = make(chan struct{}, 1)
	if n.Role == controlPlane {
		s.keeping.plan = n.Backup
	}
	return s
}

// FromNode is the API of this machine, by its node document and environment.
func FromNode(log *slog.Logger) (*Server, error) {
	data, err := os.ReadFile(bootspec.NodeDocument)
	if err != nil {
		return nil, fmt.Errorf("cannot serve management: %w", err)
	}
	node, err := bootspec.ParseNode(data)
	if err != nil {
		return nil, fmt.Errorf("cannot serve management: %w", err)
	}
	address, err := environment(bootspec.NodeEnvironment, bootspec.EnvNodeAddress)
	if err != nil {
		return nil, fmt.Errorf("cannot serve management: %w", err)
	}
	return New(Node{
		Name: node.Name, Role: node.Role, Target: node.Target, Root: "/", Journal: "journalctl", Log: log, Backup: node.EtcdBackup,
		Address:     net.JoinHostPort(address, fmt.Sprint(bootspec.ManagePort)),
		EtcdMetrics: "http://127.0.0.1:2381", EtcdClient: "https://127.0.0.1:2379", EtcdTool: []string{"/usr/bin/slipway-etcd"},
	}), nil
}

// environment is a value of an environment file.
func environment(file, name string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok && value != "" {
			return value, nil
		}
	}
	return "", fmt.Errorf("%s has no %s", file, name)
}

// Run serves until ctx ends. The address need not be there yet, nor the certificate: it tries again, and logs the first
// failure. Scheduled snapshots of etcd are taken meanwhile, where the node has them.
func (s *Server) Run(ctx context.Context) {
	var keeping sync.WaitGroup
	defer keeping.Wait()
	keeping.Go(func() { s.keep(ctx) })
	said := ""
	for ctx.Err() == nil {
		err := s.listen(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			s.node.Log.Warn(said)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryListen):
		}
	}
}

func (s *Server) listen(ctx context.Context) error {
	if _, err := s.certificate(); err != nil {
		return fmt.Errorf("cannot serve management: %w", err)
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", s.node.Address)
	if err != nil {
		return fmt.Errorf("cannot serve management: %w", err)
	}
	return s.Serve(ctx, l)
}

// Serve serves on a listener until ctx ends, and closes it.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 15 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: log.New(io.Discard, "", 0), // refused handshakes would fill the journal
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stopped := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), stopLimit)
		defer cancel()
		_ = server.Shutdown(grace)
		_ = server.Close()
	})
	defer stopped()
	err := server.Serve(tls.NewListener(&bounded{Listener: l, free: make(chan struct{}, maxConnections)}, s.tls()))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("cannot serve management: %w", err)
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+bootspec.RouteLiveStatus, s.status)
	mux.HandleFunc("GET "+bootspec.RouteLogs, s.stream(s.logs))
	mux.HandleFunc("GET "+bootspec.RouteEtcdSnapshot, s.stream(s.snapshot))
	mux.HandleFunc("GET "+bootspec.RouteEtcdKept, s.kept)
	mux.HandleFunc("GET "+bootspec.RouteEtcdKept+"/{name}", s.stream(s.sendKept))
	mux.HandleFunc("PUT "+bootspec.RouteEtcdRestore, patient(s.etcdChange(s.prepareRestore)))
	mux.HandleFunc("POST "+bootspec.RouteEtcdSetAside, patient(s.etcdChange(s.prepareAside)))
	mux.HandleFunc("POST "+bootspec.RouteEtcdApply, patient(s.etcdChange(s.apply)))
	mux.HandleFunc("POST "+bootspec.RouteRenew, patient(s.renew))
	mux.HandleFunc("POST "+bootspec.RouteReset, s.reset)
	mux.HandleFunc("GET "+bootspec.RouteEtcdMembers, s.members)
	mux.HandleFunc("POST "+bootspec.RouteEtcdRemove, s.removeMember)
	return mux
}

// tls wants operators' certificates. Both files are read at each handshake, so that new ones count at once.
func (s *Server) tls() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		own, err := s.certificate()
		if err != nil {
			return nil, err
		}
		clients := x509.NewCertPool()
		ca, err := os.ReadFile(s.pki("ca.crt"))
		if err != nil {
			return nil, err
		}
		if !clients.AppendCertsFromPEM(ca) {
			return nil, errors.New("the cluster's authority is no certificate")
		}
		return &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, ClientCAs: clients,
			ClientAuth: tls.RequireAndVerifyClientCert, VerifyConnection: operator, SessionTicketsDisabled: true,
			NextProtos: []string{"http/1.1"},
		}, nil
	}}
}

// operator refuses every certificate but operators'. Kubelets and components have certificates of the same authority.
func operator(c tls.ConnectionState) error {
	if len(c.VerifiedChains) == 0 || !slices.Contains(c.VerifiedChains[0][0].Subject.Organization, bootspec.ManageGroup) {
		return errors.New("the certificate is not an operator's")
	}
	return nil
}

func (s *Server) certificate() (tls.Certificate, error) {
	return tls.LoadX509KeyPair(s.pki(bootspec.ManageCertificate), s.pki(bootspec.ManageKey))
}

// pki is a file in the node's folder of certificates.
func (s *Server) pki(name string) string {
	return filepath.Join(s.node.Root, bootspec.PKIDirectory, name)
}

// stream bounds how many long answers there are at a time.
func (s *Server) stream(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.streams <- struct{}{}:
			defer func() { <-s.streams }()
			next(w, r)
		default:
			http.Error(w, fmt.Sprintf("%d journals and snapshots are being sent already: try again", maxStreams), http.StatusServiceUnavailable)
		}
	}
}

// sender writes to a client at once, and gives up on one that doesn't read.
type sender struct {
	w       http.ResponseWriter
	control *http.ResponseController
	sent    int64
}

func newSender(w http.ResponseWriter) *sender {
	return &sender{w: w, control: http.NewResponseController(w)}
}

func (s *sender) Write(p []byte) (int, error) {
	if err := s.control.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return 0, err
	}
	n, err := s.w.Write(p)
	s.sent += int64(n)
	if err != nil {
		return n, err
	}
	return n, s.control.Flush()
}

// bounded is a listener with a bounded number of open connections: more wait in the kernel.
type bounded struct {
	net.Listener
	free chan struct{}
}

func (b *bounded) Accept() (net.Conn, error) {
	b.free <- struct{}{}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.free
		return nil, err
	}
	return &boundedConn{Conn: c, free: b.free}, nil
}
