package bootspec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
)

// Version is the version of the documents in this package.
const Version = "slipway.dev/v1alpha1"

// Node is the node document: what makes a machine this node, without its secrets.
type Node struct {
	APIVersion string `json:"apiVersion"` // Version
	Cluster    string `json:"cluster"`
	Name       string `json:"name"` // also the host name and the Kubernetes node name
	Role       string `json:"role"` // control-plane, worker
	Target     string `json:"target"`
	Server     string `json:"server"`    // base URL of the boot server; empty when there is none (offline media)
	APIServer  string `json:"apiServer"` // base URL for what runs on the node: https://127.0.0.1:7443
	// API is what answers there.
	API     *API    `json:"api,omitempty"`
	Network Network `json:"network"`
	// Storage is where the node keeps its state; without it: in the state partition of the disk it booted from, or in memory.
	Storage *Storage `json:"storage,omitempty"`
	// Install makes the machine install itself to a disk when it has booted from elsewhere.
	Install *Install `json:"install,omitempty"`
	// EtcdBackup has a control plane keep snapshots of its etcd.
	EtcdBackup *EtcdBackup `json:"etcdBackup,omitempty"`
}

// EtcdBackup is how snapshots of etcd are kept on a control plane.
type EtcdBackup struct {
	EverySeconds int64    `json:"everySeconds"` // between two snapshots
	Keep         int      `json:"keep"`         // so many, the newest
	Recipients   []string `json:"recipients"`   // age's X25519 recipients: age1...
	Directory    string   `json:"directory"`    // absolute
	// To is where each is pushed besides.
	To []BackupTarget `json:"to,omitempty"`
}

// Storage is a node's lasting storage.
type Storage struct {
	State *DiskMatch `json:"state,omitempty"` // disk of the state partition; nil: the one it booted from
	Data  []Volume   `json:"data,omitempty"`
}

// Volume is a file system that the agent makes if it isn't there, and mounts.
type Volume struct {
	Name   string    `json:"name"`             // partition label: slipway-data-NAME
	Disk   DiskMatch `json:"disk"`             //
	Size   int64     `json:"size,omitempty"`   // bytes, a multiple of 1 MiB; 0: the rest of the disk
	Format string    `json:"format,omitempty"` // ext4 (default), or what mkfs the image has
	Mount  string    `json:"mount"`            // below /var, /srv, /opt or /home
	// Overwrite is the id of foreign data on the disk that may be destroyed (see Install).
	Overwrite string `json:"overwrite,omitempty"`
}

// Install is an installation to disk.
type Install struct {
	Disk DiskMatch `json:"disk"`
	// Overwrite is the id of the disk's present foreign content, as a refused installation told it: destroying that is
	// what the operator confirmed. It is the id of that content, not of the disk: other content needs another word.
	Overwrite string `json:"overwrite,omitempty"`
}

// DiskMatch chooses one disk. All fields that are set must match, and one must be; more than one matching disk is a
// fault unless only Smallest decides.
type DiskMatch struct {
	Serial   string `json:"serial,omitempty"`
	WWN      string `json:"wwn,omitempty"`      // World Wide Name, NVMe EUI-64 or NGUID: as /sys/block/*/device/wwid or wwid say
	Path     string `json:"path,omitempty"`     // /dev/vda, or a path of the device in /sys: pci-0000:00:04.0
	MinSize  int64  `json:"minSize,omitempty"`  // bytes
	MaxSize  int64  `json:"maxSize,omitempty"`  // bytes
	Smallest bool   `json:"smallest,omitempty"` // the smallest of those that match
}

// Network is the one network document: the same for the initramfs, the first boot and the running system.
type Network struct {
	Links []Link       `json:"links"`
	DNS   []netip.Addr `json:"dns,omitempty"`
	// Domains are search domains.
	Domains []string `json:"domains,omitempty"`
}

// Link kinds.
const (
	KindPhysical = "physical"
	KindVLAN     = "vlan"
	KindBond     = "bond"
	KindBridge   = "bridge"
)

// Link is one network interface as it shall be.
type Link struct {
	Name    string `json:"name"`              // 1..15 bytes
	Kind    string `json:"kind"`              // one of the Kind constants
	Network string `json:"network,omitempty"` // name of the cluster document's network
	// Match finds a physical link. All fields that are set must match.
	Match     *Match         `json:"match,omitempty"`
	MTU       int            `json:"mtu,omitempty"`    // bytes, 0: leave as it is
	DHCP      bool           `json:"dhcp,omitempty"`   // in the running system, besides what is given here
	Metric    int            `json:"metric,omitempty"` // of the default route by DHCP
	SLAAC     bool           `json:"slaac,omitempty"`  // IPv6 addresses and routes from router advertisements (RFC 4862)
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Routes    []Route        `json:"routes,omitempty"`
	VLAN      *VLAN          `json:"vlan,omitempty"`
	Members   []string       `json:"members,omitempty"` // of a bond or bridge; links before it
	Bond      *Bond          `json:"bond,omitempty"`
}

// Below is the names of the links that the link is on or made of.
func (l Link) Below() []string {
	if l.VLAN != nil {
		return []string{l.VLAN.Parent}
	}
	return l.Members
}

// Arrange puts network cards first, then each link after those it is on or made of, else as they came.
func Arrange(links []Link) []Link {
	var sorted []Link
	placed := map[string]bool{}
	var place func(l Link)
	place = func(l Link) {
		if placed[l.Name] {
			return
		}
		placed[l.Name] = true
		for _, under := range links {
			if slices.Contains(l.Below(), under.Name) {
				place(under)
			}
		}
		sorted = append(sorted, l)
	}
	for _, physical := range []bool{true, false} {
		for _, l := range links {
			if (l.Kind == KindPhysical) == physical {
				place(l)
			}
		}
	}
	return sorted
}

// Match finds a physical network interface.
type Match struct {
	MAC    string `json:"mac,omitempty"`    // 52:54:00:00:00:11
	Driver string `json:"driver,omitempty"` // virtio_net
	PCI    string `json:"pci,omitempty"`    // 0000:00:03.0
}

// VLAN is an IEEE 802.1Q tag on a parent link.
type VLAN struct {
	Parent string `json:"parent"`
	ID     int    `json:"id"` // 1..4094
}

// Bond is a link aggregation, with the words of Documentation/networking/bonding.rst.
type Bond struct {
	Mode   string `json:"mode"`             // one of BondModes
	MIIMon int    `json:"miimon,omitempty"` // milliseconds between looks at the members' carrier; 0: 100
	LACP   string `json:"lacp,omitempty"`   // 802.3ad: slow (default), fast
	Hash   string `json:"hash,omitempty"`   // 802.3ad, balance-xor: one of BondHashes; default layer3+4
}

// BondModes are the modes of bonds, BondHashes the policies that choose a member for a packet.
var (
	BondModes  = []string{"active-backup", "802.3ad", "balance-xor", "balance-rr", "balance-tlb", "balance-alb", "broadcast"}
	BondHashes = []string{"layer2", "layer2+3", "layer3+4", "encap2+3", "encap3+4", "vlan+srcmac"}
)

// BondLACP is the mode that negotiates with the switch (IEEE 802.1AX).
const BondLACP = "802.3ad"

// Hashes says whether the mode has a hash policy.
func (b Bond) Hashes() bool { return b.Mode == BondLACP || b.Mode == "balance-xor" }

// Route is a route through its link. A zero Via is a route on link.
type Route struct {
	To     netip.Prefix `json:"to"`
	Via    netip.Addr   `json:"via,omitzero"`
	Metric int          `json:"metric,omitempty"`
}

// MaxNodeDocument bounds a node document in bytes.
const MaxNodeDocument = 1 << 20

// ParseNode reads a node document strictly.
func ParseNode(data []byte) (Node, error) {
	var n Node
	if len(data) > MaxNodeDocument {
		return n, fmt.Errorf("cannot read node document: %d bytes are over the limit of %d", len(data), MaxNodeDocument)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&n); err != nil {
		return Node{}, fmt.Errorf("cannot read node document: %w", err)
	}
	if n.APIVersion != Version {
		return Node{}, fmt.Errorf("cannot read node document: apiVersion %q is not %q", n.APIVersion, Version)
	}
	if n.Name == "" || n.Role == "" || n.Target == "" {
		return Node{}, fmt.Errorf("cannot read node document: name, role and target must be set")
	}
	return n, nil
}
