// Package addons is slipway-addons, the control plane's caretaker: it applies the manifests a cluster needs (name
// service, access rules), approves the serving certificates that kubelets ask for, and labels nodes with their role.
//
// It is not a package manager: it applies what lies in its directories and deletes nothing.
package addons

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// requestDeadline bounds each request to the API server, so that one that never answers is tried again.
const requestDeadline = 30 * time.Second

// NewCommand is the slipway-addons command.
func NewCommand() *cobra.Command {
	var kubeconfig, nodes string
	var directories []string
	command := &cobra.Command{
		Use:           "slipway-addons --kubeconfig FILE --manifests DIR[,DIR...]",
		Short:         "Apply the cluster's manifests and approve kubelets' serving certificates",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: false,
		RunE: func(*cobra.Command, []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return run(ctx, kubeconfig, nodes, directories)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file of a cluster administrator")
	command.Flags().StringSliceVar(&directories, "manifests", nil, "directories with manifests, in order")
	command.Flags().StringVar(&nodes, "nodes", "/etc/slipway/nodes.json", "file with the roles of the cluster's nodes; may be missing")
	_ = command.MarkFlagRequired("kubeconfig")
	_ = command.MarkFlagRequired("manifests")
	return command
}

func run(ctx context.Context, kubeconfig, nodes string, directories []string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("cannot read kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 50, 100
	config.Timeout = requestDeadline
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("cannot make a client: %w", err)
	}
	objects, err := dynamic.NewForConfig(rest.CopyConfig(config))
	if err != nil {
		return fmt.Errorf("cannot make a client: %w", err)
	}
	go approveForever(ctx, client)
	go labelForever(ctx, client, nodes)
	a := &applier{discovery: client.Discovery(), objects: objects, directories: directories}
	a.applyForever(ctx, func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyReady) })
	return nil
}
