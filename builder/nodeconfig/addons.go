package nodeconfig

import (
	"net/netip"
	"path"
	"strings"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// addons writes the manifests that depend on the cluster: CoreDNS's Service, which has the cluster's DNS address, and its
// Corefile. All else of CoreDNS is in the image.
func (w *writer) addons() {
	selector := m{"k8s-app": "kube-dns"}
	metadata := func(name string) m { return m{"name": name, "namespace": "kube-system", "labels": selector} }
	corefile := m{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("coredns"),
		"data": m{"Corefile": corefile(w.cluster)},
	}
	service := m{
		"apiVersion": "v1", "kind": "Service", "metadata": metadata("kube-dns"),
		"spec": m{
			"selector":  selector,
			"clusterIP": w.cluster.ClusterDNS().String(),
			"ports": []m{
				{"name": "dns", "port": 53, "protocol": "UDP"},
				{"name": "dns-tcp", "port": 53, "protocol": "TCP"},
				{"name": "metrics", "port": 9153, "protocol": "TCP"},
			},
		},
	}
	w.yaml(path.Join(bootspec.NodeAddonsDirectory, "20-coredns.yaml"), 0o644, corefile, service)
}

// corefile is CoreDNS's configuration. It forwards to the document's DNS servers; when there are none, it answers for
// the cluster only (with an empty resolv.conf to forward to, CoreDNS doesn't start).
func corefile(c *cluster.Cluster) string {
	lines := []string{
		".:53 {",
		"    errors",
		"    health {",
		"        lameduck 5s",
		"    }",
		"    ready",
		"    kubernetes " + c.Kubernetes.ClusterDomain + " in-addr.arpa ip6.arpa {",
		"        pods insecure",
		"        fallthrough in-addr.arpa ip6.arpa",
		"        ttl 30",
		"    }",
		"    prometheus :9153",
	}
	if servers := forwarders(c); len(servers) > 0 {
		lines = append(lines, "    forward . "+strings.Join(servers, " "))
	}
	lines = append(lines, "    cache 30", "    loop", "    reload", "    loadbalance", "}", "")
	return strings.Join(lines, "\n")
}

// forwarders are the DNS servers of the document and of its management network: every node reaches these.
func forwarders(c *cluster.Cluster) []string {
	var list []string
	for _, a := range appendNew(append([]netip.Addr(nil), c.DNS...), c.Networks[c.Management()].DNS) {
		list = append(list, a.String())
	}
	return list
}
