package bootspec

import "time"

// The management API of a running node: HTTP with mutual TLS 1.3 on ManagePort of the node's management address. The node
// presents ManageCertificate, which names the node; clients present a certificate of the cluster's authority whose
// organisation is ManageGroup. Errors are a status code and one line of text.
const (
	// ManagePort is the TCP port.
	ManagePort = 7444
	// ManageGroup is the organisation of operators' certificates.
	ManageGroup = "system:masters"
	// ManageCertificate and ManageKey are files in PKIDirectory.
	ManageCertificate = "manage.crt"
	ManageKey         = "manage.key"
)

// Routes of the management API.
const (
	// RouteLiveStatus is how the node is (GET, JSON: LiveStatus).
	RouteLiveStatus = "/v1/status"
	// RouteLogs is the journal of this boot as text lines (GET). Query: unit (a systemd unit; none: everything), since
	// (whole seconds back from now; none: the whole boot), follow (1: until the client goes away).
	RouteLogs = "/v1/logs"
	// RouteEtcdSnapshot is a snapshot of the node's etcd, as a stream of bytes (GET): the database and its SHA-256 at the
	// end (32 bytes), as etcd's own snapshot files. A stream that was cut has no matching SHA-256.
	RouteEtcdSnapshot = "/v1/etcd/snapshot"
	// RouteReset has the node forget what it keeps in its state (/var) and start anew (POST; query: node, its own name, so that
	// nobody resets another one than meant). Its answer (JSON: Reset) comes before it goes down. Data volumes, the installation
	// and its configuration stay.
	RouteReset = "/v1/reset"
)

// Reset is what a node answers that forgets its state.
type Reset struct {
	Boot string `json:"boot"` // id of the boot that ends now
}

// ResetMarker in a node's /var says that the next boot shall forget all that is in it.
const ResetMarker = ".slipway-reset"

// MaxLiveStatus bounds a LiveStatus in bytes.
const MaxLiveStatus = 1 << 20

// LiveStatus is how a running node is. What couldn't be found out is in Problems, in words; the rest is still there.
type LiveStatus struct {
	Name         string            `json:"name"`
	Role         string            `json:"role"`
	Image        string            `json:"image"`  // artifact base name
	Kernel       string            `json:"kernel"` // uname -r
	Boot         string            `json:"boot"`   // boot id
	Clock        time.Time         `json:"clock"`  // the node's
	Uptime       Millis            `json:"uptime"`
	Units        []UnitStatus      `json:"units"`
	Certificates []CertificateDate `json:"certificates"` // soonest first
	Memory       Capacity          `json:"memory"`
	Disks        []Capacity        `json:"disks"`             // file systems that are written to
	Etcd         *EtcdStatus       `json:"etcd,omitempty"`    // control planes
	Backup       *BackupStatus     `json:"backup,omitempty"`  // where the node document has one
	Renewal      *RenewalStatus    `json:"renewal,omitempty"` // the last one of this boot
	Problems     []string          `json:"problems,omitempty"`
}

// UnitStatus is how a unit of the role is.
type UnitStatus struct {
	Name     string `json:"name"`
	Active   string `json:"active"` // active, activating, failed, inactive...
	Sub      string `json:"sub"`
	Restarts int    `json:"restarts,omitempty"`
	Failing  bool   `json:"failing,omitempty"` // it needs somebody's attention
	CPU      Millis `json:"cpu,omitempty"`     // processor time that it has taken since it started
	Memory   int64  `json:"memory,omitempty"`  // bytes that it holds now, page cache included
}

// CertificateDate is when a certificate ends.
type CertificateDate struct {
	File  string    `json:"file"`
	Until time.Time `json:"until"`
}

// Capacity is how much there is of something, in bytes.
type Capacity struct {
	Name  string `json:"name"` // memory, or a mount point
	Total int64  `json:"total"`
	Free  int64  `json:"free"` // what programs may still take
}

// EtcdStatus is how the node's etcd is, as it says itself.
type EtcdStatus struct {
	Answers   bool   `json:"answers"`   // its process answers
	Healthy   bool   `json:"healthy"`   // it can read through the quorum
	Reason    string `json:"reason"`    // why not
	HasLeader bool   `json:"hasLeader"` // false: the quorum is lost
	Leader    bool   `json:"leader"`    // it is the leader
	Learner   bool   `json:"learner"`   // it has no vote yet, and refuses clients
	Size      int64  `json:"size"`      // of its database in bytes
	InUse     int64  `json:"inUse"`     // of Size, in bytes
	// Restored is when the cluster was restored from a snapshot that this node's data is of (RouteEtcdRestore); zero: never.
	Restored time.Time `json:"restored,omitzero"`
}

// BackupStatus is how the scheduled snapshots of etcd are.
type BackupStatus struct {
	Newest time.Time `json:"newest,omitzero"` // zero: there is none
	Every  int64     `json:"every"`           // seconds
	Fault  string    `json:"fault,omitempty"` // why the last attempt failed
	Pushed []Pushed  `json:"pushed,omitempty"`
}

// Pushed is how far a place that snapshots are pushed to is.
type Pushed struct {
	To     string    `json:"to"`              // BackupTarget.String
	Newest time.Time `json:"newest,omitzero"` // of the node's snapshots there; zero: none, or nobody knows
	Fault  string    `json:"fault,omitempty"` // why the last attempt failed
}
