package netboot

import (
	"fmt"
	"net"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/slipway-os/slipway/images/bootspec"
)

// BootFrom is what a node of the document is to boot when its firmware asks the network.
type BootFrom string

// What nodes boot from.
const (
	FromNetwork BootFrom = ""        // its image from here; a node that is to be installed installs itself then, once
	FromDisk    BootFrom = "disk"    // its own disk: it has installed itself there
	FromInstall BootFrom = "install" // its image from here, to install itself over its own earlier installation
)

// String is the word that ParseBootFrom reads.
func (b BootFrom) String() string {
	if b == FromNetwork {
		return "network"
	}
	return string(b)
}

// ParseBootFrom reads network, disk or install.
func ParseBootFrom(word string) (BootFrom, error) {
	for _, b := range []BootFrom{FromNetwork, FromDisk, FromInstall} {
		if b.String() == word {
			return b, nil
		}
	}
	return "", fmt.Errorf("a node boots from network, disk or install, not from %q", word)
}

// fromDisk tells firmware to go on with its next boot option, the disk, at once.
//
// A PXE client gets a boot menu of one item that is taken after 0 s: boot server type 0 is the local disk (PXE
// specification 2.1, section 2.2.3 and table 2-3, tags 6, 9, 10). Without any answer it would wait about a minute. iPXE
// ends when an offer has nothing to boot. An HTTP Boot client needs a URL to end: it gets one of nothing.
func fromDisk(d *Decision, reply *dhcpv4.DHCPv4, policy Policy) string {
	switch d.Client {
	case ClientPXE, ClientBIOS, ClientOther:
		reply.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient"))
		reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, localMenu()))
	case ClientHTTP:
		reply.UpdateOption(dhcpv4.OptClassIdentifier("HTTPClient"))
		reply.UpdateOption(dhcpv4.OptBootFileName(d.base(policy) + bootspec.RouteArtifacts + "boot-from-disk"))
	case ClientIPXE:
		reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(optionIPXE), []byte{176, 1, 1, 255}))
	}
	return ", boots from its disk"
}

// localMenu is option 43 with that menu.
func localMenu() []byte {
	const text = "Disk"
	item := append([]byte{0, 0, byte(len(text))}, text...) // boot server type 0
	prompt := append([]byte{0}, text...)                   // after 0 s
	menu := []byte{6, 1, 7}                                // ask no boot server by broadcast or multicast, none but those that are told
	menu = append(append(menu, 9, byte(len(item))), item...)
	menu = append(append(menu, 10, byte(len(prompt))), prompt...)
	return append(menu, 255)
}

// fromDisk says whether the policy has a machine boot its own disk.
func (p Policy) fromDisk(m Machine) bool { return p.BootFrom != nil && p.BootFrom(m.MAC) == FromDisk }

// bootFrom is what a machine boots.
func (s *states) bootFrom(mac net.HardwareAddr) BootFrom {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.byMAC[mac.String()]; n != nil {
		return n.BootFrom
	}
	return FromNetwork
}

// setBootFrom has a node boot from elsewhere from now on. An error wraps nothing: it is the operator's.
func (s *states) setBootFrom(site *Site, node string, from BootFrom) error {
	i := slices.IndexFunc(site.Machines, func(m Machine) bool { return m.Name == node })
	switch {
	case i < 0:
		return fmt.Errorf("cluster %s has no node %q", site.Cluster, node)
	case from == FromInstall && !site.Machines[i].Install:
		return fmt.Errorf("the cluster document does not say that %s is to be installed (write install: on the node)", node)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node(site.Machines[i].MAC.String())
	s.edit(n, func(n *NodeStatus) { n.BootFrom = from })
	s.note(n)
	return nil
}
