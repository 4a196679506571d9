// Package cluster is the cluster document: which machines become which nodes, on which networks, and what the cluster
// they form is like. It owns the document's shape, its defaults and its validation.
//
// Words: the management network is where the nodes' own addresses lie (etcd, API servers and kubelets talk there); the
// container network carries pod traffic between nodes, and is the management network when the document has no other;
// the provisioning subnet is where machines boot from, and part of a network.
//
// It knows no secrets (builder/pki), makes no files of a node (builder/nodeconfig) and answers no machine
// (builder/netboot). A Cluster that Parse returned is valid; the helpers lean on that.
package cluster

import (
	"net/netip"
	"slices"
)

// Version and Kind are what a cluster document says about itself.
const (
	Version = "slipway.dev/v1alpha1"
	Kind    = "Cluster"
)

// Roles of nodes.
const (
	RoleControlPlane = "control-plane"
	RoleWorker       = "worker"
)

// Roles of networks. A network without one is attached to nodes and nothing more.
const (
	NetworkManagement = "mgmt"
	NetworkContainer  = "container"
	NetworkStorage    = "storage"
	NetworkExternal   = "external"
)

// What the boot server does with machines that aren't in the document.
const (
	UnknownIgnore = "ignore" // no answer, no trace but in the debug log
	UnknownList   = "list"   // no answer, but they are listed
	UnknownOffer  = "offer"  // an address from the pool and nothing to boot, and they are listed
	// UnknownDiscover: an address from the pool and an image that tells the boot server what hardware they have.
	UnknownDiscover = "discover"
)

// Cluster is a cluster document.
type Cluster struct {
	APIVersion   string             `yaml:"apiVersion"`
	Kind         string             `yaml:"kind"`
	Metadata     Metadata           `yaml:"metadata"`
	Image        Image              `yaml:"image"`
	Kubernetes   Kubernetes         `yaml:"kubernetes"`
	Etcd         Etcd               `yaml:"etcd"`
	Provisioning Provisioning       `yaml:"provisioning"`
	Networks     map[string]Network `yaml:"networks"`
	DNS          []netip.Addr       `yaml:"dns"` // servers for all nodes, before those of their networks
	NTP          []string           `yaml:"ntp"` // time servers, names or addresses
	// Ignition are files of the user's own Ignition configuration, merged into that of every node. Their paths are
	// relative to the document and stay in its folder.
	Ignition []string `yaml:"ignition"`
	// Storage and Install count for all nodes that have none of their own.
	Storage *Storage `yaml:"storage"`
	Install *Install `yaml:"install"`
	BMC     BMCs     `yaml:"bmc"`
	Nodes   []Node   `yaml:"nodes"`

	snippets    map[string][]byte // content of Ignition files by path
	bucketFiles map[string][]byte // content of files that buckets name, by path
}

// Metadata names the cluster.
type Metadata struct {
	Name string `yaml:"name"` // a DNS label
}

// Image chooses what nodes boot.
type Image struct {
	Version string `yaml:"version"` // semantic version; empty: the newest the boot server has
}

// Kubernetes is what the cluster is like inside.
type Kubernetes struct {
	PodCIDR     netip.Prefix `yaml:"podCIDR"`     // default 10.244.0.0/16; each node gets a /24 of it
	ServiceCIDR netip.Prefix `yaml:"serviceCIDR"` // default 10.96.0.0/16
	// Endpoint is how clients reach the API: an address or a name, with a port unless it is 6443. Default: the virtual
	// address, or without one the first control plane's address.
	Endpoint Endpoint `yaml:"endpoint"`
	// VirtualAddress is an address on the management network that one of the control planes holds at a time. Without it
	// the endpoint is someone else's (a balancer outside).
	VirtualAddress netip.Addr `yaml:"virtualAddress"`
	ClusterDomain  string     `yaml:"clusterDomain"` // default cluster.local
}

// Provisioning is how machines boot.
type Provisioning struct {
	Subnet          netip.Prefix `yaml:"subnet"` // default: the management network
	Server          netip.Addr   `yaml:"server"` // the boot server's address in it
	Pool            Range        `yaml:"pool"`   // for machines without a reserved address; may be empty
	HTTPPort        int          `yaml:"httpPort"`
	TFTPSinglePort  bool         `yaml:"tftpSinglePort"`  // all of TFTP over port 69, for networks that let no other port through
	UnknownMachines string       `yaml:"unknownMachines"` // default list
	Claims          Claims       `yaml:"claims"`
	Subnets         []Subnet     `yaml:"subnets"` // where machines boot besides
	// Server6 is the boot server's IPv6 address: with it machines boot over IPv6 too. See ipv6.go.
	Server6              netip.Addr   `yaml:"server6"`
	Subnet6              netip.Prefix `yaml:"subnet6"`              // default: cidr6 of the network that subnet is in
	RouterAdvertisements bool         `yaml:"routerAdvertisements"` // default: where that network has no gateway6
}

// Claims is when a node's configuration is given out again.
type Claims struct {
	Policy string `yaml:"policy"` // default same-machine
	TPM    string `yaml:"tpm"`    // default use
}

// Policies of claims.
const (
	ClaimsSameMachine = "same-machine" // to the machine that shows the same MAC address, UUID and serial number as at first
	ClaimsOnce        = "once"         // to nobody, until an operator arms the node again
)

// What TPMs mean for claims.
const (
	TPMUse      = "use"      // a machine that has one is bound to it
	TPMRequired = "required" // a machine without one gets nothing
	TPMIgnore   = "ignore"   // none is asked for
)

// Network is one layer-2 network of the rack.
type Network struct {
	CIDR    netip.Prefix `yaml:"cidr"`
	Gateway netip.Addr   `yaml:"gateway"`
	VLAN    int          `yaml:"vlan"` // 802.1Q tag, 1..4094; 0: none
	MTU     int          `yaml:"mtu"`  // bytes; 0: leave as it is
	DNS     []netip.Addr `yaml:"dns"`
	Domains []string     `yaml:"domains"` // search domains
	Role    string       `yaml:"role"`    // default: the network's name if it is a role's
	// Pool is where nodes' addresses come from that the document doesn't say: `slipway net assign` gives each one of its own.
	Pool     Range        `yaml:"pool"`
	CIDR6    netip.Prefix `yaml:"cidr6"`
	Gateway6 netip.Addr   `yaml:"gateway6"` // may be link-local
	Routes   []Route      `yaml:"routes"`
}

// Route leads to more through a network.
type Route struct {
	To     netip.Prefix `yaml:"to"`
	Via    netip.Addr   `yaml:"via"`    // in the network
	Metric int          `yaml:"metric"` // 0: the kernel's default
}

// Node is one machine and what it becomes.
type Node struct {
	Name     string            `yaml:"name"` // a DNS label; the host name and the Kubernetes node name
	Role     string            `yaml:"role"`
	Match    Match             `yaml:"match"`
	Links    []Link            `yaml:"links"`
	Labels   map[string]string `yaml:"labels"`
	Taints   []Taint           `yaml:"taints"`
	Ignition []string          `yaml:"ignition"` // like Cluster.Ignition, for this node, merged after it
	Storage  *Storage          `yaml:"storage"`  // instead of Cluster.Storage
	Install  *Install          `yaml:"install"`  // instead of Cluster.Install
	BMC      *BMC              `yaml:"bmc"`      // nil: nobody can switch the machine from afar
}

// Match tells a machine from others.
type Match struct {
	MAC    MAC    `yaml:"mac"`    // of the interface it boots from; default: that of its management link
	UUID   string `yaml:"uuid"`   // SMBIOS system UUID, checked besides the MAC address
	Serial string `yaml:"serial"` // SMBIOS system serial number, checked besides the MAC address
}

// Link is a network interface of a node: a physical one (mac, driver, pci), a VLAN on another (parent), a bond or a bridge
// of others (members). A physical link or a bond on a network with a VLAN tag stands for two kernel links, itself and
// NAME.TAG with the addresses, unless it is untagged.
type Link struct {
	Name     string     `yaml:"name"`     // 1..15 bytes
	Kind     string     `yaml:"kind"`     // default by the other fields: physical, vlan, bond; a bridge says so
	MAC      MAC        `yaml:"mac"`      // physical: its MAC address, driver and place must be as far as they are given
	Driver   string     `yaml:"driver"`   // physical: virtio_net
	PCI      string     `yaml:"pci"`      // physical: 0000:00:03.0
	Parent   string     `yaml:"parent"`   // vlan: name of the link it is on
	VLAN     int        `yaml:"vlan"`     // vlan: the tag; default: that of its network
	Untagged bool       `yaml:"untagged"` // physical, bond: the switch takes the network's tag off
	Network  string     `yaml:"network"`  // may be empty for a link that only carries others
	Address  netip.Addr `yaml:"address"`  // default: one of its network's pool
	Address6 netip.Addr `yaml:"address6"` // in the network's cidr6
	SLAAC    bool       `yaml:"slaac"`    // IPv6 addresses and routes as routers advertise them
	DHCP     bool       `yaml:"dhcp"`
	MTU      int        `yaml:"mtu"`     // bytes; default: that of its network
	Members  []string   `yaml:"members"` // bond, bridge: names of links
	Bond     *Bond      `yaml:"bond"`
}

// Bond is a link aggregation, as in bootspec.Bond.
type Bond struct {
	Mode   string `yaml:"mode"`
	MIIMon int    `yaml:"miimon"` // milliseconds
	LACP   string `yaml:"lacp"`
	Hash   string `yaml:"hash"`
}

// Management is the name of the management network.
func (c *Cluster) Management() string {
	if name := c.networkWithRole(NetworkManagement); name != "" {
		return name
	}
	for _, name := range c.networkNames() {
		cidr := c.Networks[name].CIDR
		if c.Provisioning.Subnet.IsValid() && cidr.IsValid() && cidr.Overlaps(c.Provisioning.Subnet) {
			return name
		}
	}
	return ""
}

// Container is the name of the network that pod traffic between nodes takes.
func (c *Cluster) Container() string {
	if name := c.networkWithRole(NetworkContainer); name != "" {
		return name
	}
	return c.Management()
}

func (c *Cluster) networkWithRole(role string) string {
	for _, name := range c.networkNames() {
		if c.Networks[name].Role == role {
			return name
		}
	}
	return ""
}

// Node is the node of that name.
func (c *Cluster) Node(name string) (*Node, bool) {
	for i := range c.Nodes {
		if c.Nodes[i].Name == name {
			return &c.Nodes[i], true
		}
	}
	return nil, false
}

// NodeByMAC is the node that boots from, or has a link with, that MAC address, in any of its written forms.
func (c *Cluster) NodeByMAC(address string) (*Node, bool) {
	mac, err := ParseMAC(address)
	if err != nil {
		return nil, false
	}
	for i := range c.Nodes {
		if c.Nodes[i].hasMAC(mac) {
			return &c.Nodes[i], true
		}
	}
	return nil, false
}

func (n *Node) hasMAC(mac MAC) bool {
	if n.Match.MAC == mac {
		return true
	}
	for _, l := range n.Links {
		if l.MAC == mac {
			return true
		}
	}
	return false
}

// ControlPlanes are the control-plane nodes in the document's order.
func (c *Cluster) ControlPlanes() []*Node {
	var nodes []*Node
	for i := range c.Nodes {
		if c.Nodes[i].Role == RoleControlPlane {
			nodes = append(nodes, &c.Nodes[i])
		}
	}
	return nodes
}

// Address is the node's first address on a network; the zero Addr when it has none.
func (n *Node) Address(network string) netip.Addr {
	for _, l := range n.Links {
		if l.Network == network && l.Address.IsValid() {
			return l.Address
		}
	}
	return netip.Addr{}
}

// NodeAddress is the node's address on the management network: etcd, the API server and kubelet use it.
func (c *Cluster) NodeAddress(n *Node) netip.Addr { return n.Address(c.Management()) }

// PodAddress is the node's address on the container network: pod traffic between nodes uses it.
func (c *Cluster) PodAddress(n *Node) netip.Addr { return n.Address(c.Container()) }

// BootAddress is the node's address in the subnet that it boots in, which the boot server leases to it; the zero Addr when
// it has none in any.
func (c *Cluster) BootAddress(n *Node) netip.Addr {
	if i := c.bootLink(n); i >= 0 {
		return n.Links[i].Address
	}
	return netip.Addr{}
}

// BootMAC is the MAC address of the interface a node boots from.
func (c *Cluster) BootMAC(n *Node) MAC {
	if n.Match.MAC != "" {
		return n.Match.MAC
	}
	mgmt := c.Management()
	if i := c.bootLink(n); i >= 0 && n.Links[i].Network != mgmt && !c.Provisioning.Subnet.Contains(n.Links[i].Address) {
		return n.physical(i).MAC
	}
	for i, l := range n.Links {
		if l.Network == mgmt && l.Address.IsValid() {
			return n.physical(i).MAC
		}
	}
	return ""
}

// physical is the link that carries link i, itself when it is physical; of a bond's or a bridge's the first member.
func (n *Node) physical(i int) Link {
	l := n.Links[i]
	for range n.Links {
		under := l.Parent
		if len(l.Members) > 0 {
			under = l.Members[0]
		}
		if j := n.link(under); j >= 0 {
			l = n.Links[j]
		}
	}
	return l
}

// link is the index of the link with that name, or -1.
func (n *Node) link(name string) int {
	return slices.IndexFunc(n.Links, func(l Link) bool { return l.Name == name })
}

// Endpoint is how clients reach the API: host and port.
func (c *Cluster) Endpoint() string {
	if c.Kubernetes.Endpoint.Host != "" {
		return c.Kubernetes.Endpoint.String()
	}
	return c.apiServer(c.ControlPlanes()[0])
}

// APIServers are all API servers as host and port, in the document's order.
func (c *Cluster) APIServers() []string {
	var list []string
	for _, n := range c.ControlPlanes() {
		list = append(list, c.apiServer(n))
	}
	return list
}

// apiServer is a control plane's own API server.
func (c *Cluster) apiServer(n *Node) string {
	return Endpoint{Host: c.NodeAddress(n).String(), Port: APIPort}.String()
}

// ServiceAddress is the n-th address of the service CIDR.
func (c *Cluster) ServiceAddress(n int) netip.Addr {
	a := c.Kubernetes.ServiceCIDR.Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// KubernetesService is the address of the Service `kubernetes` (the first of the service CIDR), ClusterDNS that of the
// cluster's DNS (the tenth, by custom).
func (c *Cluster) KubernetesService() netip.Addr { return c.ServiceAddress(1) }

// ClusterDNS is the address of the cluster's DNS.
func (c *Cluster) ClusterDNS() netip.Addr { return c.ServiceAddress(10) }

// Snippet is a file of the user's own Ignition configuration.
type Snippet struct {
	Path string
	Data []byte
}

// Snippets are the user's Ignition files for a node, in the order of merging.
func (c *Cluster) Snippets(n *Node) []Snippet {
	var s []Snippet
	for _, list := range [][]string{c.Ignition, n.Ignition} {
		for _, path := range list {
			s = append(s, Snippet{Path: path, Data: c.snippets[path]})
		}
	}
	return s
}
