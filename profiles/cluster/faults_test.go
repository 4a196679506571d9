package cluster_test

import (
	"strings"
	"testing"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// fault is the lab document with one thing made wrong (old replaced by new, once), and all that is said about it.
type fault struct{ name, old, new, want string }

func (f fault) document() string { return strings.Replace(string(cluster.Lab()), f.old, f.new, 1) }

// nodesOfLab is the end of the lab document.
var nodesOfLab = string(cluster.Lab()[strings.Index(string(cluster.Lab()), "nodes:\n"):])

// noCredentials is said besides of every controller.
const noCredentials = `lab.yaml:2:1: bmc.credentials: nodes have controllers, and nothing says how to get in (name a file with users and passwords: default: {user: ..., password: ...})`

var faults = []fault{
	{"wrong role", "role: worker", "role: master",
		`lab.yaml:27:11: nodes[1].role: unknown role "master" (one of: control-plane, worker)`},
	{"no role", "    role: worker\n", "",
		`lab.yaml:26:5: nodes[1].role: is missing (one of: control-plane, worker)`},
	{"role nearly right", "role: worker", "role: workr",
		`lab.yaml:27:11: nodes[1].role: unknown role "workr" (did you mean worker?)`},
	{"controller without a way", "  - name: worker-1\n", "  - name: worker-1\n    bmc: {system: x}\n",
		noCredentials + "\n" + `lab.yaml:27:10: nodes[1].bmc: a controller speaks Redfish or IPMI: one of them is named (write redfish: https://10.1.9.11, or ipmi: 10.1.9.11)`},
	{"controller with a password", "  - name: worker-1\n", "  - name: worker-1\n    bmc: {redfish: \"https://root:hunter2@10.1.9.1\"}\n",
		noCredentials + "\n" + `lab.yaml:27:20: nodes[1].bmc.redfish: "https://...@10.1.9.1" is not the address of a controller (write it like https://10.1.9.11; the password goes into the file that bmc.credentials names)`},
	{"controller of IPMI with what is Redfish's", "  - name: worker-1\n", "  - name: worker-1\n    bmc: {ipmi: 10.1.9.1, fingerprint: abc, cipherSuite: 1}\n",
		noCredentials + "\n" + `lab.yaml:27:10: nodes[1].bmc: they are for Redfish (leave system and fingerprint out)` + "\n" +
			`lab.yaml:27:40: nodes[1].bmc.fingerprint: "abc" is not a SHA-256 (write 64 hexadecimal digits, as ` + "`slipway power status`" + ` tells them)` + "\n" +
			`lab.yaml:27:58: nodes[1].bmc.cipherSuite: 1 is none that keeps a password safe (use 17, or 3 with old controllers)`},
	{"duplicate MAC of a link", `eth1, mac: "52:54:00:00:01:21"`, `eth1, mac: "52:54:00:00:01:11"`,
		`lab.yaml:31:27: nodes[1].links[1].mac: MAC address 52:54:00:00:01:11 is also that of nodes[0].links[1].mac in line 25 (each needs its own)`},
	{"duplicate MAC in match", `match: {mac: "52:54:00:00:00:21"}`, `match: {mac: "52:54:00:00:00:11"}`,
		`lab.yaml:28:18: nodes[1].match.mac: MAC address 52:54:00:00:00:11 is also that of nodes[0].links[0].mac in line 24 (each needs its own)`},
	{"bad MAC", `{mac: "52:54:00:00:00:21"}`, `{mac: "52:54:00:00:21"}`,
		`lab.yaml:28:18: nodes[1].match.mac: "52:54:00:00:21" is not a MAC address (write six bytes like 52:54:00:00:00:11)`},
	{"group MAC", `{mac: "52:54:00:00:00:21"}`, `{mac: "33:54:00:00:00:21"}`,
		`lab.yaml:28:18: nodes[1].match.mac: "33:54:00:00:00:21" is a group address, no machine has it (the first byte of a machine's MAC address is even)`},
	{"duplicate name", "name: worker-1", "name: cp-1",
		`lab.yaml:26:11: nodes[1].name: name cp-1 is also that of nodes[0].name in line 20 (each needs its own)`},
	{"bad name", "name: worker-1", "name: Worker_1",
		`lab.yaml:26:11: nodes[1].name: "Worker_1" is not a DNS label (use 1 to 63 of a-z, 0-9 and -, not - at either end)`},
	{"no name", "- name: worker-1\n    role: worker", "- role: worker",
		`lab.yaml:26:5: nodes[1].name: is missing (use 1 to 63 of a-z, 0-9 and -, not - at either end)`},
	{"duplicate address", "address: 10.1.0.21", "address: 10.1.0.11",
		`lab.yaml:30:72: nodes[1].links[0].address: address 10.1.0.11 is also that of nodes[0].links[0].address in line 24 (each needs its own)`},
	{"server's address", "address: 10.1.0.21", "address: 10.1.0.1",
		`lab.yaml:30:72: nodes[1].links[0].address: address 10.1.0.1 is also that of provisioning.server in line 12 (each needs its own)`},
	{"address outside its network", "address: 10.1.0.21", "address: 10.2.0.21",
		`lab.yaml:30:72: nodes[1].links[0].address: 10.2.0.21 is not in network mgmt (10.1.0.0/24) (use an address from 10.1.0.1 to 10.1.0.254)`},
	{"broadcast address", "address: 10.1.0.21", "address: 10.1.0.255",
		`lab.yaml:30:72: nodes[1].links[0].address: 10.1.0.255 is the network's own or its broadcast address (use an address from 10.1.0.1 to 10.1.0.254)`},
	{"not an address", "address: 10.1.0.21", "address: 10.1.0.300",
		`lab.yaml:30:72: nodes[1].links[0].address: "10.1.0.300" is not an IP address (write it like 10.1.0.11)`},
	{"no management address", `{name: eth0, mac: "52:54:00:00:00:21", network: mgmt, address: 10.1.0.21}`, `{name: eth0, mac: "52:54:00:00:00:21", network: mgmt, dhcp: true}`,
		`lab.yaml:26:5: nodes[1]: worker-1 has no address on the management network mgmt (add a link with network: mgmt and an address)`},
	{"no container address", `{name: eth1, mac: "52:54:00:00:01:21", network: container, address: 172.16.1.21}`, `{name: eth1, mac: "52:54:00:00:01:21"}`,
		`lab.yaml:26:5: nodes[1]: worker-1 has no address on the container network container (add a link with network: container and an address)`},
	{"no such network", "network: container, address: 172.16.1.21", "network: contaner, address: 172.16.1.21",
		`lab.yaml:31:57: nodes[1].links[1].network: no network is called "contaner" (did you mean container?)`},
	{"address without network", "network: container, address: 172.16.1.21", "address: 172.16.1.21",
		`lab.yaml:31:9: nodes[1].links[1].network: is missing (name the network that the address is in)`},
	{"pods overlap services", "podCIDR: 10.244.0.0/16", "podCIDR: 10.96.0.0/12",
		`lab.yaml:8:16: kubernetes.serviceCIDR: 10.96.0.0/16 overlaps podCIDR (10.96.0.0/12) (pods, services and each network need addresses of their own)`},
	{"services overlap a network", "serviceCIDR: 10.96.0.0/16", "serviceCIDR: 172.16.0.0/16",
		`lab.yaml:17:21: networks.container.cidr: 172.16.1.0/24 overlaps serviceCIDR (172.16.0.0/16) (pods, services and each network need addresses of their own)`},
	{"networks overlap", "container: {cidr: 172.16.1.0/24}", "container: {cidr: 10.1.0.128/25}",
		`lab.yaml:16:16: networks.mgmt.cidr: 10.1.0.0/24 overlaps network container (10.1.0.128/25) (pods, services and each network need addresses of their own)` + "\n" +
			`lab.yaml:25:77: nodes[0].links[1].address: 172.16.1.11 is not in network container (10.1.0.128/25) (use an address from 10.1.0.129 to 10.1.0.254)` + "\n" +
			`lab.yaml:31:77: nodes[1].links[1].address: 172.16.1.21 is not in network container (10.1.0.128/25) (use an address from 10.1.0.129 to 10.1.0.254)`},
	{"pods too few", "podCIDR: 10.244.0.0/16", "podCIDR: 10.244.0.0/24",
		`lab.yaml:7:12: kubernetes.podCIDR: 10.244.0.0/24 is too small for 2 nodes (each node takes a /24 of it; make it larger)`},
	{"services too many", "serviceCIDR: 10.96.0.0/16", "serviceCIDR: 96.0.0.0/8",
		`lab.yaml:8:16: kubernetes.serviceCIDR: 96.0.0.0/8 is too large or too small (Kubernetes takes /12 to /24)`},
	{"host bits", "podCIDR: 10.244.0.0/16", "podCIDR: 10.244.1.0/16",
		`lab.yaml:7:12: kubernetes.podCIDR: 10.244.1.0/16 has bits set beyond its length (write 10.244.0.0/16)`},
	{"IPv6", "podCIDR: 10.244.0.0/16", "podCIDR: fd00::/48",
		`lab.yaml:7:12: kubernetes.podCIDR: fd00::/48 is IPv6, which is not supported yet (use IPv4 for now, like 10.244.0.0/16)`},
	{"endpoint", "  serviceCIDR", "  endpoint: 10.1.0.300\n  serviceCIDR",
		`lab.yaml:8:13: kubernetes.endpoint: "10.1.0.300" is neither an address nor a DNS name (write an address or a name, like 10.1.0.5 or api.example.com:6443)`},
	{"endpoint is a worker", "  serviceCIDR", "  endpoint: 10.1.0.21\n  serviceCIDR",
		`lab.yaml:8:13: kubernetes.endpoint: 10.1.0.21 is the worker worker-1 (use an address that reaches a control plane)`},
	{"virtual address outside the network", "  serviceCIDR", "  virtualAddress: 172.16.1.5\n  serviceCIDR",
		`lab.yaml:8:19: kubernetes.virtualAddress: 172.16.1.5 is not in the management network mgmt (10.1.0.0/24) (use an address from 10.1.0.1 to 10.1.0.254)`},
	{"virtual address is the broadcast address", "  serviceCIDR", "  virtualAddress: 10.1.0.255\n  serviceCIDR",
		`lab.yaml:8:19: kubernetes.virtualAddress: 10.1.0.255 is the network's own or its broadcast address (use an address from 10.1.0.1 to 10.1.0.254)`},
	{"virtual address is no address", "  serviceCIDR", "  virtualAddress: api.example.com\n  serviceCIDR",
		`lab.yaml:8:19: kubernetes.virtualAddress: "api.example.com" is not an IP address (write it like 10.1.0.11)`},
	{"virtual address is a control plane's", "  serviceCIDR", "  virtualAddress: 10.1.0.11\n  serviceCIDR",
		`lab.yaml:25:72: nodes[0].links[0].address: address 10.1.0.11 is also that of kubernetes.virtualAddress in line 8 (each needs its own)`},
	{"virtual address is the server's", "  serviceCIDR", "  virtualAddress: 10.1.0.1\n  serviceCIDR",
		`lab.yaml:8:19: kubernetes.virtualAddress: address 10.1.0.1 is also that of provisioning.server in line 13 (each needs its own)`},
	{"virtual address in the pool", "  serviceCIDR", "  virtualAddress: 10.1.0.105\n  serviceCIDR",
		`lab.yaml:14:9: provisioning.pool: the pool 10.1.0.100-10.1.0.199 contains the virtual address 10.1.0.105 (end the pool before it, or begin it after it)`},
	{"virtual address and another endpoint", "  serviceCIDR", "  virtualAddress: 10.1.0.5\n  endpoint: 10.1.0.6\n  serviceCIDR",
		`lab.yaml:9:13: kubernetes.endpoint: 10.1.0.6 is not the virtual address 10.1.0.5, and nothing would hold it (leave it out, or write 10.1.0.5)`},
	{"cluster domain", "  serviceCIDR", "  clusterDomain: Cluster.Local\n  serviceCIDR",
		`lab.yaml:8:18: kubernetes.clusterDomain: "Cluster.Local" is not a DNS name (write it like cluster.local)`},
	{"server outside subnet", "server: 10.1.0.1 ", "server: 10.9.0.1 ",
		`lab.yaml:12:11: provisioning.server: 10.9.0.1 is not in the provisioning subnet (10.1.0.0/24) (use an address from 10.1.0.1 to 10.1.0.254)`},
	{"no server", "  server: 10.1.0.1               # this machine, on the rack's network\n", "",
		`lab.yaml:10:1: provisioning.server: is missing (the boot server's own address in 10.1.0.0/24)`},
	{"pool with the server", "pool: 10.1.0.100-10.1.0.199", "pool: 10.1.0.1-10.1.0.10",
		`lab.yaml:13:9: provisioning.pool: the pool 10.1.0.1-10.1.0.10 contains the server's address 10.1.0.1 (end the pool before it, or begin it after it)`},
	{"pool with a node", "pool: 10.1.0.100-10.1.0.199", "pool: 10.1.0.20-10.1.0.30",
		`lab.yaml:13:9: provisioning.pool: the pool 10.1.0.20-10.1.0.30 contains worker-1's address 10.1.0.21 (end the pool before it, or begin it after it)`},
	{"pool outside subnet", "pool: 10.1.0.100-10.1.0.199", "pool: 10.1.0.100-10.1.1.20",
		`lab.yaml:13:9: provisioning.pool: 10.1.1.20 is not in the provisioning subnet (10.1.0.0/24) (use an address from 10.1.0.1 to 10.1.0.254)`},
	{"pool backwards", "pool: 10.1.0.100-10.1.0.199", "pool: 10.1.0.199-10.1.0.100",
		`lab.yaml:13:9: provisioning.pool: the range 10.1.0.199-10.1.0.100 ends before it begins (write it like 10.1.0.100-10.1.0.199)`},
	{"pool is no range", "pool: 10.1.0.100-10.1.0.199", "pool: 10.1.0.100",
		`lab.yaml:13:9: provisioning.pool: "10.1.0.100" is not a range of addresses (write it like 10.1.0.100-10.1.0.199)`},
	{"TFTP's port", "  pool:", "  tftpSinglePort: 69\n  pool:",
		`lab.yaml:13:19: provisioning.tftpSinglePort: is the number 69, not a truth value (true or false)`},
	{"port", "  pool:", "  httpPort: 80800\n  pool:",
		`lab.yaml:13:13: provisioning.httpPort: 80800 is not a port (use 1 to 65535)`},
	{"unknown machines", "  pool:", "  unknownMachines: serve\n  pool:",
		`lab.yaml:13:20: provisioning.unknownMachines: unknown treatment "serve" (one of: discover, ignore, list, offer)`},
	{"provisioning in no network", "  subnet: 10.1.0.0/24\n  server: 10.1.0.1 ", "  subnet: 10.7.0.0/24\n  server: 10.7.0.1 ",
		`lab.yaml:11:11: provisioning.subnet: 10.7.0.0/24 is in none of the networks (use the CIDR of the network that machines boot on)` + "\n" +
			`lab.yaml:13:9: provisioning.pool: 10.1.0.100 is not in the provisioning subnet (10.7.0.0/24) (use an address from 10.7.0.1 to 10.7.0.254)`},
	{"no control plane", "role: control-plane", "role: worker",
		`lab.yaml:19:1: nodes: no node is a control plane (give 1, 3 or 5 of them role: control-plane)`},
	{"two control planes", "role: worker", "role: control-plane",
		`lab.yaml:19:1: nodes: 2 control planes is an even number (use 1 or 3: etcd needs more than half, so 2 survive the loss of no more machines than 1)`},
	{"no nodes", nodesOfLab, "",
		`lab.yaml:2:1: nodes: no node (write at least one node with role: control-plane)`},
	{"unknown field", "    role: worker", "    rolle: worker",
		`lab.yaml:26:5: nodes[1].role: is missing (one of: control-plane, worker)` + "\n" +
			`lab.yaml:27:5: nodes[1].rolle: unknown field (did you mean role?)`},
	{"unknown field at the top", "metadata:", "version: 3\nmetadata:",
		`lab.yaml:4:1: version: unknown field (known fields: apiVersion, bmc, dns, etcd, ignition, image, install, kind, kubernetes, metadata, networks, nodes, ntp, provisioning, storage)`},
	{"duplicate key", "    role: worker", "    role: worker\n    role: worker",
		`lab.yaml:28:5: nodes[1].role: is set twice, first in line 27 (remove one of them)`},
	{"VLAN range", "container: {cidr: 172.16.1.0/24}", "container: {cidr: 172.16.1.0/24, vlan: 4095}",
		`lab.yaml:17:42: networks.container.vlan: 4095 is not a VLAN tag (use 1 to 4094, IEEE 802.1Q)`},
	{"VLAN on a physical link", "network: container, address: 172.16.1.21", "network: container, address: 172.16.1.21, vlan: 7",
		`lab.yaml:31:96: nodes[1].links[1].vlan: a physical link has no tag of its own (set vlan on the network, or make a link with parent: eth1)`},
	{"VLAN without tag", `mac: "52:54:00:00:01:21", network`, "parent: eth0, network",
		`lab.yaml:31:9: nodes[1].links[1].vlan: the VLAN has no tag (set it here or on the network)`},
	{"VLAN without parent", `mac: "52:54:00:00:01:21", network`, "kind: vlan, vlan: 7, network",
		`lab.yaml:31:9: nodes[1].links[1].parent: is missing (name the link it is on)`},
	{"VLAN on a link that isn't there", `mac: "52:54:00:00:01:21", network`, "parent: eth9, vlan: 7, network",
		`lab.yaml:31:30: nodes[1].links[1].parent: worker-1 has no link "eth9"`},
	{"VLAN with a MAC", `{name: eth1, mac: "52:54:00:00:01:21"`, `{name: eth0.7, parent: eth0, vlan: 7, mac: "52:54:00:00:01:21"`,
		`lab.yaml:31:52: nodes[1].links[1].mac: a vlan link has no mac (remove it, or change kind: a physical link has one; others take that of what they are on)`},
	{"link's name too long", `{name: eth1, mac: "52:54:00:00:01:21"`, `{name: enp0s31f6container, mac: "52:54:00:00:01:21"`,
		`lab.yaml:31:16: nodes[1].links[1].name: "enp0s31f6container" is over the kernel's limit of 15 bytes for a link's name (use 1 to 15 of letters, digits, . _ and -, like eth0)`},
	{"link's name", `{name: eth1, mac: "52:54:00:00:01:21"`, `{name: eth/1, mac: "52:54:00:00:01:21"`,
		`lab.yaml:31:16: nodes[1].links[1].name: "eth/1" can't be a link's name (use 1 to 15 of letters, digits, . _ and -, like eth0)`},
	{"two links of one name", `{name: eth1, mac: "52:54:00:00:01:21"`, `{name: eth0, mac: "52:54:00:00:01:21"`,
		`lab.yaml:31:16: nodes[1].links[1].name: name eth0 is also that of nodes[1].links[0].name in line 30 (each needs its own)`},
	{"physical link without MAC", `{name: eth1, mac: "52:54:00:00:01:21"`, "{name: eth1",
		`lab.yaml:31:9: nodes[1].links[1].mac: is missing (a physical link is found by mac, driver or pci; a VLAN has parent:, a bond bond: and members:)`},
	{"MTU", "network: container, address: 172.16.1.21", "network: container, address: 172.16.1.21, mtu: 100",
		`lab.yaml:31:95: nodes[1].links[1].mtu: 100 is no usable MTU (use 576 to 9216 bytes, and what the switches carry)`},
	{"DHCP and address", "network: container, address: 172.16.1.21", "network: container, address: 172.16.1.21, dhcp: true",
		`lab.yaml:31:96: nodes[1].links[1].dhcp: the link has an address already (remove one of them)`},
	{"bond", `{name: eth1, mac: "52:54:00:00:01:21", network: container, address: 172.16.1.21}`, "{name: bond0, kind: bond, members: [eth1], network: container, address: 172.16.1.21}",
		"lab.yaml:31:9: nodes[1].links[1].bond: is missing (write it like bond: {mode: 802.3ad})\nlab.yaml:31:45: nodes[1].links[1].members[0]: worker-1 has no link \"eth1\""},
	{"bond's options", `{name: eth1, mac: "52:54:00:00:01:21", network: container, address: 172.16.1.21}`, `{name: eth1, mac: "52:54:00:00:01:21"}
      - {name: bond0, members: [eth1, eth1], bond: {mode: active-backup, lacp: fast, hash: layer2}, network: container, address: 172.16.1.21}`,
		`lab.yaml:32:39: nodes[1].links[2].members[1]: member eth1 is also that of nodes[1].links[2].members[0] in line 32 (each needs its own)
lab.yaml:32:80: nodes[1].links[2].bond.lacp: mode active-backup negotiates nothing (remove it, or use mode: 802.3ad)
lab.yaml:32:92: nodes[1].links[2].bond.hash: mode active-backup has no hash policy (remove it)`},
	{"bond of what has an address", `{name: eth1, mac: "52:54:00:00:01:21", network: container, address: 172.16.1.21}`, `{name: bond0, members: [eth0], bond: {mode: lacp}, network: container, address: 172.16.1.21}`,
		`lab.yaml:31:33: nodes[1].links[1].members[0]: eth0 has a network or addresses of its own (give network and addresses to bond0)
lab.yaml:31:53: nodes[1].links[1].bond.mode: unknown mode of a bond "lacp" (one of: 802.3ad, active-backup, balance-alb, balance-rr, balance-tlb, balance-xor, broadcast)`},
	{"bridges in a circle", `{name: eth1, mac: "52:54:00:00:01:21", network: container, address: 172.16.1.21}`, `{name: v0, parent: br0, vlan: 7}
      - {name: br0, kind: bridge, members: [v0], network: container, address: 172.16.1.21}`,
		`lab.yaml:31:9: nodes[1].links[1]: v0 is on itself (parents and members must end at physical links)`},
	{"physical link with a bond's fields", "network: container, address: 172.16.1.21", "network: container, address: 172.16.1.21, bond: {mode: 802.3ad}, kind: physical, pci: 3",
		`lab.yaml:31:96: nodes[1].links[1].bond: a physical link has no bond (remove it, or change kind: only a bond has options of one)
lab.yaml:31:134: nodes[1].links[1].pci: is the number 3, not text (put it in quotes: "3")`},
	{"IPv6 without a network of it", "network: container, address: 172.16.1.21", "network: container, address: 172.16.1.21, address6: 2001:db8::21", `lab.yaml:31:100: nodes[1].links[1].address6: the link's network has no IPv6 (set cidr6 on its network)`},
	{"IPv6 elsewhere", "container: {cidr: 172.16.1.0/24}", `container: {cidr: 172.16.1.0/24, cidr6: "2001:db8::1/64", gateway6: "2001:db9::1"}`, `lab.yaml:17:43: networks.container.cidr6: 2001:db8::1/64 has bits set beyond its length (write 2001:db8::/64)`},
	{"routes", "container: {cidr: 172.16.1.0/24}", `container: {cidr: 172.16.1.0/24, routes: [{to: 10.8.0.1/16, via: 172.16.2.1}, {to: 0.0.0.0/0, via: 172.16.1.1}, {to: "2001:db8::/32", via: 172.16.1.1, metric: -1}]}`, `lab.yaml:17:50: networks.container.routes[0].to: 10.8.0.1/16 has bits set beyond its length (write 10.8.0.0/16)
lab.yaml:17:68: networks.container.routes[0].via: 172.16.2.1 is not in 172.16.1.0/24 (use a router in the network)
lab.yaml:17:86: networks.container.routes[1].to: the default route is the gateway's (set gateway or gateway6)
lab.yaml:17:142: networks.container.routes[2].via: 172.16.1.1 can't lead to 2001:db8::/32 (use an address of the same kind)
lab.yaml:17:162: networks.container.routes[2].metric: -1 is not from 0 to 1048576 (less is preferred; gateways have 100 to 300)`},
	{"pool with the gateway", "gateway: 10.1.0.1}", "gateway: 10.1.0.1, pool: 10.1.0.1-10.1.0.120}", `lab.yaml:16:54: networks.mgmt.pool: the pool 10.1.0.1-10.1.0.120 contains the gateway 10.1.0.1 (end the pool before it, or begin it after it)
lab.yaml:16:54: networks.mgmt.pool: the pool 10.1.0.1-10.1.0.120 contains the boot server 10.1.0.1 (end the pool before it, or begin it after it)
lab.yaml:16:54: networks.mgmt.pool: it overlaps provisioning.pool 10.1.0.100-10.1.0.199 (keep them apart: provisioning.pool is for machines that are not in the document)`},
	{"link without address, and no pool", "network: container, address: 172.16.1.21", "network: container", `lab.yaml:26:5: nodes[1]: worker-1 has no address on the container network container (add a link with network: container and an address)`},
	{"kind of link", `{name: eth1, mac: "52:54:00:00:01:21"`, `{name: eth1, kind: wifi, mac: "52:54:00:00:01:21"`,
		`lab.yaml:31:28: nodes[1].links[1].kind: unknown kind of link "wifi" (one of: bond, bridge, physical, vlan)`},
	{"UUID", `match: {mac: "52:54:00:00:00:21"}`, `match: {mac: "52:54:00:00:00:21", uuid: 12}`,
		`lab.yaml:28:45: nodes[1].match.uuid: is the number 12, not text (put it in quotes: "12")`},
	{"gateway", "gateway: 10.1.0.1}", "gateway: 10.2.0.1}",
		`lab.yaml:16:38: networks.mgmt.gateway: 10.2.0.1 is not in network mgmt (10.1.0.0/24) (use an address from 10.1.0.1 to 10.1.0.254)`},
	{"role of a network", "container: {cidr: 172.16.1.0/24}", "container: {cidr: 172.16.1.0/24, role: pods}",
		`lab.yaml:17:42: networks.container.role: unknown role of a network "pods" (one of: container, external, mgmt, storage)`},
	{"two management networks", "gateway: 10.1.0.1}\n  container: {cidr: 172.16.1.0/24}", "role: mgmt}\n  container: {cidr: 172.16.1.0/24, role: mgmt}",
		`lab.yaml:16:35: networks.mgmt.role: network container is mgmt already (only one network can be it)`},
	{"search domain", "gateway: 10.1.0.1}", "gateway: 10.1.0.1, domains: [-a.example]}",
		`lab.yaml:16:58: networks.mgmt.domains[0]: "-a.example" is not a DNS name (write it like example.com)`},
	{"label", "    role: worker", "    labels: {rack/: a, kubernetes.io/role: b, rack: \"a b\"}\n    role: worker",
		`lab.yaml:27:21: nodes[1].labels["rack/"]: "rack/" is not a label's key (write it like rack or example.com/rack)` + "\n" +
			`lab.yaml:27:44: nodes[1].labels["kubernetes.io/role"]: kubernetes.io/role is Kubernetes' own, a node may not set it (use a domain of your own, like example.com/rack)` + "\n" +
			`lab.yaml:27:53: nodes[1].labels.rack: "a b" is not a label's value (up to 63 letters, digits, . _ and -)`},
	{"taint", "    role: worker", "    taints: [\"dedicated=db\", \"dedicated=db:Never\"]\n    role: worker",
		`lab.yaml:27:14: nodes[1].taints[0]: "dedicated=db" is not a taint (write it like dedicated=db:NoSchedule; effects are NoSchedule, PreferNoSchedule, NoExecute)` + "\n" +
			`lab.yaml:27:30: nodes[1].taints[1]: "Never" is not an effect of a taint (write it like dedicated=db:NoSchedule; effects are NoSchedule, PreferNoSchedule, NoExecute)`},
	{"image version", "kubernetes:", "image: {version: latest}\nkubernetes:",
		`lab.yaml:6:18: image.version: "latest" is not a semantic version (write it like 0.1.0)`},
	{"time server", "kubernetes:", "ntp: [10.1.0.1, \"ntp server\"]\nkubernetes:",
		`lab.yaml:6:17: ntp[1]: "ntp server" is neither an address nor a DNS name (write it like 10.1.0.1 or ntp.example.com)`},
	{"DNS server", "kubernetes:", "dns: [0.0.0.0]\nkubernetes:",
		`lab.yaml:6:7: dns[0]: 0.0.0.0 is no machine's address (use an address of one machine)`},
	{"cluster's name", "{name: lab}", "{name: lab.example}",
		`lab.yaml:4:18: metadata.name: "lab.example" is not a DNS label (use 1 to 63 of a-z, 0-9 and -, not - at either end)`},
	{"another version", "v1alpha1", "v9",
		`lab.yaml:2:13: apiVersion: "slipway.dev/v9" is not a version of the cluster document that this slipway reads (write apiVersion: slipway.dev/v1alpha1)`},
	{"another kind", "kind: Cluster", "kind: Image",
		`lab.yaml:3:7: kind: "Image" is not a cluster document (write kind: Cluster)`},
	{"no kind", "kind: Cluster\n", "",
		`lab.yaml:2:1: kind: is missing (write kind: Cluster)`},
	{"Ignition without a folder", "kubernetes:", "ignition: [a.ign]\nkubernetes:",
		`lab.yaml:6:12: ignition[0]: "a.ign" can't be read: the document has no folder (keep the cluster document in a file)`},
	{"install without a disk", "    role: worker", "    install: {}\n    role: worker",
		`lab.yaml:27:14: nodes[1].install.disk: is missing (write what chooses it, like disk: {serial: S3Z8NB0K} or disk: {smallest: true})`},
	{"install with an empty disk", "    role: worker", "    install: {disk: {}}\n    role: worker",
		`lab.yaml:27:21: nodes[1].install.disk: chooses no disk (write what chooses it, like disk: {serial: S3Z8NB0K} or disk: {smallest: true})`},
	{"size without a unit", "    role: worker", "    install: {disk: {minSize: 20000}}\n    role: worker",
		`lab.yaml:27:31: nodes[1].install.disk.minSize: "20000" is not a size (write it like 20GiB; units are MiB, GiB, TiB, MB, GB, TB)`},
	{"sizes crossed", "    role: worker", "    install: {disk: {minSize: 20GiB, maxSize: 20GB}}\n    role: worker",
		`lab.yaml:27:47: nodes[1].install.disk.maxSize: no disk is at least 20GiB and at most 20GB (make maxSize the larger one)`},
	{"one machine's disk for all", "kubernetes:", "install: {disk: {serial: S3Z8NB0K}, overwrite: 12ab34cd56ef}\nkubernetes:",
		`lab.yaml:6:26: install.disk.serial: a serial number is one machine's disk, and this is for all nodes (write it in the node's own install or storage)` + "\n" +
			`lab.yaml:6:48: install.overwrite: an id is of what is on one machine's disk, and this is for all nodes (write it in the node's own install or storage)`},
	{"path of a link", "    role: worker", "    install: {disk: {path: /dev/disk/by-path/pci-0000:00:04.0}}\n    role: worker",
		`lab.yaml:27:28: nodes[1].install.disk.path: "/dev/disk/by-path/pci-0000:00:04.0" is a link that udev makes, and there is no udev yet when disks are chosen (write pci-0000:00:04.0)`},
	{"path by id", "    role: worker", "    install: {disk: {path: /dev/disk/by-id/wwn-0x5000c500a1b2c3d4}}\n    role: worker",
		`lab.yaml:27:28: nodes[1].install.disk.path: "/dev/disk/by-id/wwn-0x5000c500a1b2c3d4" is a link that udev makes, and there is no udev yet when disks are chosen (choose the disk by serial, wwn, or a path like /dev/sda)`},
	{"no path", "    role: worker", "    install: {disk: {path: sd a}}\n    role: worker",
		`lab.yaml:27:28: nodes[1].install.disk.path: "sd a" is no disk's path (write it like /dev/sda, or pci-0000:00:04.0)`},
	{"serial", "    role: worker", "    install: {disk: {serial: \" S3Z8\"}}\n    role: worker",
		`lab.yaml:27:30: nodes[1].install.disk.serial: " S3Z8" is no serial number (write it without white space at its ends, as the disk's label or lsblk -o SERIAL has it)`},
	{"WWN", "    role: worker", "    install: {disk: {wwn: no wwn}}\n    role: worker",
		`lab.yaml:27:27: nodes[1].install.disk.wwn: "no wwn" is no World Wide Name (write it like 0x5000c500a1b2c3d4 or eui.0025385b71b0e5a1, as lsblk -o WWN has it)`},
	{"confirmation", "    role: worker", "    install: {disk: {path: /dev/sda}, overwrite: \"yes\"}\n    role: worker",
		`lab.yaml:27:50: nodes[1].install.overwrite: "yes" is no id of a disk's content (write the one that the refused installation told, like 3f9a2c71d0b4)`},
	{"skip and a disk", "    role: worker", "    install: {disk: {path: /dev/sda}, skip: true}\n    role: worker",
		`lab.yaml:27:45: nodes[1].install.skip: the node has a disk to install to (remove one of them)`},
	{"skip for all", "kubernetes:", "install: {skip: true}\nkubernetes:",
		`lab.yaml:6:17: install.skip: says that no node is installed (remove install, or write skip on the node that is none of the others)`},
	{"volumes", "    role: worker", "    storage:\n      data:\n        - {name: Logs, disk: {path: /dev/sdb}, size: 1500KiB, format: ntfs, mount: /var}\n        - {name: a, disk: {path: /dev/sdb}, mount: /srv/a}\n        - {name: a, disk: {path: /dev/sdb}, mount: /srv/a}\n        - {name: c, mount: /srv/../etc, size: 1MiB}\n    role: worker",
		`lab.yaml:29:18: nodes[1].storage.data[0].name: "Logs" is not a volume's name (use 1 to 20 of a-z, 0-9 and -, not - at either end)` + "\n" +
			`lab.yaml:29:54: nodes[1].storage.data[0].size: "1500KiB" is not a size (write it like 20GiB; units are MiB, GiB, TiB, MB, GB, TB)` + "\n" +
			`lab.yaml:29:71: nodes[1].storage.data[0].format: unknown file system "ntfs" (one of: ext4)` + "\n" +
			`lab.yaml:29:84: nodes[1].storage.data[0].mount: "/var" is not below /var, /srv, /opt or /home (write it like /var/lib/data)` + "\n" +
			`lab.yaml:31:11: nodes[1].storage.data[2].size: is missing, and volume a takes the rest of this disk already (give one of them a size)` + "\n" +
			`lab.yaml:31:18: nodes[1].storage.data[2].name: name a is also that of nodes[1].storage.data[1].name in line 30 (each needs its own)` + "\n" +
			`lab.yaml:31:52: nodes[1].storage.data[2].mount: mount point /srv/a is also that of nodes[1].storage.data[1].mount in line 30 (each needs its own)` + "\n" +
			`lab.yaml:32:11: nodes[1].storage.data[3].disk: is missing (write what chooses it, like disk: {serial: S3Z8NB0K} or disk: {smallest: true})` + "\n" +
			`lab.yaml:32:28: nodes[1].storage.data[3].mount: "/srv/../etc" is not below /var, /srv, /opt or /home (write it like /var/lib/data)` + "\n" +
			`lab.yaml:32:47: nodes[1].storage.data[3].size: 1MiB is too small for a file system (use 16MiB or more)`},
	{"many at once", "role: worker\n    match: {mac: \"52:54:00:00:00:21\"}", "role: master\n    match: {mac: \"52:54:00:00:00\"}\n    colour: red",
		`lab.yaml:27:11: nodes[1].role: unknown role "master" (one of: control-plane, worker)` + "\n" +
			`lab.yaml:28:18: nodes[1].match.mac: "52:54:00:00:00" is not a MAC address (write six bytes like 52:54:00:00:00:11)` + "\n" +
			`lab.yaml:29:5: nodes[1].colour: unknown field (known fields: bmc, ignition, install, labels, links, match, name, role, storage, taints)`},
}

func TestFaults(t *testing.T) {
	for _, tt := range faults {
		t.Run(tt.name, func(t *testing.T) {
			if tt.document() == string(cluster.Lab()) {
				t.Fatalf("%q is not in the lab document", tt.old)
			}
			_, err := cluster.Parse("lab.yaml", []byte(tt.document()))
			if err == nil {
				t.Fatal("no error")
			}
			if err.Error() != tt.want {
				t.Errorf("got\n%s\nwant\n%s", err, tt.want)
			}
		})
	}
}
