package main

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-os/slipway/builder/dashboard"
	"github.com/slipway-os/slipway/builder/handed"
	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/builder/tpm"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// serveFlags are what serve needs besides the cluster.
type serveFlags struct {
	clusterFlags
	trust                            trustFlags
	artifacts, state, clock          string
	networks                         []string
	verbose, live, proxy, singlePort bool
	ports                            bool // singlePort was given: it wins over the document
	address                          string
	store, storeCA                   string
	storeCert, storeKey              string
	makers                           string
}

func serveCommand(a *app) *cobra.Command {
	var flags serveFlags
	c := &cobra.Command{
		Use:   "serve --cluster FILE --artifacts DIR",
		Short: "Serve a rack: DHCP, TFTP, HTTP, node configurations and node states",
		Long: `serve is the boot server of one cluster document. It answers the machines of the document (and others only if
the document says so) with an address, the image of their role and their own configuration, and keeps what they report.
Where another DHCP server gives the addresses, --proxy leaves them to it and says only what to boot.
With --store several servers serve one site, each with an --address of its own: they share leases, claims and node states in an etcd,
and when one dies the others go on.
It needs the rights to listen on ports 67 and 69 and to enter neighbours (root, or CAP_NET_BIND_SERVICE and CAP_NET_ADMIN). Sockets that
systemd hands over (slipway.socket) are used in the place of its own; one that doesn't fit the document is an error.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := flags.load(c)
			if err != nil {
				return err
			}
			if err := needs(c, "artifacts"); err != nil {
				return err
			}
			flags.ports = c.Flags().Changed("tftp-single-port")
			if err := flags.ownAddress(d); err != nil {
				return usage(c, err)
			}
			return serve(c, a, flags, d)
		},
	}
	flags.register(c)
	flags.registerIdentity(c)
	flags.trust.register(c)
	c.Flags().StringVar(&flags.artifacts, "artifacts", "", "folder of baked images")
	c.Flags().StringVar(&flags.makers, "tpm-makers", "", "folder with certificates of makers whose TPMs alone count (with provisioning.claims.tpm: required)")
	c.Flags().StringArrayVar(&flags.networks, "interface", nil, "network interface to serve on; may be given again (default: those with the server's addresses)")
	c.Flags().StringVar(&flags.state, "state", "", "folder for node states and leases (default: /var/lib/slipway/CLUSTER)")
	c.Flags().BoolVar(&flags.live, "live", false, "nodes run from memory: install and storage of the document are left out, disks are not touched")
	c.Flags().BoolVar(&flags.proxy, "proxy", false, "give no addresses: another DHCP server does; say only what to boot (proxyDHCP, ports 67 and 4011)")
	c.Flags().BoolVar(&flags.singlePort, "tftp-single-port", false, "send files by TFTP from port 69 itself, for networks that let no other port through (default: provisioning.tftpSinglePort)")
	c.Flags().StringVar(&flags.address, "address", "", "this server's address, where several serve one site (default: provisioning.server)")
	c.Flags().StringVar(&flags.store, "store", "", "keep node states, leases and claims in an etcd that several boot servers share: etcd://HOST:PORT,HOST:PORT/PREFIX")
	c.Flags().StringVar(&flags.storeCA, "store-ca", "", "file with the authority of that etcd (PEM)")
	c.Flags().StringVar(&flags.storeCert, "store-cert", "", "file with this server's certificate for that etcd (PEM)")
	c.Flags().StringVar(&flags.storeKey, "store-key", "", "file with the certificate's key (PEM)")
	c.Flags().StringVar(&flags.clock, "clock", "", "file that says how far the nodes' clocks are behind ours (rack up)")
	_ = c.Flags().MarkHidden("clock")
	c.Flags().BoolVarP(&flags.verbose, "verbose", "v", false, "log every packet's decision")
	return c
}

// onePort says whether all of TFTP goes over port 69.
func (f *serveFlags) onePort(d *clusterDocument) bool {
	if f.ports {
		return f.singlePort
	}
	return d.Provisioning.TFTPSinglePort
}

// behind is the time of machines whose clocks go slower than ours: a file that builder/rack writes says how many nanoseconds
// they are behind.
func behind(file string, now func() time.Time) func() time.Time {
	if file == "" {
		return now
	}
	return func() time.Time {
		text, _ := os.ReadFile(file) // not there yet: they are not
		n, _ := strconv.ParseInt(string(text), 10, 64)
		return now().Add(-time.Duration(n))
	}
}

// stateFolder is where a document's boot server keeps states.
func stateFolder(flag string, d *clusterDocument) string {
	if flag == "" {
		return filepath.Join("/var/lib/slipway", d.Metadata.Name)
	}
	return flag
}

// readMakers reads the authorities of TPMs' makers; nil: none are named. Without a TPM that is required they would stop nobody.
func readMakers(c *cobra.Command, dir string, d *clusterDocument) (*tpm.Authorities, error) {
	if dir == "" {
		return nil, nil
	}
	if d.Provisioning.Claims.TPM != cluster.TPMRequired {
		return nil, usage(c, fmt.Errorf("--tpm-makers wants provisioning.claims.tpm: %s in the cluster document, not %s: else a machine goes around it by showing no TPM",
			cluster.TPMRequired, d.Provisioning.Claims.TPM))
	}
	return tpm.ReadAuthorities(dir)
}

// tuneCollector has garbage collected as suits a boot server, until the program ends with what it returns, unless GOGC says otherwise.
func tuneCollector() (end func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	// Half of what Go takes by itself: a rack that boots at once makes much that lasts for a moment only.
	debug.SetGCPercent(50)
	// Memory that is only reckoned with, never used: half of it is what must be thrown away before it is collected, however little
	// the server has. Without it a burst of DHCP requests has garbage collected several times a second.
	reckoned := make([]byte, 16<<20)
	return func() { runtime.KeepAlive(reckoned) }
}

func serve(c *cobra.Command, a *app, flags serveFlags, d *clusterDocument) error {
	trust, err := flags.trust.read(a, c)
	if err != nil {
		return err
	}
	makers, err := readMakers(c, flags.makers, d)
	if err != nil {
		return err
	}
	id, err := loadIdentity(a, &flags.clusterFlags, d)
	if err != nil {
		return err
	}
	if id.Boot == nil {
		if err := id.AddBoot(flags.identityDir(d), a.pki()); err != nil {
			return err
		}
		fmt.Fprintf(a.words, "the identity in %s had no authority for the boot server; it has one now: take a new copy of the folder\n", flags.identityDir(d))
	}
	flags.state = stateFolder(flags.state, d)
	if flags.live && d.Live() {
		fmt.Fprintln(a.words, "install and storage of the document are left out: nodes run from memory")
	}
	r := newReloader(a, c, flags, d, id)
	defer r.stop()
	level := slog.LevelInfo
	if flags.verbose {
		level = slog.LevelDebug
	}
	words, table := a.words, newBoard(a.words)
	if table != nil {
		words = table
	}
	log := newLog(words, a.env, level)
	r.log = log
	first := r.change(d, id)
	sockets, err := handed.FromSystemd()
	if err != nil {
		return err
	}
	forDepot, err := depotListener(d, sockets)
	if err != nil {
		return err
	}
	store, name, err := flags.openStore(c.Context())
	if err != nil {
		return fmt.Errorf("cannot start the boot server: %w", err)
	}
	server, err := netboot.New(netboot.Config{
		Site: first.Site, NodeConfig: first.NodeConfig, Reload: r.reload, Store: store, StoreName: name, Artifacts: flags.artifacts, Version: d.Image.Version, Trust: trust,
		Interfaces: flags.networks, Handed: sockets, TFTPSinglePort: flags.onePort(d), HTTPPort: d.Provisioning.HTTPPort, StateDir: flags.state, Now: a.now, Told: behind(flags.clock, a.now),
		Log: log,
		Secure: &netboot.Secure{
			Authority: first.Authority, Certificate: first.Certificate, Policy: first.Policy, TPM: first.TPM, Makers: makers,
		},
		Pages: func(s *netboot.Server) http.Handler {
			return dashboard.New(dashboard.Source{Cluster: d.Metadata.Name, Nodes: s.Nodes, Traffic: s.Traffic,
				Warnings: s.Warnings, Hardware: s.Hardware, Rivals: func() int { return len(s.Rivals()) }, Now: a.now, Log: log})
		},
	})
	if err != nil {
		return fmt.Errorf("cannot start the boot server: %w", err)
	}
	snapshots, err := openDepot(a, d, id, flags.state, forDepot, log)
	if err != nil {
		server.Close()
		return err
	}
	r.depot = snapshots
	defer tuneCollector()()
	running, ctx := errgroup.WithContext(c.Context())
	running.Go(func() error { return server.Run(ctx) })
	if table != nil {
		running.Go(func() error {
			table.run(ctx, func(w io.Writer) { _ = writeStatus(w, server.Nodes(), a.now()) })
			return nil
		})
	}
	running.Go(func() error { r.onSignal(ctx, server); return nil })
	if snapshots != nil {
		running.Go(func() error { return snapshots.Run(ctx) })
	}
	return running.Wait()
}
