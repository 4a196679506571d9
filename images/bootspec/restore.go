package bootspec

import "time"

// Routes that restore etcd from a snapshot, on control planes. A restore is named by its time and the node that gets the
// snapshot: query at (RFC 3339, UTC, whole seconds; later than any restore before) and on. One at a time; a second one meanwhile
// is refused (409). Answers are JSON: EtcdChange.
const (
	// RouteEtcdRestore prepares a restore (PUT; the body is a snapshot as RouteEtcdSnapshot gives it, with Content-Length). Nothing
	// changes before RouteEtcdApply.
	RouteEtcdRestore = "/v1/etcd/restore"
	// RouteEtcdSetAside prepares that the node's data is set aside, so that it joins the restored cluster (POST). Nothing changes
	// before RouteEtcdApply.
	RouteEtcdSetAside = "/v1/etcd/set-aside"
	// RouteEtcdApply carries out what was prepared (POST): the API server and etcd restart, and between the data is moved aside (the
	// newest two such folders are kept). It doesn't wait for that; whether they come is told by the status.
	RouteEtcdApply = "/v1/etcd/apply"
)

// EtcdDataDirectory is etcd's data folder. What slipway-etcd keeps is in its folder slipway.
const EtcdDataDirectory = "/var/lib/etcd"

// MaxEtcdSnapshot bounds a snapshot that is restored, in bytes: the largest database that etcd advises is 8 GiB.
const MaxEtcdSnapshot = 16 << 30

// EtcdChange is what a step of a restore did.
type EtcdChange struct {
	At    time.Time `json:"at"`
	On    string    `json:"on"`
	Aside string    `json:"aside,omitempty"` // folder that the data of before is moved to; empty: there was none
}
