package netboot

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
	"github.com/slipway-os/slipway/images/bootspec"
)

// A running server can be given a changed cluster document. What depends on it is one value (live) that is made beside and then takes the
// old one's place: each packet and each request is answered with one or the other, never with a mixture.

// Change is what a changed cluster document makes of a server.
type Change struct {
	Site    *Site
	Version string      // image version to serve; empty: the newest
	Policy  ClaimPolicy // of claims
	TPM     TPMPolicy
	// NodeConfig as in Config.
	NodeConfig func(node string) ([]byte, error)
	// Authority and Certificate as in Secure; nil: those of before.
	Authority   []byte
	Certificate func() (*tls.Certificate, error)
}

// live is what is served now.
type live struct {
	site                  *Site
	artifacts             *artifacts
	plain, secure, orders http.Handler
	authority             []byte
	certificate           func() (*tls.Certificate, error)
}

// ErrNeedsRestart says that a change of the document needs a server that is started anew.
var ErrNeedsRestart = errors.New("this takes a restart of `slipway serve`")

// fixed says which of the things that a server can't change while it runs are others.
func (s *Site) fixed(next *Site) error {
	for _, c := range []struct {
		what     string
		had, has any
	}{
		{"the cluster's name", s.Cluster, next.Cluster}, {"provisioning.subnet", s.Subnet, next.Subnet}, {"provisioning.server", s.Server, next.Server},
	} {
		if c.had != c.has {
			return fmt.Errorf("%s is %v now and was %v: %w", c.what, c.has, c.had, ErrNeedsRestart)
		}
	}
	if had, has := s.IPv6, next.IPv6; (had == nil) != (has == nil) || had != nil && (had.Subnet != has.Subnet || had.Server != has.Server || had.Advertise != has.Advertise) {
		return fmt.Errorf("IPv6 in provisioning is another: %w", ErrNeedsRestart)
	}
	if len(s.Further) != len(next.Further) {
		return fmt.Errorf("provisioning.subnets has %d further subnets now and had %d: %w", len(next.Further), len(s.Further), ErrNeedsRestart)
	}
	for i, n := range s.Further {
		if o := next.Further[i]; n.Prefix != o.Prefix || n.Server != o.Server {
			return fmt.Errorf("provisioning.subnets has %s with server %s where it had %s with %s: %w", o.Prefix, o.Server, n.Prefix, n.Server, ErrNeedsRestart)
		}
	}
	return nil
}

// Change has the server serve a changed cluster document, with the newest images there are for it. After an error it serves what it
// served before.
func (s *Server) Change(ctx context.Context, c Change) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	before := s.live.Load()
	if err := errors.Join(before.site.fixed(c.Site), c.Site.check(), c.Site.cannotDiscover(s.config.Secure != nil)); err != nil {
		return err
	}
	files, err := reopenArtifacts(ctx, s.config.Artifacts, c.Version, c.Site.roles(), s.config.Trust, before.artifacts)
	if err != nil {
		return err
	}
	s.warnUnsigned(files)
	if c.Certificate == nil {
		c.Authority, c.Certificate = before.authority, before.certificate
	}
	next, err := s.makeLive(c, files)
	if err != nil {
		return err
	}
	if err := s.leases.serve(c.Site); err != nil {
		s.config.Log.Warn("leases that the document has overtaken are still on disk", "error", err) // the next start drops them
	}
	s.states.serve(c.Site)
	s.past.serve(c.Site)
	s.live.Store(next)
	s.config.Log.Info("the cluster document has changed and is served", "nodes", len(c.Site.Machines), "was", len(before.site.Machines))
	return nil
}

// makeLive makes everything that depends on the document.
func (s *Server) makeLive(c Change, files *artifacts) (*live, error) {
	own := &claims{store: s.claims.store, policy: c.Policy, tpm: c.TPM, log: s.claims.log}
	h := &handler{
		site: c.Site, port: s.config.HTTPPort, artifacts: files, states: s.states, config: inTurn(runtime.GOMAXPROCS(0), c.NodeConfig), log: s.config.Log,
		reports: s.reports, told: s.config.Told, now: s.config.Now, claims: own, leases: s.leases, machines: s.machines, others: s.sisters.others,
	}
	if secure := s.config.Secure; secure != nil {
		h.secure = bootspec.Secure{
			Version: bootspec.ClaimVersion, Authority: string(c.Authority),
			URL: secureURL(c.Site.Server, secure.Port),
		}
		var err error
		if _, h.tpms.authority, err = h.secure.Trust(nil); err != nil {
			return nil, err
		}
		h.tpms.makers = secure.Makers
	}
	plain := h.routes()
	plain.HandleFunc("GET "+bootspec.RouteWarnings, s.serveWarnings)
	if s.pages != nil {
		plain.Handle("GET /", s.pages)
	}
	orders := http.NewServeMux()
	orders.Handle("/", takeOrders(c.Site, s.states, s.past, own, s.config.Log))
	orders.HandleFunc("POST /reload", s.serveReload)
	orders.HandleFunc("GET /machines", s.serveMachines)
	return &live{site: c.Site, artifacts: files, plain: plain, secure: h.secureRoutes(), orders: orders, authority: c.Authority, certificate: c.Certificate}, nil
}

// now is a handler of what is served at the time of a request.
func (s *Server) now(which func(*live) http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { which(s.live.Load()).ServeHTTP(w, r) })
}

// certificate is the server's own of now.
func (s *Server) certificate() (*tls.Certificate, error) { return s.live.Load().certificate() }

// site is the one that is served now.
func (s *Server) site() *Site { return s.live.Load().site }

// current is the answering side with the site that is served now.
func (s *dhcp) current() *dhcp {
	if s.site == nil {
		return s
	}
	c := *s
	c.policy.Site = s.site()
	return &c
}

// Reload has Config.Reload read the cluster document and all that goes with it again. What is wrong with it is in the log, and a warning until it is right.
func (s *Server) Reload(ctx context.Context) error {
	if s.config.Reload == nil {
		return errors.New("this boot server can't read its document again")
	}
	err := s.config.Reload(ctx, s)
	s.reloading.Lock()
	defer s.reloading.Unlock()
	now := s.config.Now()
	if err == nil {
		s.refusedDocument = nil
		return nil
	}
	s.config.Log.Error("the changed cluster document or identity is not served; what was before still is", "error", err)
	since := now
	if s.refusedDocument != nil {
		since = s.refusedDocument.Since
	}
	s.refusedDocument = &Warning{"the changed cluster document or identity is not served, what was before still is: " + oneLine(bounded1k(err.Error())), since, now}
	return err
}

// bounded1k is the beginning of a text, as much as a warning has room for.
func bounded1k(text string) string { return text[:min(len(text), 1024)] }

// stale is the warning that the document on disk isn't the one that is served.
func (s *Server) stale() []Warning {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	if s.refusedDocument == nil {
		return nil
	}
	return []Warning{*s.refusedDocument}
}

func (s *Server) serveReload(w http.ResponseWriter, r *http.Request) {
	if err := s.Reload(context.WithoutCancel(r.Context())); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) serveMachines(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.machines.all())
}

// reloadLimit is how long a server may take to read a changed document: it compares new images with their manifests.
const reloadLimit = 10 * time.Minute

// Reload tells the server that uses a state folder to read its cluster document again. ErrNotRunning: there is none. Another error is what is
// wrong with the document.
func Reload(ctx context.Context, stateDir string) error {
	err := askWithin(ctx, reloadLimit, stateDir, http.MethodPost, "/reload", nil, nil)
	if notRunning(err) {
		return ErrNotRunning
	}
	return err
}

// ErrNotRunning says that no server uses a state folder.
var ErrNotRunning = errors.New("no boot server runs with this state folder")

// Machines are the machines whose hardware the server that uses a state folder was told, or, when none does, that the folder has, by
// MAC address.
func Machines(ctx context.Context, stateDir string) (out []Discovered, err error) {
	if _, err := os.Stat(stateDir); err != nil {
		return nil, fmt.Errorf("cannot read what machines were discovered: there are no states in %s (say with --state which folder the boot server has)", stateDir)
	}
	err = askServer(ctx, stateDir, http.MethodGet, "/machines", nil, &out)
	if notRunning(err) {
		err = withStore(stateDir, func(entries kv.Store) error {
			m, err := openMachines(entries, time.Now, slog.New(slog.DiscardHandler))
			if err == nil {
				out = m.all()
			}
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what machines were discovered: %w", err)
	}
	return out, nil
}

// serve has the states of another document's machines.
func (s *states) serve(site *Site) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.site = site
	for mac, n := range s.byMAC {
		before := n.Address
		if !s.adopt(n) {
			n.Address = before
			s.forget(n)
			s.dirty[mac] = s.shared == nil
			continue
		}
		s.place(n, before)
		s.note(n)
	}
	for _, m := range site.Machines {
		s.node(m.MAC.String())
	}
}

// served is the site of now.
func (s *states) served() *Site {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.site
}

func (h *history) serve(site *Site) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.site = site
}

// serve takes another document's pools.
func (p pools) serve(site *Site) error {
	var all error
	for _, n := range site.subnets() {
		if l := p.of(n.Prefix.Addr()); l != nil {
			all = errors.Join(all, l.serve(site, n))
		}
	}
	return all
}

// serve takes another document's pool of the subnet. Leases that it has overtaken end: the addresses are others' now.
func (l *leases) serve(site *Site, subnet Subnet) error {
	l.mu.Lock()
	l.pool, l.never = subnet.Pool, reserved(site, subnet)
	l.fresh, l.again = subnet.Pool.First, freed{}
	var ended []netip.Addr
	for a, lease := range l.held {
		if !l.pool.Contains(a) || l.never[a] {
			ended = append(ended, a)
			delete(l.held, a)
			delete(l.byMAC, lease.MAC)
		}
	}
	var saved <-chan error
	if len(ended) > 0 && l.shared == nil { // other servers may have the document of before
		saved = l.save(ended...)
	}
	l.mu.Unlock()
	if saved == nil {
		return nil
	}
	return <-saved
}
