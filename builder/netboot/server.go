package netboot

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-os/slipway/builder/handed"
	"github.com/slipway-os/slipway/builder/kv"
	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/builder/tftp"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// Config of a boot server.
type Config struct {
	Site      *Site
	Artifacts string         // folder with images and their manifests
	Version   string         // image version to serve; empty: the newest
	Trust     *release.Trust // whose signatures count; nil: nobody's is asked for
	// NodeConfig renders a node's configuration. It is called for each claim, perhaps at the same time.
	NodeConfig func(node string) ([]byte, error)
	// Secure is how configurations are given out; nil: none is.
	Secure *Secure
	// Interfaces to serve on; empty: those that have the server's addresses.
	Interfaces []string
	// Handed are sockets that somebody else has bound and keeps; nil: none. The server uses them in the place of its own, and closes its
	// descriptors of them. One that fits nothing that is served is an error.
	Handed   *handed.Sockets
	HTTPPort int // 0: bootspec.DefaultHTTPPort
	// TFTPSinglePort: all of TFTP goes over port 69, for networks that let no other port through.
	TFTPSinglePort bool
	StateDir       string // folder for node states and leases; empty: kept in memory only
	// Store is where node states, leases and claims are kept instead, by several boot servers of one site, each with an address of its
	// own; nil: in StateDir. The server closes it. StoreName is it in words.
	Store     kv.Shared
	StoreName string
	Log       *slog.Logger
	Now       func() time.Time
	// Told is the time that nodes set their clocks by; nil: Now.
	Told func() time.Time
	// Reload reads the cluster document again and calls Server.Change; nil: it can't be.
	Reload func(context.Context, *Server) error
	// Changed is called when a machine's status changes; it must not block. It may be nil.
	Changed func(NodeStatus)
	// Pages makes what is served, to anyone, at all paths that aren't the server's own; nil: nothing.
	Pages func(*Server) http.Handler
}

// Server is a boot server whose files and states are open and whose sockets are bound.
type Server struct {
	config   Config
	live     atomic.Pointer[live]
	states   *states
	leases   pools
	turn     sync.Mutex // of decisions about DHCP
	sockets  *sockets
	store    *store       // nil: states are in memory only
	entries  kv.Store     // nil without a store
	control  net.Listener // nil without a store
	traffic  traffic
	past     *history
	rivals   *rivals
	claims   *claims
	duid     dhcpv6.DUID // DHCPv6 clients know the server by it
	sisters  *sisters    // nil: this server is alone
	machines *machines
	reports  *reportLimit
	pages    http.Handler

	changing        sync.Mutex // one change at a time
	reloading       sync.Mutex
	refusedDocument *Warning
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
	if c.Told == nil {
		c.Told = c.Now
	}
	if c.Secure != nil && c.Secure.Port == 0 {
		secure := *c.Secure
		secure.Port = bootspec.SecurePort
		c.Secure = &secure
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := errors.Join(c.Site.check(), c.Site.cannotDiscover(c.Secure != nil)); err != nil {
		c.closeStore()
		c.Handed.Close()
		return nil, err
	}
	s := &Server{config: c, past: &history{site: c.Site, now: c.Now}, rivals: &rivals{site: c.Site, now: c.Now, log: c.Log}, reports: &reportLimit{now: c.Now}}
	if c.Store != nil {
		s.sisters = newSisters(c.Store, c.Site.Server, c.Now, c.Log)
		s.rivals.ours = s.sisters
		s.entries = c.Store
	}
	if err := s.open(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// open opens what fails fastest first.
func (s *Server) open() (err error) {
	c := s.config
	securePort := 0
	if c.Secure != nil {
		securePort = c.Secure.Port
	}
	if s.sockets, err = bind(c.Interfaces, c.Site, c.HTTPPort, securePort, c.Handed); err != nil {
		return err
	}
	if c.StateDir != "" {
		if s.store, err = openStore(c.StateDir); err != nil {
			return err
		}
		if err = s.openEntries(); err != nil {
			return err
		}
		if s.control, err = listenControl(s.store); err != nil {
			return err
		}
	}
	if s.states, err = openStates(s.entries, c.Site, c.Now, c.Log, c.Changed); err != nil {
		return err
	}
	s.states.answers = &s.traffic.answers
	s.claims = &claims{store: s.entries, log: c.Log}
	if s.entries == nil {
		s.claims.store = &memory{}
	}
	if s.leases, err = openPools(s.entries, c.Site, c.Now); err != nil {
		return err
	}
	if c.Site.ipv6() != nil {
		if s.duid, err = ownDUID(s.store); err != nil {
			return err
		}
	}
	if s.machines, err = openMachines(s.entries, c.Now, c.Log); err != nil {
		return err
	}
	files, err := openArtifacts(context.Background(), c.Artifacts, c.Version, c.Site.roles(), c.Trust)
	if err != nil {
		return err
	}
	s.warnUnsigned(files)
	if c.Pages != nil {
		s.pages = c.Pages(s)
	}
	first := Change{Site: c.Site, NodeConfig: c.NodeConfig}
	if c.Secure != nil {
		first.Policy, first.TPM = c.Secure.Policy, c.Secure.TPM
		first.Authority, first.Certificate = c.Secure.Authority, c.Secure.Certificate
	}
	now, err := s.makeLive(first, files)
	if err != nil {
		return err
	}
	s.live.Store(now)
	return nil
}

// warnUnsigned says which images machines will refuse to install.
func (s *Server) warnUnsigned(files *artifacts) {
	for _, cause := range files.refused {
		s.config.Log.Warn("machines boot this image, and refuse to install it: sign it (slipway sign), and have this server reload", "cause", cause)
	}
}

// openEntries opens what the state folder keeps, unless that is kept elsewhere.
func (s *Server) openEntries() (err error) {
	if s.config.Store != nil {
		return s.store.elsewhere(s.config.StoreName)
	}
	s.entries, err = s.store.entries()
	return err
}

func (c Config) closeStore() {
	if c.Store != nil {
		c.Store.Close()
	}
}

// Close closes what New opened. Run does it by itself.
func (s *Server) Close() {
	s.sockets.close()
	s.config.Handed.Close()
	if now := s.live.Load(); now != nil {
		now.artifacts.close()
	}
	if s.control != nil {
		s.control.Close()
	}
	if s.entries != nil {
		s.entries.Close()
	}
	s.store.close()
}

// Nodes is the status of every machine.
func (s *Server) Nodes() []NodeStatus { return s.states.all() }

// Base is the base URL of the HTTP server.
func (s *Server) Base() string {
	return baseURL(s.config.Site.Server, s.config.HTTPPort)
}

// Run serves until ctx ends or a socket fails for good. All node states are on disk when it returns.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		s.states.keep(keeping)
	}()
	defer func() { stop(); <-kept }()
	if s.sisters != nil {
		if err := s.sisters.meet(s.sockets.wires[0].link.HardwareAddr.String()); err != nil {
			return err
		}
		var others sync.WaitGroup
		ctx, leave := context.WithCancel(ctx)
		for _, work := range []func(context.Context){s.sisters.serve, s.states.follow, s.leases.follow} {
			others.Go(func() { work(ctx) })
		}
		defer func() { leave(); others.Wait() }()
	}
	return s.serve(ctx)
}

func (s *Server) serve(ctx context.Context) error {
	site, log := s.config.Site, s.config.Log
	group, ctx := errgroup.WithContext(ctx)
	for _, w := range s.sockets.wires {
		group.Go(func() error { return s.serveWire(ctx, w) })
	}
	for _, listener := range s.sockets.secure {
		listener := tls.NewListener(newCrowd(listener, log), tlsConfig(s.certificate))
		group.Go(func() error {
			return serveHTTP(ctx, listener, counted(&s.traffic.https, s.now(func(l *live) http.Handler { return l.secure })), log)
		})
	}
	for _, listener := range s.sockets.http {
		group.Go(func() error {
			return serveHTTP(ctx, newCrowd(listener, log), counted(&s.traffic.http, s.now(func(l *live) http.Handler { return l.plain })), log)
		})
	}
	if s.control != nil {
		group.Go(func() error {
			return serveHTTP(ctx, s.control, s.now(func(l *live) http.Handler { return l.orders }), log)
		})
	}
	s.serve6(ctx, group)
	if what := tooFewNeighbours(len(site.Machines), neighboursFile); what != "" {
		log.Warn("a rack that boots at once will find no room", "what", what)
	}
	for _, w := range s.sockets.wires {
		log.Info("serving", "cluster", site.Cluster, "dhcp", site.mode(), "interface", w.link.Name, "address", w.servers[0], "http", baseURL(w.servers[0], s.config.HTTPPort))
	}
	return group.Wait()
}

// tftpHeaders are those of IPv4, UDP and TFTP, in bytes.
const tftpHeaders = 20 + 8 + 4

func (s *Server) openTFTP(name string, client netip.Addr) (tftp.File, error) {
	if file, err := s.openUBoot(name, client); !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	file, artifact, err := s.live.Load().artifacts.shared(name)
	if err == nil && artifact.Kind == "" { // a manifest: nobody boots it
		err = fs.ErrNotExist
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.config.Log.Error("tftp: cannot serve an artifact", "error", err)
		}
		return nil, err
	}
	return served{file, artifact}, nil
}

// served is an artifact as a TFTP file.
type served struct {
	*os.File
	artifact manifest.Artifact
}

// Close leaves the file open: all transfers share it.
func (served) Close() error { return nil }

// Size is the file's size in bytes.
func (f served) Size() int64 { return f.artifact.Size }

func (s *Server) tftpDone(t tftp.Transfer) {
	log := s.config.Log.With("client", t.Client, "file", t.Name, "seconds", t.Duration.Seconds())
	if t.Err != nil {
		s.traffic.broken.Add(1)
		log.Warn("tftp: transfer failed", "error", t.Err)
		return
	}
	s.traffic.tftp.Add(t.Size)
	log.Info("tftp: sent", "bytes", t.Size)
	if strings.HasPrefix(t.Name, ubootFolder) && strings.HasSuffix(t.Name, "/"+fileInitrd) {
		s.states.kernelSent(t.Client.Addr().Unmap(), "TFTP for U-Boot", t.Name, t.Size)
	}
	if f := s.live.Load().artifacts.files[t.Name]; f != nil && f.Kind == manifest.KindUKI {
		s.states.kernelSent(t.Client.Addr().Unmap(), "TFTP", t.Name, t.Size)
	}
}
