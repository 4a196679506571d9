package netboot

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"

	"github.com/slipway-os/slipway/builder/tpm"
	"github.com/slipway-os/slipway/images/bootspec"
)

// Secure is how the server answers over TLS.
type Secure struct {
	// Authority is the certificate (PEM) that signed the server's own, for bootspec.SecureName.
	Authority []byte
	// Certificate is the server's own. It is called for each connection.
	Certificate func() (*tls.Certificate, error)
	// Port; 0: bootspec.SecurePort.
	Port int
	// Policy of claims, and of TPMs.
	Policy ClaimPolicy
	TPM    TPMPolicy
	// Makers are those whose TPMs count; nil: all.
	Makers *tpm.Authorities
}

// tlsConfig asks for a client's certificate and believes none: a claimant's is of a key that it has just made, and TLS proves that it
// has that key.
func tlsConfig(certificate func() (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate() },
	}
}

// secureRoutes are what is answered over TLS.
func (h *handler) secureRoutes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+bootspec.RouteArtifacts+"{name}", h.serveArtifact)
	mux.HandleFunc("POST "+bootspec.RouteClaim, h.serveClaim)
	mux.HandleFunc("POST "+bootspec.RouteTPM, h.serveTPM)
	mux.HandleFunc("POST "+bootspec.RouteReport, h.takeReport)
	mux.HandleFunc("POST "+bootspec.RouteHardware, h.takeHardware)
	mux.HandleFunc("GET "+bootspec.RouteHealth, h.serveHealth)
	return mux
}

// serveSecure says how to reach the server over TLS.
func (h *handler) serveSecure(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	told := h.secure
	told.URL = h.secureURL(r)
	told.Discover = h.discovers(r)
	if h.others != nil {
		told.Others = h.others()
	}
	_ = json.NewEncoder(w).Encode(told)
}

// refuseConfig answers agents of earlier versions.
func (h *handler) refuseConfig(w http.ResponseWriter, r *http.Request) {
	h.log.Warn("configuration refused", "from", r.RemoteAddr, "reason", "the image is older than this boot server and asks without TLS: bake it anew")
	http.Error(w, "this boot server gives configurations out over TLS only, and this image is of a version that can't: bake it anew", http.StatusUpgradeRequired)
}

// claimant is the node that a machine says to be, asked for at the node's address, and the key that it has made. A request of somebody else, or
// one too many of its kind, was answered already; stranger is what the log says of one.
func (h *handler) claimant(w http.ResponseWriter, r *http.Request, mac, kind, stranger string) (m Machine, key string, ok bool) {
	if key = claimantKey(r); key == "" {
		http.Error(w, "a claim needs a certificate of a key that the claimant has made", http.StatusUnauthorized)
		return m, key, false
	}
	if m, ok = h.sender(r, mac); !ok {
		h.log.Warn(stranger, "from", r.RemoteAddr, "mac", oneLine(bounded(mac)))
		http.Error(w, "no configuration for this machine at this address", http.StatusForbidden)
		return m, key, false
	}
	if ok = h.reports.allow(kind + " of " + m.Name); !ok {
		http.Error(w, "too many claims", http.StatusTooManyRequests)
	}
	return m, key, ok
}

// serveClaim answers a claim with the node's configuration, once the claim is on disk. The configuration goes to this one answer and
// nowhere else.
func (h *handler) serveClaim(w http.ResponseWriter, r *http.Request) {
	claim, err := bootspec.ParseClaim(http.MaxBytesReader(w, r.Body, bootspec.MaxClaim))
	if err != nil {
		http.Error(w, oneLine(err.Error()), http.StatusBadRequest)
		return
	}
	m, key, ok := h.claimant(w, r, claim.MAC, "claim", "configuration refused")
	if !ok {
		return
	}
	refuse := func(reason, told string) {
		h.log.Error("CLAIM REFUSED: a machine with a node's MAC address asked for its configuration and is not the one that it is for. If it is, run: slipway arm "+m.Name,
			"node", m.Name, "from", r.RemoteAddr, "reason", reason)
		h.states.refused(m.MAC.String(), remote(r).String())
		http.Error(w, told+" (an operator opens it again with: slipway arm "+m.Name+")", http.StatusForbidden)
	}
	if reason := m.mismatch(claim.UUID, claim.Serial); reason != "" {
		refuse("it shows another SMBIOS UUID or serial number than the cluster document has", "this machine's SMBIOS UUID or serial number is not the one that the cluster document has for "+m.Name)
		return
	}
	asked := Claimed{Time: h.now().UTC(), From: remote(r), MAC: m.MAC.String(), UUID: oneLine(claim.UUID), Serial: oneLine(claim.Serial), Key: key, Image: oneLine(claim.Image)}
	if !h.showsTPM(w, r, m, claim, &asked) {
		return
	}
	// The configuration is made first: a claim is not used up by a fault on this side.
	config, err := h.config(m.Name)
	if err != nil {
		h.log.Error("cannot make configuration", "node", m.Name, "error", err)
		http.Error(w, "the server cannot make this node's configuration; its log says why", http.StatusInternalServerError)
		return
	}
	switch err := h.claims.claim(m.Name, asked); {
	case errors.Is(err, ErrClaimed):
		reason := err.Error()
		if errors.Is(err, errWithoutTPM) {
			reason += tpmAbsent(claim)
		}
		refuse(reason, reason)
		return
	case errors.Is(err, ErrNoTPM):
		h.refuseTPM(w, r, m, err.Error()+tpmAbsent(claim))
		return
	case err != nil:
		h.log.Error("cannot keep a claim, so no configuration is given out", "node", m.Name, "error", err)
		http.Error(w, "the server cannot keep this claim; its log says why", http.StatusInternalServerError)
		return
	}
	if asked.anonymous() {
		h.log.Warn("this machine shows neither a UUID nor a serial number: only its MAC address says that it is the same", "node", m.Name)
	}
	h.give(w, r, m, config, asked)
}

// give sends the configuration.
func (h *handler) give(w http.ResponseWriter, r *http.Request, m Machine, config []byte, claim Claimed) {
	w.Header().Set("Content-Type", "application/vnd.coreos.ignition+json")
	w.Header().Set("Cache-Control", "no-store")
	if h.states.bootFrom(m.MAC) == FromInstall {
		w.Header().Set(bootspec.HeaderInstall, bootspec.InstallAgain)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(config)))
	if _, err := w.Write(config); err != nil {
		h.log.Warn("a configuration was claimed and didn't arrive whole; the same machine may ask again", "node", m.Name, "to", r.RemoteAddr, "error", err)
		return
	}
	h.log.Info("configuration sent", "node", m.Name, "to", r.RemoteAddr, "key", claim.Key[:16], "tpm", claim.TPM != "")
	h.states.claimed(m.MAC.String(), claim)
}

// claimantKey is the digest of the public key that a client has proved to have; empty: it has shown none.
func claimantKey(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	public, err := x509.MarshalPKIXPublicKey(r.TLS.PeerCertificates[0].PublicKey)
	if err != nil {
		return ""
	}
	return bootspec.Fingerprint(public)
}

// secureURL is where the server answers over TLS.
func secureURL(server netip.Addr, port int) string {
	return "https://" + netip.AddrPortFrom(server, uint16(port)).String()
}

// secureURL is that at the address which a client has reached.
func (h *handler) secureURL(r *http.Request) string {
	if u, err := url.Parse(h.secure.URL); err == nil {
		if port, err := netip.ParseAddrPort(u.Host); err == nil {
			return secureURL(h.reached(r), int(port.Port()))
		}
	}
	return h.secure.URL
}

// baseFor is the base URL at the address which a client has reached.
func (h *handler) baseFor(r *http.Request) string { return baseURL(h.reached(r), h.port) }

// reached is our own address that a request came to.
func (h *handler) reached(r *http.Request) netip.Addr {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if at, err := netip.ParseAddrPort(local.String()); err == nil && h.site.ours(at.Addr().Unmap()) {
			return at.Addr().Unmap()
		}
	}
	return h.site.Server
}
