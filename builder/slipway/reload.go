package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/depot"
	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/builder/nodeconfig"
	"github.com/slipway-os/slipway/builder/pki"
)

// reloader reads the document of a running boot server again.
type reloader struct {
	app     *app
	command *cobra.Command
	flags   serveFlags
	id      *pki.Identity
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

// change is what a document makes of a server.
func (r *reloader) change(d *clusterDocument) netboot.Change {
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
			return nodeconfig.Render(d.Cluster, node, r.id, nodeconfig.Environment{Environment: r.app.pki(), Server: nodeServerURL(d, node)})
		},
	}
}

// reload reads the document and has the server serve it. Nothing is changed when something is wrong.
func (r *reloader) reload(ctx context.Context, server *netboot.Server) error {
	d, err := r.flags.load(r.command)
	if err != nil {
		return err
	}
	switch {
	case serverURL(d) != serverURL(r.first):
		return fmt.Errorf("provisioning.httpPort has changed: %w", netboot.ErrNeedsRestart)
	case d.Depot() != r.first.Depot():
		return fmt.Errorf("etcd.backup.to pushes to the boot server now or no longer: %w", netboot.ErrNeedsRestart)
	}
	if r.flags.live {
		d.Live()
	}
	change := r.change(d)
	for _, m := range change.Site.Machines {
		if _, err := change.NodeConfig(m.Name); err != nil {
			return errors.Join(fmt.Errorf("no configuration can be made for %s", m.Name), err)
		}
	}
	if err := server.Change(ctx, change); err != nil {
		return err
	}
	if r.depot != nil {
		r.depot.Serve(controlPlanes(d), d.Etcd.Backup.Keep)
	}
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
