package bootspec

import "time"

// Event is a step in a node's boot, as it is seen by the server or reported by the node.
type Event string

// Events in the order of a boot. The first ones are seen by the server, from EventAgentUp on they are reported.
const (
	EventPowerOn       Event = "power on"       // known only to a rehearsal or a power controller
	EventOffer         Event = "offer"          // first DHCP offer to the firmware
	EventKernelSent    Event = "kernel sent"    // UKI (or kernel and initrd) sent whole
	EventAgentUp       Event = "agent up"       // first stage has its network
	EventRootLoaded    Event = "root loaded"    // root image fetched, its digest right, verity on
	EventConfigClaimed Event = "config claimed" // configuration sent to the node
	EventInstalling    Event = "installing"     // an installation to disk has begun; Detail says where
	EventInstalled     Event = "installed"      // the disk is written and verified; the machine restarts from it
	EventProvisioned   Event = "provisioned"    // Ignition done, about to switch root
	EventNetworkUp     Event = "network up"     // network document applied and read back
	EventUnitsStarted  Event = "units started"  // role target active
	EventReady         Event = "ready"          // Kubernetes says the node is Ready
	EventFailed        Event = "failed"         // Detail says what and why
)

// MaxReport bounds a report in bytes.
const MaxReport = 256 << 10

// Report is what a node tells the boot server. Reports are idempotent: the first of an Event in a boot counts.
// A report holds no secret: no configuration, no key, no token.
type Report struct {
	MAC    string `json:"mac"`              // of the interface it booted from, lower case with colons
	Boot   string `json:"boot"`             // /proc/sys/kernel/random/boot_id
	Event  Event  `json:"event"`            //
	Uptime Millis `json:"uptime"`           // milliseconds since the kernel started, when the event happened
	Detail string `json:"detail,omitempty"` // one line for people; for EventFailed the reason
	Log    string `json:"log,omitempty"`    // for EventFailed: the failing unit's own last words, at most 64 KiB
	Unit   string `json:"unit,omitempty"`   // for EventFailed: the unit
	Kernel string `json:"kernel,omitempty"` // for EventFailed: the end of the kernel's log, at most 64 KiB
}

// Millis is a duration in whole milliseconds.
type Millis int64

// Duration is m as a time.Duration.
func (m Millis) Duration() time.Duration { return time.Duration(m) * time.Millisecond }

// BootState is what the first stage hands over to the agent in the running system (BootRecord).
type BootState struct {
	MAC    string `json:"mac"`    // interface that reached the server, or would; empty: not known yet
	Server string `json:"server"` // base URL of the boot server; empty: the node document's
	// Secure is how that is reached over TLS; nil: not known, or there was no need.
	Secure *Secure `json:"secure,omitempty"`
	Image  string  `json:"image"` // artifact base name
	// ESP is the block device with the boot entries of the medium that this machine booted from; empty: it booted from the
	// network, or nothing can be written there.
	ESP string `json:"esp,omitempty"`
	// Config is the block device with the configuration place that this machine's configuration came from; empty: it came from
	// the boot server, or nothing can be written there.
	Config string `json:"config,omitempty"`
	// Pending are reports that could not be delivered yet.
	Pending []Report `json:"pending,omitempty"`
}
