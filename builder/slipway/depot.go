package main

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/slipway-os/slipway/builder/depot"
	"github.com/slipway-os/slipway/builder/handed"
	"github.com/slipway-os/slipway/builder/pki"
)

// depotListener is the depot's socket, if systemd hands it over; nil: it doesn't, or the document has no depot.
func depotListener(d *clusterDocument, from *handed.Sockets) (net.Listener, error) {
	at, err := netip.ParseAddrPort(d.Depot())
	if err != nil {
		return nil, nil
	}
	return from.Listener(at)
}

// openDepot opens the depot of a document that has snapshots pushed to its boot server; nil: it has none.
func openDepot(a *app, d *clusterDocument, id *pki.Identity, state string, listener net.Listener, log *slog.Logger) (*depot.Depot, error) {
	address := d.Depot()
	if address == "" {
		return nil, nil
	}
	terms := depotTerms(a, d, id)
	return depot.New(depot.Config{
		Address: address, Listener: listener, Dir: filepath.Join(state, "etcd-snapshots"), Keep: terms.Keep, Nodes: terms.Nodes,
		Authority: terms.Authority, Certificate: terms.Certificate, Log: log, Now: a.now,
	})
}

// depotTerms are what a document and an identity say of the depot.
func depotTerms(a *app, d *clusterDocument, id *pki.Identity) depot.Terms {
	own := &ownCertificate{app: a, make: id.Depot}
	return depot.Terms{Keep: d.Etcd.Backup.Keep, Nodes: controlPlanes(d), Authority: id.Trusted(), Certificate: own.get}
}

// controlPlanes are the names of a document's control planes.
func controlPlanes(d *clusterDocument) (names []string) {
	for _, n := range d.ControlPlanes() {
		names = append(names, n.Name)
	}
	return names
}

// ownCertificate is a server's certificate, made anew when half of its time is over.
type ownCertificate struct {
	app  *app
	make func(pki.Environment) (pki.Pair, error)

	mu      sync.Mutex
	present *tls.Certificate
	until   time.Time
}

func (c *ownCertificate) get() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.present != nil && c.app.now().Before(c.until) {
		return c.present, nil
	}
	pair, err := c.make(c.app.pki())
	if err != nil {
		return nil, err
	}
	made, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		return nil, err
	}
	c.present, c.until = &made, c.app.now().Add(pki.LeafLifetime/2)
	return c.present, nil
}
