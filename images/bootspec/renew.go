package bootspec

import "time"

// RouteRenew of the management API takes a newer configuration of the node (POST, Ignition configuration as RouteConfig of
// the boot server serves it, at most MaxConfig bytes): new certificates and keys, and of the cluster document what needs no
// reboot. What is wrong with it is found before anything changes. The node answers when its files are there (Renewed); units
// are restarted afterwards, one after the other: LiveStatus.Renewal tells how far it is.
const RouteRenew = "/v1/renew"

// Renewed is what a renewal changed.
type Renewed struct {
	Files []string `json:"files"` // replaced, in order
	// Later are files of the configuration that take effect at the next boot only.
	Later []string  `json:"later,omitempty"`
	Until time.Time `json:"until"` // when the first of the new certificates ends
	// Kept says where the configuration is kept for the next boot: the medium's partition, or nowhere (empty: the boot server
	// has it).
	Kept string `json:"kept,omitempty"`
}

// RenewalStatus is how far the node is with the units that a renewal restarts.
type RenewalStatus struct {
	At    time.Time `json:"at"`              // when the files were there
	Left  []string  `json:"left,omitempty"`  // units to restart, the present one first; none: all are
	Fault string    `json:"fault,omitempty"` // why it ended before all were
}
