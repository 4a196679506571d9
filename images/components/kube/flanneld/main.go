// Package flanneld joins a node to the pod network: it takes the node's pod subnet from the Kubernetes API, sets up the
// backend (vxlan, host-gw, wireguard), the forwarding and masquerading rules (nftables), and writes the CNI
// configuration that gives pods their addresses. Only then does the node become Ready.
//
// It is flannel's own packages under a small main: flannel's published one links cloud backends no bare-metal node needs. It is a
// package of the Kubernetes programs because it needs the same client: alone it was 30 MB, among them it is less than one.
package flanneld

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw"    // backend
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"     // backend
	_ "github.com/flannel-io/flannel/pkg/backend/wireguard" // backend
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
	"github.com/flannel-io/flannel/pkg/trafficmngr/nftables"
)

// annotationPrefix is where flannel keeps a node's public address and backend data on the Node object.
const annotationPrefix = "flannel.alpha.coreos.com"

// resyncSeconds is how often the traffic manager looks after its rules.
const resyncSeconds = 60

type options struct {
	node       string // name of this node's Node object
	kubeconfig string // path
	netConf    string // path of net-conf.json
	address    string // of this node on the network that carries pod traffic
	subnetFile string // path of subnet.env
	cni        string // path of the CNI configuration to write
}

// Main is the program.
func Main() {
	var o options
	flags := flag.NewFlagSet("flanneld", flag.ExitOnError) // other packages of the binary have flags of their own
	flags.StringVar(&o.node, "node", os.Getenv("NODE_NAME"), "name of this node (default: $NODE_NAME)")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file")
	flags.StringVar(&o.netConf, "net-conf", "/etc/kube-flannel/net-conf.json", "network configuration file")
	flags.StringVar(&o.address, "address", "", "address of this node that carries pod traffic")
	flags.StringVar(&o.subnetFile, "subnet-file", "/run/flannel/subnet.env", "where the subnet is written")
	flags.StringVar(&o.cni, "cni", "/etc/cni/net.d/10-slipway.conflist", "CNI configuration to write")
	flags.Parse(os.Args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "flanneld:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	manager, config, err := connect(ctx, o)
	if err != nil {
		return err
	}
	network, err := register(ctx, &wg, manager, config, o.address)
	if err != nil {
		return err
	}
	if err := allowTraffic(ctx, config, network.Lease()); err != nil {
		return err
	}
	if err := publish(manager, config, network, o); err != nil {
		return err
	}
	ended := make(chan struct{})
	wg.Go(func() {
		defer close(ended)
		network.Run(ctx)
	})
	if err := manager.CompleteLease(ctx, network.Lease(), &wg); err != nil {
		return fmt.Errorf("cannot tell the API server that the pod network is up: %w", err)
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return fmt.Errorf("cannot notify systemd: %w", err)
	}
	<-ended
	if ctx.Err() == nil {
		return fmt.Errorf("backend %s ended by itself", config.BackendType)
	}
	return context.Cause(ctx)
}

// connect waits for this node's pod subnet and makes the subnet manager.
func connect(ctx context.Context, o options) (subnet.Manager, *subnet.Config, error) {
	if o.node == "" || o.address == "" {
		return nil, nil, errors.New("--node and --address must be set")
	}
	if err := os.Setenv("NODE_NAME", o.node); err != nil { // flannel reads it from there
		return nil, nil, fmt.Errorf("cannot set NODE_NAME: %w", err)
	}
	if err := waitForSubnet(ctx, o.kubeconfig, o.node); err != nil {
		return nil, nil, err
	}
	manager, err := kube.NewSubnetManager(ctx, "", o.kubeconfig, annotationPrefix, o.netConf, true)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make the subnet manager: %w", err)
	}
	config, err := manager.GetNetworkConfig(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the network configuration: %w", err)
	}
	return manager, config, nil
}

// register sets up the backend on the interface that has the address.
func register(ctx context.Context, wg *sync.WaitGroup, manager subnet.Manager, config *subnet.Config, address string) (backend.Network, error) {
	stack, err := ipmatch.GetIPFamily(config.EnableIPv4, config.EnableIPv6)
	if err != nil {
		return nil, fmt.Errorf("cannot read the network configuration: %w", err)
	}
	external, err := ipmatch.LookupExtIface(address, "", "", stack, ipmatch.PublicIPOpts{PublicIP: address})
	if err != nil {
		return nil, fmt.Errorf("cannot find the interface with address %s: %w", address, err)
	}
	chosen, err := backend.NewManager(ctx, manager, external).GetBackend(config.BackendType)
	if err != nil {
		return nil, fmt.Errorf("cannot use backend %s: %w", config.BackendType, err)
	}
	network, err := chosen.RegisterNetwork(ctx, wg, config)
	if err != nil {
		return nil, fmt.Errorf("cannot register with backend %s: %w", config.BackendType, err)
	}
	return network, nil
}

// allowTraffic sets the rules that forward pod traffic and masquerade what leaves the pod network.
func allowTraffic(ctx context.Context, config *subnet.Config, l *lease.Lease) error {
	rules := &nftables.NFTablesManager{}
	if err := rules.Init(ctx); err != nil {
		return fmt.Errorf("cannot prepare nftables: %w", err)
	}
	err := rules.SetupAndEnsureMasqRules(ctx, config.Network, ip.IP4Net{}, ip.IP4Net{},
		config.IPv6Network, ip.IP6Net{}, ip.IP6Net{}, l, resyncSeconds, false)
	if err != nil {
		return fmt.Errorf("cannot set masquerading rules: %w", err)
	}
	rules.SetupAndEnsureForwardRules(ctx, config.Network, config.IPv6Network, resyncSeconds)
	return nil
}

// publish writes what the node's container runtime needs.
func publish(manager subnet.Manager, config *subnet.Config, network backend.Network, o options) error {
	l := network.Lease()
	if err := manager.HandleSubnetFile(o.subnetFile, config, true, l.Subnet, l.IPv6Subnet, network.MTU()); err != nil {
		return fmt.Errorf("cannot write %s: %w", o.subnetFile, err)
	}
	return writeCNI(o.cni, cniConfig(l.Subnet.String(), network.MTU()))
}
