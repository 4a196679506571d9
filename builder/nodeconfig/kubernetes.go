package nodeconfig

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"path"

	"go.yaml.in/yaml/v3"

	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// kubernetes writes the configuration of what runs on every node.
func (w *writer) kubernetes() {
	w.yaml(path.Join(bootspec.KubeconfigDirectory, "kubelet.yaml"), 0o644, kubelet(w.cluster, w.node))
	w.yaml(path.Join(bootspec.KubeconfigDirectory, "kube-proxy.yaml"), 0o644, kubeProxy(w.cluster, w.node))
	flannel, err := json.MarshalIndent(flannelNetwork{
		Network: w.cluster.Kubernetes.PodCIDR, EnableNFTables: true, Backend: flannelBackend{Type: "vxlan"},
	}, "", "  ")
	w.keep(err)
	w.add("/etc/kube-flannel/net-conf.json", 0o644, append(flannel, '\n'))
}

// controlPlane writes what only control planes have.
func (w *writer) controlPlane(id *pki.Identity) {
	w.yaml(path.Join(bootspec.KubeconfigDirectory, "encryption-config.yaml"), 0o600, encryption(id.EncryptionKey))
	w.addons()
	w.nodes()
	for path, data := range w.cluster.BucketFiles() {
		w.add(path, 0o600, data)
	}
}

// yaml adds documents in one file.
func (w *writer) yaml(path string, mode uint32, documents ...any) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	for _, d := range documents {
		w.keep(e.Encode(d))
	}
	w.keep(e.Close())
	w.add(path, mode, b.Bytes())
}

// m is a small part of someone else's document.
type m = map[string]any

// kubeletConfiguration is the part of kubelet.config.k8s.io/v1beta1 that differs from kubelet's defaults.
type kubeletConfiguration struct {
	APIVersion               string            `yaml:"apiVersion"`
	Kind                     string            `yaml:"kind"`
	Authentication           m                 `yaml:"authentication"`
	Authorization            m                 `yaml:"authorization"`
	StaticPodPath            string            `yaml:"staticPodPath"`
	ClusterDNS               []netip.Addr      `yaml:"clusterDNS"`
	ClusterDomain            string            `yaml:"clusterDomain"`
	ResolvConf               string            `yaml:"resolvConf"`
	CgroupDriver             string            `yaml:"cgroupDriver"`
	ContainerRuntimeEndpoint string            `yaml:"containerRuntimeEndpoint"`
	RotateCertificates       bool              `yaml:"rotateCertificates"`
	ServerTLSBootstrap       bool              `yaml:"serverTLSBootstrap"`
	TLSMinVersion            string            `yaml:"tlsMinVersion"`
	ReadOnlyPort             int               `yaml:"readOnlyPort"`
	SeccompDefault           bool              `yaml:"seccompDefault"`
	ProtectKernelDefaults    bool              `yaml:"protectKernelDefaults"`
	MakeIPTablesUtilChains   bool              `yaml:"makeIPTablesUtilChains"`
	VolumePluginDir          string            `yaml:"volumePluginDir"`
	ImageGCHighThreshold     int               `yaml:"imageGCHighThresholdPercent"`
	EvictionHard             map[string]string `yaml:"evictionHard"`
	KubeReserved             map[string]string `yaml:"kubeReserved"`
	SystemReserved           map[string]string `yaml:"systemReserved"`
	ContainerLogMaxSize      string            `yaml:"containerLogMaxSize"`
	ContainerLogMaxFiles     int               `yaml:"containerLogMaxFiles"`
	RegisterWithTaints       []taint           `yaml:"registerWithTaints,omitempty"`
}

type taint struct {
	Key    string `yaml:"key"`
	Value  string `yaml:"value,omitempty"`
	Effect string `yaml:"effect"`
}

// kubelet is a node's KubeletConfiguration.
//
// Images are baked in and can't be fetched again, so their collection is off (100 percent), and nothing is evicted for
// the images' file system. Containers write into memory (tmpfs), so their logs are small.
func kubelet(c *cluster.Cluster, n *cluster.Node) kubeletConfiguration {
	k := kubeletConfiguration{
		APIVersion: "kubelet.config.k8s.io/v1beta1",
		Kind:       "KubeletConfiguration",
		Authentication: m{
			"anonymous": m{"enabled": false},
			"webhook":   m{"enabled": true},
			"x509":      m{"clientCAFile": path.Join(bootspec.PKIDirectory, "ca.crt")},
		},
		Authorization:            m{"mode": "Webhook"},
		StaticPodPath:            bootspec.StaticPodDirectory, // the role makes it (tmpfiles.d)
		ClusterDNS:               []netip.Addr{c.ClusterDNS()},
		ClusterDomain:            c.Kubernetes.ClusterDomain,
		ResolvConf:               "/etc/resolv.conf",
		CgroupDriver:             "systemd",
		ContainerRuntimeEndpoint: "unix:///run/containerd/containerd.sock",
		RotateCertificates:       true,
		ServerTLSBootstrap:       true,
		TLSMinVersion:            "VersionTLS13",
		SeccompDefault:           true,
		ProtectKernelDefaults:    true,
		VolumePluginDir:          "/var/lib/kubelet/volume-plugins",
		ImageGCHighThreshold:     100,
		EvictionHard:             map[string]string{"memory.available": "50Mi", "nodefs.available": "5%", "nodefs.inodesFree": "5%"},
		SystemReserved:           map[string]string{"memory": "100Mi"},
		KubeReserved:             map[string]string{"cpu": "100m", "memory": "200Mi"},
		ContainerLogMaxSize:      "5Mi",
		ContainerLogMaxFiles:     2,
	}
	if n.Role == cluster.RoleControlPlane {
		// etcd, the API server, controllers and scheduler are units: kubelet doesn't see what they take.
		k.KubeReserved = map[string]string{"cpu": "500m", "memory": "1Gi"}
	}
	for _, t := range n.Taints {
		k.RegisterWithTaints = append(k.RegisterWithTaints, taint{Key: t.Key, Value: t.Value, Effect: t.Effect})
	}
	return k
}

// kubeProxyConfiguration is the part of kubeproxy.config.k8s.io/v1alpha1 that differs from kube-proxy's defaults.
type kubeProxyConfiguration struct {
	APIVersion         string         `yaml:"apiVersion"`
	Kind               string         `yaml:"kind"`
	ClientConnection   m              `yaml:"clientConnection"`
	HostnameOverride   string         `yaml:"hostnameOverride"`
	Mode               string         `yaml:"mode"`
	ClusterCIDR        netip.Prefix   `yaml:"clusterCIDR"`
	BindAddress        string         `yaml:"bindAddress"`
	HealthzBindAddress string         `yaml:"healthzBindAddress"`
	MetricsBindAddress string         `yaml:"metricsBindAddress"`
	NodePortAddresses  []string       `yaml:"nodePortAddresses"`
	Conntrack          map[string]int `yaml:"conntrack"`
}

// kubeProxy is a node's KubeProxyConfiguration. The limits of connection tracking are the role's sysctls.
func kubeProxy(c *cluster.Cluster, n *cluster.Node) kubeProxyConfiguration {
	return kubeProxyConfiguration{
		APIVersion:         "kubeproxy.config.k8s.io/v1alpha1",
		Kind:               "KubeProxyConfiguration",
		ClientConnection:   m{"kubeconfig": path.Join(bootspec.KubeconfigDirectory, "kube-proxy.conf")},
		HostnameOverride:   n.Name,
		Mode:               "nftables",
		ClusterCIDR:        c.Kubernetes.PodCIDR,
		BindAddress:        "0.0.0.0",
		HealthzBindAddress: "127.0.0.1:10256",
		MetricsBindAddress: "127.0.0.1:10249",
		NodePortAddresses:  []string{"primary"},
		Conntrack:          map[string]int{"maxPerCore": 0, "min": 0},
	}
}

// flannelNetwork is flannel's net-conf.json.
type flannelNetwork struct {
	Network        netip.Prefix
	EnableNFTables bool
	Backend        flannelBackend
}

type flannelBackend struct{ Type string }

// encryptionConfiguration is apiserver.config.k8s.io/v1, EncryptionConfiguration.
type encryptionConfiguration struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Resources  []m    `yaml:"resources"`
}

// encryption encrypts Secrets in etcd with XSalsa20 and Poly1305. Unlike AES-GCM it needs no key rotation by count of
// writes; the identity provider reads what was written before there was a key.
func encryption(key []byte) encryptionConfiguration {
	secretbox := m{"keys": []m{{"name": "key1", "secret": base64.StdEncoding.EncodeToString(key)}}}
	return encryptionConfiguration{
		APIVersion: "apiserver.config.k8s.io/v1",
		Kind:       "EncryptionConfiguration",
		Resources: []m{{
			"resources": []string{"secrets"},
			"providers": []m{{"secretbox": secretbox}, {"identity": m{}}},
		}},
	}
}

// nodes writes the roles and labels of all nodes, for what only the control plane may say of them.
func (w *writer) nodes() {
	type node struct {
		Name   string            `json:"name"`
		Role   string            `json:"role"`
		Labels map[string]string `json:"labels,omitempty"`
	}
	var list []node
	for _, n := range w.cluster.Nodes {
		list = append(list, node{Name: n.Name, Role: n.Role, Labels: n.Labels})
	}
	data, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		w.keep(fmt.Errorf("cannot write nodes: %w", err))
	}
	w.add("/etc/slipway/nodes.json", 0o644, append(data, '\n'))
}
