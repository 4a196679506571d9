// Command worker is the Kubernetes programs of a worker node, and flanneld, in one binary: the name it is called by decides which one
// runs. It holds nothing of the control plane.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // the JSON log format
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // the version metric
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	"github.com/slipway-os/slipway/images/components/kube/flanneld"
)

func main() {
	name := filepath.Base(os.Args[0])
	if name == "kube" && len(os.Args) > 1 {
		name = os.Args[1]
		os.Args = os.Args[1:]
	}
	switch name {
	case "kubelet":
		os.Exit(cli.Run(kubelet.NewKubeletCommand(context.Background())))
	case "kube-proxy":
		os.Exit(cli.Run(proxy.NewProxyCommand()))
	case "flanneld":
		flanneld.Main()
		return
	}
	fmt.Fprintf(os.Stderr, "kube: no program %q here (kubelet, kube-proxy, flanneld)\n", name)
	os.Exit(2)
}
