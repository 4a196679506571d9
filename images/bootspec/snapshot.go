package bootspec

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Snapshots of etcd that nodes keep and push are files NODE-20260301T120000Z.etcd.age: the time in UTC, encrypted with age.
const (
	snapshotStamp = "20060102T150405Z"
	snapshotExt   = ".etcd.age"
	maxNodeName   = 253
)

// SnapshotHead is how a snapshot that is kept begins (age-encryption.org/v1).
const SnapshotHead = "age-encryption.org/v1\n"

// SnapshotName is the name of a node's snapshot.
func SnapshotName(node string, at time.Time) string {
	return node + "-" + at.UTC().Format(snapshotStamp) + snapshotExt
}

// ParseSnapshotName tells whose snapshot has the name and when it was taken. A name that is one is no path.
func ParseSnapshotName(name string) (node string, at time.Time, ok bool) {
	text, whole := strings.CutSuffix(name, snapshotExt)
	dash := strings.LastIndexByte(text, '-')
	if !whole || dash < 1 || dash > maxNodeName || !nodeName(text[:dash]) {
		return "", time.Time{}, false
	}
	at, err := time.Parse(snapshotStamp, text[dash+1:])
	if err != nil || SnapshotName(text[:dash], at) != name {
		return "", time.Time{}, false
	}
	return text[:dash], at, true
}

// nodeName tells of names that nodes may have: small letters, digits, dashes and dots, a letter or digit first.
func nodeName(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.'
	}) && name[0] != '-' && name[0] != '.'
}

// SnapshotsOf are the names of a node's snapshots among names, the newest first. Those of more than a day after now are from when
// a clock was wrong, and are last.
func SnapshotsOf(node string, names []string, now time.Time) []string {
	type snapshot struct {
		name string
		at   time.Time
	}
	var list []snapshot
	for _, name := range names {
		of, at, ok := ParseSnapshotName(name)
		if !ok || of != node {
			continue
		}
		if at.Sub(now) > 24*time.Hour {
			at = time.Time{}
		}
		list = append(list, snapshot{name, at})
	}
	slices.SortFunc(list, func(a, b snapshot) int { return cmp.Or(b.at.Compare(a.at), strings.Compare(b.name, a.name)) })
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = s.name
	}
	return out
}

// KeptSnapshot is a snapshot of etcd in a file, somewhere.
type KeptSnapshot struct {
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes
	// Directory is where it lies on a node; empty elsewhere.
	Directory string `json:"directory,omitempty"`
}

// BackupTarget is a place that snapshots are pushed to, besides the folder that they are written to. One of its fields is set.
type BackupTarget struct {
	Directory string    `json:"directory,omitempty"` // absolute, on the node
	Server    string    `json:"server,omitempty"`    // host and port of the boot server's depot: 10.1.0.1:7445
	S3        *S3Bucket `json:"s3,omitempty"`
}

// S3Bucket is a place in an object store that speaks S3 (https://docs.aws.amazon.com/AmazonS3/latest/API/).
type S3Bucket struct {
	Endpoint    string `json:"endpoint"`         // https://s3.example.com[:PORT]
	Region      string `json:"region,omitempty"` // empty: the endpoint says it
	Bucket      string `json:"bucket"`
	Prefix      string `json:"prefix,omitempty"` // of all names: rack-7/
	Credentials string `json:"credentials"`      // file as the AWS tools read it ([default], aws_access_key_id, aws_secret_access_key)
	CA          string `json:"ca,omitempty"`     // file with the authority of the endpoint; empty: those of the system
}

// BucketDirectory has the files of buckets on a control plane.
const BucketDirectory = "/etc/slipway/buckets"

// String is for people: "directory /srv/copies", "the boot server at 10.1.0.1:7445", "bucket etcd/rack-7/ at https://s3.example.com".
func (t BackupTarget) String() string {
	switch {
	case t.Server != "":
		return "the boot server at " + t.Server
	case t.S3 != nil:
		return "bucket " + t.S3.Bucket + "/" + t.S3.Prefix + " at " + t.S3.Endpoint
	}
	return "directory " + t.Directory
}

// The boot server's depot takes snapshots of etcd: HTTP with mutual TLS 1.3 on DepotPort. The server's certificate is of the
// cluster's authority and names DepotName; control planes present ManageCertificate, operators theirs (ManageGroup).
const (
	// DepotPort is the TCP port.
	DepotPort = 7445
	// DepotName is the DNS name in the server's certificate.
	DepotName = "slipway-depot"
	// RouteDepot + name takes a snapshot (PUT, with Content-Length and HeaderSHA256; from the control plane whose it is) or gives it
	// (GET, operators). It is kept whole or not at all. RouteDepot alone lists (GET, JSON: []KeptSnapshot): a control plane gets its own,
	// operators all.
	RouteDepot = "/v1/snapshots/"
	// HeaderSHA256 is the SHA-256 of the body in hexadecimal digits.
	HeaderSHA256 = "Slipway-Sha256"
)

// RouteEtcdKept of the management API lists the snapshots that a control plane keeps (GET, JSON: []KeptSnapshot), and
// RouteEtcdKept + "/" + name gives one of them (GET; query: directory).
const RouteEtcdKept = "/v1/etcd/kept"
