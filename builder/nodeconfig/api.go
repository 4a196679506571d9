package nodeconfig

import (
	"slices"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// apiServer is where the API answers for what runs on a node.
const apiServer = "https://" + bootspec.APIBalancer

// highestPriority is the first control plane's in the contest for the virtual address; each of the others has prioritySteps
// less. Far apart, so that after a failure the next one's patience ends well before that of the one after it (RFC 9568,
// section 6.1: Skew_Time).
const (
	highestPriority = 250
	prioritySteps   = 35 // seven control planes at most
)

// api is how a node reaches the API servers, and a control plane's part in the virtual address.
func api(c *cluster.Cluster, n *cluster.Node) *bootspec.API {
	a := &bootspec.API{Servers: c.APIServers()}
	v := c.Kubernetes.VirtualAddress
	if place := slices.Index(c.ControlPlanes(), n); v.IsValid() && place >= 0 {
		a.VirtualAddress = &bootspec.VirtualAddress{
			Address: v, Link: managementLink(c, n), Server: a.Servers[place],
			Router: int(v.As4()[3]), Priority: highestPriority - place*prioritySteps,
		}
	}
	return a
}

// managementLink is the kernel's name of the link that has the node's address.
func managementLink(c *cluster.Cluster, n *cluster.Node) string {
	for _, l := range Network(c, n).Links {
		for _, p := range l.Addresses {
			if p.Addr() == c.NodeAddress(n) {
				return l.Name
			}
		}
	}
	return ""
}
