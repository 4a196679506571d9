package netboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-os/slipway/builder/tftp"
	"github.com/slipway-os/slipway/images/bootspec"
)

// Config of a boot server.
type Config struct {
	Site      *Site
	Artifacts string // folder with images and their manifests
	Version   string // image version to serve; empty: the newest
	// NodeConfig renders a node's configuration. It is called for each claim, perhaps at the same time.
	NodeConfig func(node string) ([]byte, error)
	Interface  string // empty: the one that has the server's address
	HTTPPort   int    // 0: bootspec.DefaultHTTPPort
	StateDir   string // folder for node states and leases; empty: kept in memory only
	Log        *slog.Logger
	Now        func() time.Time
	// Changed is called when a machine's status changes; it must not block. It may be nil.
	Changed func(NodeStatus)
}

// Server is a boot server whose files and states are open and whose sockets are bound.
type Server struct {
	config    Config
	artifacts *artifacts
	states    *states
	leases    *leases
	sockets   *sockets
}

// New checks everything that can be wrong before a machine asks: site, artifacts, states, interface, ports. It binds the
// sockets; Run serves on them.
func New(c Config) (*Server, error) {
	if c.HTTPPort == 0 {
		c.HTTPPort = bootspec.DefaultHTTPPort
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := c.Site.check(); err != nil {
		return nil, err
	}
	s := &Server{config: c}
	if err := s.open(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) open() (err error) {
	c := s.config
	if s.artifacts, err = openArtifacts(c.Artifacts, c.Version, roles(c.Site)); err != nil {
		return err
	}
	stateFile, leaseFile := "", ""
	if c.StateDir != "" {
		if err := os.MkdirAll(c.StateDir, 0o755); err != nil {
			return fmt.Errorf("cannot keep states: %w", err)
		}
		stateFile, leaseFile = filepath.Join(c.StateDir, "nodes.json"), filepath.Join(c.StateDir, "leases.json")
	}
	if s.states, err = openStates(stateFile, c.Site, c.Now, c.Changed); err != nil {
		return err
	}
	if s.leases, err = openLeases(leaseFile, c.Site, c.Now); err != nil {
		return err
	}
	s.sockets, err = bind(c.Interface, c.Site.Server, c.HTTPPort)
	return err
}

// Close closes what New opened. Run does it by itself.
func (s *Server) Close() {
	if s.artifacts != nil {
		s.artifacts.root.Close()
	}
	if s.sockets != nil {
		s.sockets.close()
	}
}

// Nodes is the status of every machine.
func (s *Server) Nodes() []NodeStatus { return s.states.all() }

// Base is the base URL of the HTTP server.
func (s *Server) Base() string {
	return "http://" + net.JoinHostPort(s.config.Site.Server.String(), strconv.Itoa(s.config.HTTPPort))
}

// Run serves until ctx ends or a socket fails for good.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	site, log := s.config.Site, s.config.Log
	group, ctx := errgroup.WithContext(ctx)
	d := &dhcp{
		policy: Policy{Site: site, HTTPBase: s.Base(), Image: func(role string) string { return s.artifacts.uki[role] }},
		states: s.states, leases: s.leases, log: log, link: s.sockets.link.Index, conn: s.sockets.dhcp,
	}
	h := &handler{site: site, artifacts: s.artifacts, states: s.states, config: s.config.NodeConfig, log: log}
	t := tftp.New(tftp.Config{Open: s.openTFTP, Done: s.tftpDone, Log: log, MaxBlockSize: s.sockets.link.MTU - 32})
	group.Go(func() error { return d.serve(ctx) })
	group.Go(func() error { return serveHTTP(ctx, s.sockets.http, h.routes()) })
	group.Go(func() error { return t.Serve(ctx, s.sockets.tftp, s.sockets.transfer) })
	log.Info("serving", "cluster", site.Cluster, "interface", s.sockets.link.Name, "address", site.Server, "http", s.Base())
	return group.Wait()
}

func (s *Server) openTFTP(name string, _ netip.Addr) (tftp.File, error) {
	file, artifact, err := s.artifacts.open(name)
	if err != nil {
		return nil, err
	}
	return served{file, artifact.Size}, nil
}

// served is an artifact as a TFTP file.
type served struct {
	*os.File
	size int64
}

// Size is the file's size in bytes.
func (f served) Size() int64 { return f.size }

func (s *Server) tftpDone(t tftp.Transfer) {
	log := s.config.Log.With("client", t.Client, "file", t.Name, "seconds", t.Duration.Seconds())
	if t.Err != nil {
		log.Warn("tftp: transfer failed", "error", t.Err)
		return
	}
	log.Info("tftp: sent", "bytes", t.Size)
	if err := kernelSentByTFTP(s.config.Site, s.states, t.Client.Addr().Unmap(), t.Name, t.Size); err != nil {
		log.Error("cannot keep state", "error", err)
	}
}

func roles(site *Site) []string {
	var out []string
	seen := map[string]bool{}
	for _, m := range site.Machines {
		if !seen[m.Role] {
			seen[m.Role] = true
			out = append(out, m.Role)
		}
	}
	return out
}

var errNoInterface = errors.New("no such interface")
