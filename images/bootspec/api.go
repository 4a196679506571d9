package bootspec

import "net/netip"

// APIBalancer is where the API answers on every node: a balancer to all API servers, for what runs on the node itself.
const APIBalancer = "127.0.0.1:7443"

// API is how a node reaches the cluster's API servers, and what it does so that others can.
type API struct {
	Servers []string `json:"servers"` // all API servers of the cluster: 10.1.0.11:6443
	// VirtualAddress is the address that this node may hold (control planes only).
	VirtualAddress *VirtualAddress `json:"virtualAddress,omitempty"`
}

// VirtualAddress is an address that one of the control planes holds at a time (VRRPv3, RFC 9568).
type VirtualAddress struct {
	Address  netip.Addr `json:"address"`
	Link     string     `json:"link"`     // the link on the management network
	Server   string     `json:"server"`   // this node's own API server: it holds the address only while that is ready
	Router   int        `json:"router"`   // VRID, 1..255
	Priority int        `json:"priority"` // 1..254, another one for each control plane
}
