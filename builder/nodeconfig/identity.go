package nodeconfig

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// Names in the node environment besides bootspec's.
const (
	envNodeLabels = "SLIPWAY_NODE_LABELS" // rack=r1,example.com/disk=ssd; may be empty
)

// identity writes what says which node this is.
func (w *writer) identity(server string) {
	w.document(server)
	w.environment()
	w.add("/etc/hostname", 0o644, []byte(w.node.Name+"\n"))
	w.hosts()
	if servers := w.cluster.NTP; len(servers) > 0 {
		w.add("/etc/systemd/timesyncd.conf.d/20-cluster.conf", 0o644, []byte("[Time]\nNTP="+strings.Join(servers, " ")+"\n"))
	}
}

// bootServer writes how the boot server is reached over TLS, for a node that reports to it and has not booted from it.
func (w *writer) bootServer(server string, id *pki.Identity) {
	if server == "" || id.Boot == nil {
		return
	}
	data, err := json.MarshalIndent(Secure(w.cluster, w.node, id), "", "  ")
	w.keep(err)
	w.add(bootspec.BootServerDocument, 0o644, append(data, '\n'))
}

// Secure is how a node reaches its cluster's boot server over TLS.
func Secure(c *cluster.Cluster, n *cluster.Node, id *pki.Identity) bootspec.Secure {
	return bootspec.Secure{
		Version: bootspec.ClaimVersion, Authority: string(id.Boot.PEM()),
		URL: "https://" + netip.AddrPortFrom(c.BootServer(n), bootspec.SecurePort).String(),
	}
}

// document writes the node document.
func (w *writer) document(server string) {
	data, err := json.MarshalIndent(bootspec.Node{
		APIVersion: bootspec.Version,
		Cluster:    w.cluster.Metadata.Name,
		Name:       w.node.Name,
		Role:       w.node.Role,
		Target:     bootspec.SystemdTarget(w.node.Role),
		Server:     server,
		APIServer:  apiServer,
		API:        api(w.cluster, w.node),
		Network:    Network(w.cluster, w.node),
		Storage:    w.cluster.NodeStorage(w.node),
		Install:    w.cluster.NodeInstall(w.node),
		EtcdBackup: w.cluster.EtcdBackup(w.node),
	}, "", "  ")
	w.keep(err)
	w.add(bootspec.NodeDocument, 0o644, append(data, '\n'))
}

// environment writes what units read.
func (w *writer) environment() {
	c, n := w.cluster, w.node
	lines := []string{
		bootspec.EnvNodeName + "=" + n.Name,
		bootspec.EnvNodeRole + "=" + n.Role,
		bootspec.EnvNodeAddress + "=" + c.NodeAddress(n).String(),
		bootspec.EnvPodAddress + "=" + c.PodAddress(n).String(),
		bootspec.EnvAPIServer + "=" + apiServer,
		bootspec.EnvPodCIDR + "=" + c.Kubernetes.PodCIDR.String(),
		bootspec.EnvServiceCIDR + "=" + c.Kubernetes.ServiceCIDR.String(),
		bootspec.EnvClusterDNS + "=" + c.ClusterDNS().String(),
		bootspec.EnvClusterDomain + "=" + c.Kubernetes.ClusterDomain,
		bootspec.EnvClusterName + "=" + c.Metadata.Name,
		bootspec.EnvServiceAccounts + "=https://kubernetes.default.svc." + c.Kubernetes.ClusterDomain,
		envNodeLabels + "=" + labels(n.Labels),
	}
	if n.Role == cluster.RoleControlPlane {
		endpoints, members := etcd(c, n)
		lines = append(lines,
			bootspec.EnvEtcdEndpoints+"="+endpoints,
			bootspec.EnvEtcdCluster+"="+members,
			bootspec.EnvAPIServerCount+"="+fmt.Sprint(len(c.ControlPlanes())))
		if h := time.Duration(c.Etcd.Heartbeat); h != 0 {
			lines = append(lines, fmt.Sprintf("%s=%d", bootspec.EnvEtcdHeartbeat, h.Milliseconds()), fmt.Sprintf("%s=%d", bootspec.EnvEtcdElection, 10*h.Milliseconds()))
		}
	}
	w.add(bootspec.NodeEnvironment, 0o644, []byte(strings.Join(lines, "\n")+"\n"))
}

func labels(m map[string]string) string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		list = append(list, key+"="+m[key])
	}
	return strings.Join(list, ",")
}

// etcd is where etcd's members take clients, the node's own first, and who they are.
func etcd(c *cluster.Cluster, own *cluster.Node) (endpoints, members string) {
	var urls, names []string
	for _, n := range c.ControlPlanes() {
		url := fmt.Sprintf("https://%s:2379", c.NodeAddress(n))
		if n == own {
			urls = slices.Insert(urls, 0, url)
		} else {
			urls = append(urls, url)
		}
		names = append(names, fmt.Sprintf("%s=https://%s:2380", n.Name, c.NodeAddress(n)))
	}
	return strings.Join(urls, ","), strings.Join(names, ",")
}

// hosts writes the names that a node must know without any DNS: its own and those of all nodes.
func (w *writer) hosts() {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	for i := range w.cluster.Nodes {
		n := &w.cluster.Nodes[i]
		fmt.Fprintf(&b, "%s %s\n", w.cluster.NodeAddress(n), n.Name)
	}
	w.add("/etc/hosts", 0o644, []byte(b.String()))
}
