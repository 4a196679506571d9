package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/depot"
	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/builder/nodeconfig"
	"github.com/slipway-os/slipway/builder/pki"
)

// reloader reads the document of a running boot server again, and the identity.
type reloader struct {
	app     *app
	command *cobra.Command
	flags   serveFlags
	log     *slog.Logger
	hold    sync.Mutex       // one at a time
	id      *pki.Identity    // that is served
	first   *clusterDocument // as the server was started with it
	depot   *depot.Depot     // nil: the document has none
	hangup  chan os.Signal
}

// newReloader listens for SIGHUP from now on, which would end the program else; stop ends that.
func newReloader(a *app, c *cobra.Command, flags serveFlags, d *clusterDocument, id *pki.Identity) *reloader {
	r := &reloader{app: a, command: c, flags: flags, id: id, first: d, hangup: make(chan os.Signal, 1)}
	signal.Notify(r.hangup, syscall.SIGHUP)
	return r
}

func (r *reloader) stop() { signal.Stop(r.hangup) }

// change is what a document and an identity make of a server.
func (r *reloader) change(d *clusterDocument, id *pki.Identity) netboot.Change {
	site := netboot.FromCluster(d.Cluster)
	site.Proxy = r.flags.proxy
	for i := range site.Machines {
		m, n := &site.Machines[i], &d.Nodes[i]
		var err error
		if m.NetworkArgument, err = nodeconfig.Network(d.Cluster, n).BootArgument(m.MAC.String(), m.Address); err != nil {
			fmt.Fprintf(r.command.ErrOrStderr(), "slipway: warning: %s boots by iPXE without its bonds and VLANs: %v\n", n.Name, err)
		}
	}
	return netboot.Change{
		Site: site, Version: d.Image.Version, Policy: netboot.ClaimPolicy(d.Provisioning.Claims.Policy), TPM: netboot.TPMPolicy(d.Provisioning.Claims.TPM),
		NodeConfig: func(node string) ([]byte, error) {
			return nodeconfig.Render(d.Cluster, node, id, nodeconfig.Environment{Environment: r.app.pki(), Server: nodeServerURL(d, node)})
		},
		Authority: id.Boot.PEM(), Certificate: (&ownCertificate{app: r.app, make: id.BootServer}).get,
	}
}

// identity reads the identity as it is now.
func (r *reloader) identity(d *clusterDocument) (*pki.Identity, error) {
	dir := r.flags.identityDir(d)
	id, err := r.app.openAgain(&r.flags.clusterFlags, dir, r.id)
	if err != nil {
		return nil, err
	}
	if id.Boot == nil {
		return nil, fmt.Errorf("the identity in %s has no authority for the boot server, and had one (restore boot-ca.crt and boot-ca.key)", dir)
	}
	return id, ofCluster(id, dir, d)
}

// reload reads document and identity and has the server serve them. Nothing is changed when something is wrong.
func (r *reloader) reload(ctx context.Context, server *netboot.Server) error {
	r.hold.Lock()
	defer r.hold.Unlock()
	d, err := r.flags.load(r.command)
	if err != nil {
		return err
	}
	switch {
	case serverURL(d) != serverURL(r.first):
		return fmt.Errorf("provisioning.httpPort has changed: %w", netboot.ErrNeedsRestart)
	case r.flags.onePort(d) != r.flags.onePort(r.first):
		return fmt.Errorf("provisioning.tftpSinglePort has changed: %w", netboot.ErrNeedsRestart)
	case d.Depot() != r.first.Depot():
		return fmt.Errorf("etcd.backup.to pushes to the boot server now or no longer: %w", netboot.ErrNeedsRestart)
	}
	if r.flags.live {
		d.Live()
	}
	id, err := r.identity(d)
	if err != nil {
		return err
	}
	change := r.change(d, id)
	for _, m := range change.Site.Machines {
		if _, err := change.NodeConfig(m.Name); err != nil {
			return errors.Join(fmt.Errorf("no configuration can be made for %s", m.Name), err)
		}
	}
	if _, err := change.Certificate(); err != nil {
		return fmt.Errorf("no certificate can be made for the boot server: %w", err)
	}
	depot := func() {}
	if r.depot != nil {
		terms := depotTerms(r.app, d, id)
		if _, err := terms.Certificate(); err != nil {
			return fmt.Errorf("no certificate can be made for the depot of snapshots: %w", err)
		}
		if depot, err = r.depot.Prepare(terms); err != nil {
			return err
		}
	}
	if err := server.Change(ctx, change); err != nil {
		return err
	}
	depot()
	if !bytes.Equal(id.Trusted(), r.id.Trusted()) || !bytes.Equal(id.CA.PEM(), r.id.CA.PEM()) || !bytes.Equal(id.Boot.PEM(), r.id.Boot.PEM()) {
		r.log.Info("the identity has changed: configurations are of its authorities of now", "authority", id.CA.Certificate.Subject.CommonName)
	}
	r.id = id
	return nil
}

// onSignal reloads at each SIGHUP, until ctx ends. The log says how it went.
func (r *reloader) onSignal(ctx context.Context, server *netboot.Server) {
	for {
		select {
		case <-r.hangup:
			_ = server.Reload(ctx)
		case <-ctx.Done():
			return
		}
	}
}
