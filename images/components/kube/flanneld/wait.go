package flanneld

import (
	"context"
	"errors"
	"fmt"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// askAgain is how long to wait between two questions to the API server. flannel's own informer backs off up to half a
// minute and then gives up on a node without a subnet: both would cost that time on every first boot of a cluster.
const askAgain = time.Second

// waitForSubnet waits until the API server can be reached and has given the node a pod subnet.
func waitForSubnet(ctx context.Context, kubeconfig, name string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("cannot read kubeconfig: %w", err)
	}
	config.Timeout = 10 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("cannot use kubeconfig: %w", err)
	}
	said := ""
	for {
		node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			err = prepare(ctx, client, node)
		}
		if err == nil {
			return nil
		}
		if now := err.Error(); now != said && ctx.Err() == nil {
			klog.InfoS("Waiting for this node's pod subnet", "node", name, "reason", now)
			said = now
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(askAgain):
		}
	}
}

// prepare says why flannel can't begin on the node yet, or nil. flannel 0.28 writes to the node's annotations without
// looking whether there are any, so there must be one.
func prepare(ctx context.Context, client kubernetes.Interface, node *core.Node) error {
	if node.Spec.PodCIDR == "" {
		return errors.New("the controller manager has not given the node a pod subnet yet")
	}
	if len(node.Annotations) > 0 {
		return nil
	}
	const patch = `{"metadata":{"annotations":{"slipway.dev/pod-network":"flannel"}}}`
	_, err := client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("cannot annotate the node: %w", err)
	}
	return nil
}
