// Package bootspec is the contract between the builder (what bakes and serves) and the agent (what boots): kernel
// arguments, paths on a node, HTTP routes of the boot server, the node document and the reports a node sends.
//
// It holds names, small values and their text forms. It does no I/O and is not a place for behaviour of either side.
//
// Words: an image is one role's kernel, initrd and root image; a root image is a squashfs file followed by its
// dm-verity tree; a node document (node.json) is what makes a node this node, besides its secrets.
package bootspec

// Paths on a node. All are absolute in the running system.
const (
	// NodeDocument is where the provisioned node document lies (JSON, see Node).
	NodeDocument = "/etc/slipway/node.json"
	// NodeEnvironment is the environment file that units read (KEY=value lines, see the Env constants).
	NodeEnvironment = "/etc/slipway/node.env"
	// RunDirectory holds what the agent's first stage hands to the agent in the running system.
	RunDirectory = "/run/slipway"
	// BootRecord is the first stage's hand-over (JSON, see BootState) in RunDirectory.
	BootRecord = "/run/slipway/boot.json"
	// PKIDirectory holds the node's certificates and keys.
	PKIDirectory = "/etc/kubernetes/pki"
	// KubeconfigDirectory holds kubeconfigs: kubelet.conf, kube-proxy.conf, flanneld.conf, controller-manager.conf,
	// scheduler.conf, addons.conf.
	KubeconfigDirectory = "/etc/kubernetes"
	// StaticPodDirectory is where a node's kubelet looks for pods of its own.
	StaticPodDirectory = "/etc/kubernetes/manifests"
	// AddonsDirectory and NodeAddonsDirectory hold manifests the control plane applies: those of the image and those
	// that depend on the cluster.
	AddonsDirectory     = "/usr/share/slipway/addons"
	NodeAddonsDirectory = "/etc/slipway/addons"
	// ContainerImagesDirectory holds OCI archives (*.tar) that containerd gets at boot.
	ContainerImagesDirectory = "/usr/share/slipway/container-images"
	// ImageRelease describes the image (KEY=value, os-release syntax: IMAGE_ID, IMAGE_VERSION, SLIPWAY_ROLE).
	ImageRelease = "/usr/lib/slipway/image-release"
)

// Environment names in NodeEnvironment. Values never hold quotes, white space or newlines.
const (
	EnvNodeName        = "SLIPWAY_NODE_NAME"        // cp-1
	EnvNodeRole        = "SLIPWAY_NODE_ROLE"        // control-plane, worker
	EnvNodeAddress     = "SLIPWAY_NODE_ADDRESS"     // address on the management network: etcd, API and kubelet use it
	EnvPodAddress      = "SLIPWAY_POD_ADDRESS"      // address on the container network (else the management one): pod traffic
	EnvAPIServer       = "SLIPWAY_API_SERVER"       // https://127.0.0.1:7443
	EnvPodCIDR         = "SLIPWAY_POD_CIDR"         // 10.244.0.0/16
	EnvServiceCIDR     = "SLIPWAY_SERVICE_CIDR"     // 10.96.0.0/16
	EnvClusterDNS      = "SLIPWAY_CLUSTER_DNS"      // 10.96.0.10
	EnvClusterDomain   = "SLIPWAY_CLUSTER_DOMAIN"   // cluster.local
	EnvClusterName     = "SLIPWAY_CLUSTER_NAME"     // lab
	EnvEtcdEndpoints   = "SLIPWAY_ETCD_ENDPOINTS"   // https://10.1.0.11:2379[,...]            (control plane only)
	EnvEtcdCluster     = "SLIPWAY_ETCD_CLUSTER"     // cp-1=https://10.1.0.11:2380[,...]       (control plane only)
	EnvEtcdHeartbeat   = "SLIPWAY_ETCD_HEARTBEAT"   // milliseconds, only where the document says it  (control plane only)
	EnvEtcdElection    = "SLIPWAY_ETCD_ELECTION"    // milliseconds, likewise
	EnvAPIServerCount  = "SLIPWAY_API_SERVER_COUNT" // 1                                       (control plane only)
	EnvServiceAccounts = "SLIPWAY_SERVICE_ACCOUNTS" // issuer URL: https://kubernetes.default.svc.cluster.local
)

// Routes of the boot server, below its base URL (http://10.1.0.1:8080).
const (
	// RouteArtifacts + file name serves finished artifacts (GET, HEAD, Range, ETag): to firmware, and over TLS to the agent.
	RouteArtifacts = "/artifacts/"
	// RouteConfig is where agents of earlier versions ask for their configuration, without TLS. They are refused, with the reason.
	RouteConfig = "/v1/config"
	// RouteReport takes a node's Report (POST, JSON).
	RouteReport = "/v1/report"
	// RouteNodes serves the node states (GET, JSON) for `slipway status`.
	RouteNodes = "/v1/nodes"
	// RouteWarnings serves what an operator should know now (GET, JSON) for `slipway status`.
	RouteWarnings = "/v1/warnings"
	// RouteHealth answers 200 when the server is ready (GET).
	RouteHealth = "/healthz"
)

// HeaderInstall with the value InstallAgain, in the answer of RouteClaim, has a node install itself over its own earlier
// installation.
const (
	HeaderInstall = "Slipway-Install"
	InstallAgain  = "again"
)

// DHCP.
const (
	// VendorClass is the agent's option 60. The server answers it with the base URL of its HTTP server in option 67.
	VendorClass = "slipway-agent"
	// OptionServers is the code in its option 43 of the answer (RFC 2132 section 8.4) that lists further boot servers of the site: MaxServers
	// IPv4 addresses at most. Each serves the same, at the same ports.
	OptionServers = 1
	MaxServers    = 8
	// DefaultHTTPPort is where the boot server's HTTP listens unless told otherwise.
	DefaultHTTPPort = 8080
)

// SystemdTargets by role: slipway-control-plane.target, slipway-worker.target.
func SystemdTarget(role string) string { return "slipway-" + role + ".target" }

// ArtifactBase is the file name of an artifact without its extension: slipway-ROLE-VERSION-ARCH.
func ArtifactBase(role, version, arch string) string {
	return "slipway-" + role + "-" + version + "-" + arch
}

// Extensions of artifacts.
const (
	ExtInventory = ".files.json" // list of files
	ExtConfig    = ".config"     // the kernel's configuration
	ExtUKI       = ".efi"        // unified kernel image
	ExtRoot      = ".root"       // squashfs + dm-verity tree
	ExtKernel    = ".vmlinuz"
	ExtInitrd    = ".initrd"
	ExtCmdline   = ".cmdline"
	ExtBIOS      = ".kpxe"       // iPXE for legacy BIOS
	ExtSBOM      = ".spdx.json"  // bill of materials
	ExtProof     = ".proof.json" // proof that nothing is missing
	ExtPlan      = ".plan.json"  // the plan it was baked from
	ExtManifest  = ".json"
)
