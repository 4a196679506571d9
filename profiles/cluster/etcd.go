package cluster

import (
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/document"
)

// Etcd is what is said of etcd.
type Etcd struct {
	Backup *Backup `yaml:"backup"` // nil: control planes keep no snapshots
	// Heartbeat is how often the leader tells the others that it is there; after ten in vain they elect another. 0: etcd's
	// default, 100 ms. It should be about the time that the slowest two members need for a message and an answer
	// (https://etcd.io/docs/v3.6/tuning/).
	Heartbeat Interval `yaml:"heartbeat"`
}

// Backup is how each control plane keeps snapshots of its etcd.
type Backup struct {
	Every      Interval    `yaml:"every"`      // default 1h
	Keep       int         `yaml:"keep"`       // default 24
	Recipients []Recipient `yaml:"recipients"` // at least one
	Directory  string      `yaml:"directory"`  // default BackupDirectory
	To         []Target    `yaml:"to"`         // where each snapshot is pushed besides
}

// Target is a place that snapshots are pushed to. One of its fields is set.
type Target struct {
	Directory string `yaml:"directory"` // on the node
	Server    bool   `yaml:"server"`    // the boot server's depot
	S3        Bucket `yaml:"s3"`        // a bucket of an object store
}

// Bucket is one of an object store that speaks S3.
type Bucket struct {
	Endpoint string `yaml:"endpoint"` // https://s3.example.com[:PORT]
	Region   string `yaml:"region"`   // empty: the endpoint says it
	Bucket   string `yaml:"bucket"`
	Prefix   string `yaml:"prefix"` // of all names: rack-7/
	// Credentials is a file as the AWS tools read it, its profile default; CA one with the authority of the endpoint, PEM. Their paths
	// are relative to the document and stay in its folder.
	Credentials string `yaml:"credentials"`
	CA          string `yaml:"ca"` // empty: the authorities that systems know
}

// What a backup is like unless the document says otherwise.
const (
	BackupEvery     = time.Hour
	BackupKeep      = 24
	BackupDirectory = "/var/lib/slipway/etcd-backup"
)

// Bounds of a backup.
const (
	minBackupEvery = 5 * time.Minute
	maxBackupEvery = 31 * 24 * time.Hour
	maxBackupKeep  = 10000
)

// Interval is a time between two events.
type Interval time.Duration

// UnmarshalText reads 30m, 1h, 12h.
func (i *Interval) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err != nil {
		return wrong{fmt.Sprintf("%q is not an interval", text), "write it like 30m or 1h"}
	}
	*i = Interval(d)
	return nil
}

// Recipient is whom snapshots are encrypted to: a public key as age-keygen prints it.
type Recipient string

// UnmarshalText reads age1..., and refuses one with a typing error.
func (r *Recipient) UnmarshalText(text []byte) error {
	if strings.HasPrefix(strings.ToUpper(string(text)), "AGE-SECRET-KEY-") {
		// The key itself isn't repeated in the message.
		return wrong{"this is a secret key, and must not be in a cluster document", "write the public key that `age-keygen -y` prints, and make a new pair"}
	}
	if _, err := age.ParseX25519Recipient(string(text)); err != nil {
		return wrong{fmt.Sprintf("%q is not an age recipient", text), "make a pair with `age-keygen -o key.txt`, keep it off the nodes, and write its public key: age1..."}
	}
	*r = Recipient(text)
	return nil
}

// setDefaults fills in what the document leaves out.
func (b *Backup) setDefaults(source *document.Source) {
	if b == nil {
		return
	}
	if !source.Has("etcd.backup.every") {
		b.Every = Interval(BackupEvery)
	}
	if !source.Has("etcd.backup.keep") {
		b.Keep = BackupKeep
	}
	if !source.Has("etcd.backup.directory") {
		b.Directory = BackupDirectory
	}
}

// Bounds of the heartbeat: etcd takes election timeouts of up to 50 s.
const (
	minHeartbeat = 50 * time.Millisecond
	maxHeartbeat = 5 * time.Second
)

// heartbeat checks the leader's heartbeat.
func (k *check) heartbeat(i Interval) {
	if d := time.Duration(i); d != 0 && (d < minHeartbeat || d > maxHeartbeat) {
		k.fault("etcd.heartbeat", fmt.Sprintf("from %s to %s; 100ms suits machines in one room", minHeartbeat, maxHeartbeat), "%s is out of range", d)
	}
}

// backup checks how snapshots are kept.
func (k *check) backup(b *Backup, server netip.Addr) {
	if b == nil {
		return
	}
	const at = "etcd.backup."
	if every := time.Duration(b.Every); (every < minBackupEvery || every > maxBackupEvery) && !k.faulty(at+"every") {
		k.fault(at+"every", fmt.Sprintf("from %s to %s", minBackupEvery, maxBackupEvery), "%s is out of range", every)
	}
	if b.Keep < 1 || b.Keep > maxBackupKeep {
		k.fault(at+"keep", fmt.Sprintf("from 1 to %d", maxBackupKeep), "%d is out of range", b.Keep)
	}
	if len(b.Recipients) == 0 && !k.faulty(at+"recipients") {
		k.fault(at+"recipients", "write public keys of age: age1...", "snapshots hold all that the cluster keeps, and are never written unencrypted: a recipient is missing")
	}
	k.backupDirectory(at+"directory", b.Directory)
	k.targets(at+"to", b, server)
}

func (k *check) backupDirectory(at, d string) {
	if path.Clean(d) != d || !within(d) {
		k.fault(at, "write it like "+BackupDirectory, "%q is not a folder below /var, /srv or /opt", d)
	}
}

// maxTargets bounds the places that snapshots are pushed to.
const maxTargets = 8

// targets checks where snapshots are pushed to.
func (k *check) targets(at string, b *Backup, server netip.Addr) {
	if len(b.To) > maxTargets {
		k.fault(at, "", "%d places are more than %d", len(b.To), maxTargets)
	}
	seen := map[Target]bool{}
	for i, t := range b.To {
		path := document.Index(at, i)
		switch {
		case t.kinds() != 1:
			k.fault(path, "one of: {directory: /srv/copies}, {server: true}, {s3: {endpoint: ..., bucket: ..., credentials: ...}}", "it has not one place")
		case t.Server && !server.IsValid():
			k.fault(path, "write provisioning.server", "nodes don't know the boot server's address")
		case t.Directory != "":
			k.backupDirectory(document.Key(path, "directory"), t.Directory)
		case t.S3 != Bucket{}:
			k.bucket(document.Key(path, "s3"), t.S3)
		}
		if seen[t] || t.Directory == b.Directory {
			k.fault(path, "name each once", "snapshots are there already")
		}
		seen[t] = true
	}
}

// kinds is how many places a target names.
func (t Target) kinds() int {
	n := 0
	for _, named := range []bool{t.Directory != "", t.Server, t.S3 != Bucket{}} {
		if named {
			n++
		}
	}
	return n
}

// bucketName is what S3 calls a bucket (https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html).
var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// bucket checks a bucket but for its files (bucketFiles).
func (k *check) bucket(at string, b Bucket) {
	endpoint, err := url.Parse(b.Endpoint)
	if err != nil || endpoint.Scheme != "https" || endpoint.Host == "" || endpoint.User != nil || strings.Trim(endpoint.Path, "/")+endpoint.RawQuery+endpoint.Fragment != "" {
		k.fault(document.Key(at, "endpoint"), "write it like https://s3.example.com", "%q is not the address of a store", b.Endpoint)
	}
	if !bucketName.MatchString(b.Bucket) {
		k.fault(document.Key(at, "bucket"), "3 to 63 of a-z, 0-9, - and .", "%q is not the name of a bucket", b.Bucket)
	}
	if p := b.Prefix; p != "" && (!fs.ValidPath(strings.TrimSuffix(p, "/")) || p == "/" || strings.ContainsFunc(p, unprintable)) {
		k.fault(document.Key(at, "prefix"), "write it like rack-7/", "%q is no prefix of names", p)
	}
	if strings.ContainsFunc(b.Region, unprintable) {
		k.fault(document.Key(at, "region"), "write it like eu-central-1", "%q is no region", b.Region)
	}
	if b.Credentials == "" {
		k.fault(document.Key(at, "credentials"), "name a file with aws_access_key_id and aws_secret_access_key below [default]", "is missing")
	}
}

func unprintable(r rune) bool { return r <= ' ' || r > '~' }

// bucketFiles reads the files that buckets name.
func (k *check) bucketFiles(c *Cluster, files fs.FS) {
	c.bucketFiles = map[string][]byte{}
	if c.Etcd.Backup == nil {
		return
	}
	for i, t := range c.Etcd.Backup.To {
		at := document.Key(document.Index("etcd.backup.to", i), "s3")
		for key, p := range map[string]string{"credentials": t.S3.Credentials, "ca": t.S3.CA} {
			if p == "" {
				continue
			}
			if data, ok := k.fileBeside(files, document.Key(at, key), p, "file"); ok {
				c.bucketFiles[p] = data
			}
		}
	}
}

// BucketFiles are the files that control planes need for the buckets of the document, by their paths on the node.
func (c *Cluster) BucketFiles() map[string][]byte {
	list := map[string][]byte{}
	if c.Etcd.Backup == nil {
		return list
	}
	for i, t := range c.Etcd.Backup.To {
		if b := c.nodeBucket(i, t.S3); b != nil {
			list[b.Credentials] = c.bucketFiles[t.S3.Credentials]
			if b.CA != "" {
				list[b.CA] = c.bucketFiles[t.S3.CA]
			}
		}
	}
	return list
}

// Buckets are the buckets that snapshots are pushed to, with the content of their files.
func (c *Cluster) Buckets() []BucketAccess {
	var list []BucketAccess
	if c.Etcd.Backup == nil {
		return nil
	}
	for _, t := range c.Etcd.Backup.To {
		if t.S3 != (Bucket{}) {
			list = append(list, BucketAccess{t.S3, c.bucketFiles[t.S3.Credentials], c.bucketFiles[t.S3.CA]})
		}
	}
	return list
}

// BucketAccess is a bucket and what it takes to get in.
type BucketAccess struct {
	Bucket
	Keys      []byte // the file of credentials
	Authority []byte // PEM; none: those of the system
}

// nodeBucket is the i-th target's bucket as a node has it; nil: it is none.
func (c *Cluster) nodeBucket(i int, b Bucket) *bootspec.S3Bucket {
	if b == (Bucket{}) {
		return nil
	}
	on := &bootspec.S3Bucket{Endpoint: b.Endpoint, Region: b.Region, Bucket: b.Bucket, Prefix: b.Prefix}
	on.Credentials = fmt.Sprintf("%s/%d.credentials", bootspec.BucketDirectory, i)
	if b.CA != "" {
		on.CA = fmt.Sprintf("%s/%d.crt", bootspec.BucketDirectory, i)
	}
	return on
}

// within tells of folders that the agent may write to: its unit has no /home.
func within(dir string) bool {
	for _, parent := range []string{"/var/", "/srv/", "/opt/"} {
		if strings.HasPrefix(dir, parent) {
			return true
		}
	}
	return false
}

// EtcdBackup is how a node keeps snapshots of etcd; nil when it keeps none.
func (c *Cluster) EtcdBackup(n *Node) *bootspec.EtcdBackup {
	b := c.Etcd.Backup
	if b == nil || n.Role != RoleControlPlane {
		return nil
	}
	plan := &bootspec.EtcdBackup{EverySeconds: int64(time.Duration(b.Every) / time.Second), Keep: b.Keep, Directory: b.Directory}
	for _, r := range b.Recipients {
		plan.Recipients = append(plan.Recipients, string(r))
	}
	for i, t := range b.To {
		plan.To = append(plan.To, bootspec.BackupTarget{Directory: t.Directory, Server: c.depot(t), S3: c.nodeBucket(i, t.S3)})
	}
	return plan
}

func (c *Cluster) depot(t Target) string {
	if !t.Server {
		return ""
	}
	return c.Depot()
}

// Depot is where the boot server takes snapshots of etcd; empty: nowhere.
func (c *Cluster) Depot() string {
	if c.Etcd.Backup == nil || !slices.ContainsFunc(c.Etcd.Backup.To, func(t Target) bool { return t.Server }) {
		return ""
	}
	return netip.AddrPortFrom(c.Provisioning.Server, bootspec.DepotPort).String()
}
