package cluster

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/document"
)

func (k *check) networks(c *Cluster) {
	if len(c.Networks) == 0 {
		k.fault("networks", "write at least mgmt: {cidr: 10.1.0.0/24}", "no network")
	}
	byRole := map[string]string{}
	for _, name := range c.networkNames() {
		n, path := c.Networks[name], document.Key("networks", name)
		k.label(path, name)
		if k.prefix(path+".cidr", n.CIDR, "10.1.0.0/24") && n.Gateway.IsValid() {
			k.host(path+".gateway", n.Gateway, n.CIDR, "network "+name)
		}
		k.vlan(path+".vlan", n.VLAN)
		k.mtu(path+".mtu", n.MTU)
		k.network6(n, path)
		k.networkPool(c, name, path)
		for i, a := range n.DNS {
			k.address(document.Index(path+".dns", i), a)
		}
		for i, d := range n.Domains {
			if !isDomain(d) {
				k.fault(document.Index(path+".domains", i), "write it like example.com", "%q is not a DNS name", d)
			}
		}
		if n.Role == "" {
			continue
		}
		k.oneOf(path+".role", "role of a network", n.Role, networkRoles())
		if other, ok := byRole[n.Role]; ok && (n.Role == NetworkManagement || n.Role == NetworkContainer) {
			k.fault(path+".role", "only one network can be it", "network %s is %s already", other, n.Role)
		}
		byRole[n.Role] = name
	}
}

func (k *check) vlan(path string, id int) {
	if id < 0 || id > 4094 {
		k.fault(path, "use 1 to 4094, IEEE 802.1Q", "%d is not a VLAN tag", id)
	}
}

func (k *check) mtu(path string, mtu int) {
	if mtu != 0 && (mtu < 576 || mtu > 9216) {
		k.fault(path, "use 576 to 9216 bytes, and what the switches carry", "%d is no usable MTU", mtu)
	}
}

// taken remembers who has a name, MAC address or address.
type taken map[string]string

// nodes checks each node, and that they don't share what is one node's.
func (k *check) nodes(c *Cluster) {
	names, macs, addresses, uuids := taken{}, taken{}, taken{}, taken{}
	if s := c.Provisioning.Server; s.IsValid() {
		addresses[s.String()] = "provisioning.server"
	}
	for i, s := range c.Provisioning.Subnets {
		if s.Server.IsValid() {
			k.unique(addresses, "address", s.Server.String(), document.Index("provisioning.subnets", i)+".server")
		}
	}
	for _, name := range c.networkNames() {
		if g := c.Networks[name].Gateway; g.IsValid() && addresses[g.String()] == "" {
			addresses[g.String()] = document.Key(document.Key("networks", name), "gateway")
		}
	}
	if v := c.Kubernetes.VirtualAddress; v.IsValid() {
		k.unique(addresses, "address", v.String(), virtualAddress)
	}
	for i := range c.Nodes {
		n, path := &c.Nodes[i], document.Index("nodes", i)
		k.label(path+".name", n.Name)
		if n.Name == "localhost" {
			k.fault(path+".name", "choose another", "every machine calls itself localhost")
		}
		k.unique(names, "name", n.Name, path+".name")
		k.oneOf(path+".role", "role", n.Role, []string{RoleControlPlane, RoleWorker})
		k.match(n, path, macs, uuids)
		k.links(c, n, path, macs, addresses)
		k.reach(c, n, path)
		k.labels(n, path)
		k.storage(path+".storage", n.Storage, false)
		k.install(path+".install", n.Install, false)
		k.bmc(path+".bmc", n.BMC, c.BMC.Credentials)
	}
}

// unique reports a value that is another's already.
func (k *check) unique(t taken, what, value, path string) {
	if value == "" {
		return
	}
	if first, ok := t[value]; ok {
		k.fault(path, "each needs its own", "%s %s is also that of %s in line %d", what, value, first, k.line(first))
		return
	}
	t[value] = path
}

func (k *check) match(n *Node, path string, macs, uuids taken) {
	if n.Match.UUID != "" && !uuid.MatchString(n.Match.UUID) {
		k.fault(path+".match.uuid", "write it like 4c4c4544-0042-3010-8051-b4c04f4e3132", "%q is not a UUID", n.Match.UUID)
	}
	k.unique(uuids, "UUID", strings.ToLower(n.Match.UUID), path+".match.uuid")
	if mac := n.Match.MAC; mac != "" && !slices.ContainsFunc(n.Links, func(l Link) bool { return l.MAC == mac }) {
		k.unique(macs, "MAC address", string(mac), path+".match.mac")
	}
}

// reach checks that a node has the addresses that others reach it at, and something to be known by when it boots.
func (k *check) reach(c *Cluster, n *Node, path string) {
	mgmt, container := c.Management(), c.Container()
	if mgmt == "" || k.faulty(path+".links") || k.faulty(path+".match") {
		return
	}
	example := fmt.Sprintf("add a link with network: %s and an address", mgmt)
	if !n.Address(mgmt).IsValid() {
		k.fault(path, example, "%s has no address on the management network %s", orNode(n), mgmt)
	} else if c.BootMAC(n) == "" {
		k.fault(path, "add match: {mac: ...}", "%s has no MAC address to be known by", orNode(n))
	}
	if container != mgmt && !n.Address(container).IsValid() {
		k.fault(path, fmt.Sprintf("add a link with network: %s and an address", container), "%s has no address on the container network %s", orNode(n), container)
	}
}

func orNode(n *Node) string {
	if n.Name == "" {
		return "the node"
	}
	return n.Name
}

func (k *check) labels(n *Node, path string) {
	for _, key := range slices.Sorted(maps.Keys(n.Labels)) {
		at := document.Key(path+".labels", key)
		if !isLabelKey(key) {
			k.fault(at, "write it like rack or example.com/rack", "%q is not a label's key", key)
			continue
		}
		if !isLabelValue(n.Labels[key]) {
			k.fault(at, "up to 63 letters, digits, . _ and -", "%q is not a label's value", n.Labels[key])
		}
		if prefix, _, ok := strings.Cut(key, "/"); ok && restricted(prefix) {
			k.fault(at, "use a domain of your own, like example.com/rack", "%s is Kubernetes' own, a node may not set it", key)
		}
	}
}

// restricted says whether the API server refuses labels with this prefix from a kubelet (admission plugin
// NodeRestriction). Some of kubernetes.io are allowed.
func restricted(prefix string) bool {
	if prefix == "node.kubernetes.io" || strings.HasSuffix(prefix, ".node.kubernetes.io") || prefix == "kubelet.kubernetes.io" || prefix == "topology.kubernetes.io" {
		return false
	}
	return prefix == "kubernetes.io" || prefix == "k8s.io" || strings.HasSuffix(prefix, ".kubernetes.io") || strings.HasSuffix(prefix, ".k8s.io")
}

func (k *check) controlPlanes(c *Cluster) {
	count := len(c.ControlPlanes())
	switch {
	case len(c.Nodes) == 0:
		k.fault("nodes", "write at least one node with role: control-plane", "no node")
	case count == 0:
		k.fault("nodes", "give 1, 3 or 5 of them role: control-plane", "no node is a control plane")
	case count%2 == 0:
		hint := fmt.Sprintf("use %d or %d: etcd needs more than half, so %d survive the loss of no more machines than %d", count-1, count+1, count, count-1)
		k.fault("nodes", hint, "%d control planes is an even number", count)
	case count > 7:
		k.fault("nodes", "use 3 or 5: each member makes every write slower", "%d control planes are more than etcd is made for", count)
	}
	if e, err := netip.ParseAddr(c.Kubernetes.Endpoint.Host); err == nil {
		for _, n := range c.Nodes {
			if n.Role == RoleWorker && n.Address(c.Management()) == e {
				k.fault("kubernetes.endpoint", "use an address that reaches a control plane", "%s is the worker %s", e, n.Name)
			}
		}
	}
}
