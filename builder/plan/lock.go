package plan

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/images/document"
)

// Errors that callers branch on. What each message says ends with what to do.
var (
	// ErrStale: the lock was made from something else than what is asked of it now.
	ErrStale = errors.New("the lock is stale")
	// ErrMoved: the mirror no longer has a file that the lock names.
	ErrMoved = errors.New("the mirror has moved on")
	// ErrNoLock: there is no lock yet.
	ErrNoLock = errors.New("there is no lock")
	// ErrBadLock: the lock is not what `slipway lock` writes.
	ErrBadLock = errors.New("the lock can't be used")
)

// Names in an images folder.
const (
	LockName       = "lock.json"
	DefinitionName = "definition.yaml"
	KeysName       = "keys"
)

// LockCommand is what writes a lock; messages name it.
const LockCommand = "slipway lock"

// Lock is the lock document (images/lock.json).
type Lock struct {
	APIVersion    string               `json:"apiVersion"`
	Kind          string               `json:"kind"`          // Lock
	Architectures map[string]*ArchLock `json:"architectures"` // by Go's name

	digest string
}

// Digest is the SHA-256 of the document's bytes, hexadecimal; empty when it was not read.
func (l *Lock) Digest() string { return l.digest }

// ArchLock is the lock of one architecture.
type ArchLock struct {
	Asked    Asked               `json:"asked"`
	Archives []LockedArchive     `json:"archives"`
	Kernel   string              `json:"kernel"` // name of the kernel's package in Packages
	Roles    map[string][]string `json:"roles"`  // names of the packages of each role, sorted, without the kernel
	Tools    []string            `json:"tools"`  // names of the packages that a bake on such a machine runs programs of, sorted
	// Libraries are the names of the packages whose C libraries components are built with, sorted.
	Libraries []string            `json:"libraries,omitempty"`
	Omitted   map[string][]string `json:"omitted"`  // what was left out, and the packages that depend on it
	Packages  []Package           `json:"packages"` // all, sorted by name

	// Snapshots are the dates of archives that packages are of, where it was made from such; they are fetched from there.
	Snapshots []archive.Snapshot `json:"snapshots,omitempty"`
	// Relations are what the packages say of each other, by name: so they can be locked again when no mirror has them any
	// more. Locks that were written before there were such have none.
	Relations map[string]Relations `json:"relations,omitempty"`
	// Images are the definition's container images that come as they are, by name.
	Images map[string]LockedImage `json:"containerImages,omitempty"`

	why map[string]string // packages that moved because of another one, and that; of a lock that was just made
}

// Relations are relationship fields of a package (policy 7), as written there.
type Relations struct {
	PreDepends string `json:"preDepends,omitempty"`
	Depends    string `json:"depends,omitempty"`
	Conflicts  string `json:"conflicts,omitempty"`
	Breaks     string `json:"breaks,omitempty"`
	Provides   string `json:"provides,omitempty"`
}

// LockedImage is a container image that comes as it is, for one architecture.
type LockedImage struct {
	Digest string `json:"digest"` // sha256:... of its manifest
	Size   int64  `json:"size"`   // bytes of the manifest and all it names
}

// Asked is what a lock was made from; a difference makes it stale.
type Asked struct {
	Archives  []Archive           `json:"archives"`
	Packages  []string            `json:"packages"`
	Omit      []string            `json:"omit"`
	Tools     []string            `json:"tools"`
	Libraries []string            `json:"libraries,omitempty"`
	Kernel    string              `json:"kernel"`
	Roles     map[string][]string `json:"roles"` // the roles' own packages

	Snapshot archive.Snapshot  `json:"snapshot,omitempty"`        // the definition's
	Images   map[string]string `json:"containerImages,omitempty"` // that come as they are: name to archive's path or digest in the registry
}

// LockedArchive is the signed index a lock was made from.
type LockedArchive struct {
	Name   string `json:"name"`
	Suite  string `json:"suite"`
	Date   string `json:"date"`   // RFC 3339, the index's own
	SHA256 string `json:"sha256"` // of InRelease
	Signer string `json:"signer"` // fingerprint of the key whose signature was good
}

// maxLock bounds a lock file in bytes.
const maxLock = 64 << 20

// ReadLock reads a lock strictly and checks it. The error wraps ErrNoLock if there is none.
func ReadLock(file string) (*Lock, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read %s: %w: run `%s`", file, ErrNoLock, LockCommand)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read lock: %w", err)
	}
	lock, err := parseLock(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s:%w: was it edited by hand? `%s` writes it anew", ErrBadLock, file, err, LockCommand)
	}
	return lock, nil
}

func parseLock(data []byte) (*Lock, error) {
	if len(data) > maxLock {
		return nil, fmt.Errorf(" %d bytes are too many", len(data))
	}
	lock := &Lock{digest: fmt.Sprintf("%x", sha256.Sum256(data))}
	text, err := readStrict(data, lock)
	if err != nil {
		return nil, err
	}
	if lock.APIVersion != APIVersion || lock.Kind != "Lock" {
		return nil, text.fault("kind", fmt.Errorf("it is a %q of %q, not a Lock of %s", lock.Kind, lock.APIVersion, APIVersion))
	}
	for _, arch := range slices.Sorted(maps.Keys(lock.Architectures)) {
		c := lockChecker{text, document.Key("architectures", arch), arch, lock.Architectures[arch]}
		if err := c.check(); err != nil {
			return nil, err
		}
	}
	return lock, nil
}

// WriteLock writes a lock in its canonical form: beside, synced, then renamed, so that a reader sees the old or the new.
func WriteLock(file string, lock *Lock) error {
	if err := writeFile(file, canonical(lock)); err != nil {
		return fmt.Errorf("cannot write lock: %w", err)
	}
	return nil
}

func writeFile(file string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// epoch is the newest date of the archives, Unix seconds: the time of all files in an image.
func (l *ArchLock) epoch() int64 {
	var newest int64
	for _, a := range l.Archives {
		if t, err := time.Parse(time.RFC3339, a.Date); err == nil {
			newest = max(newest, t.Unix())
		}
	}
	return newest
}

// find is the locked package of a name; check has seen that it is there.
func (l *ArchLock) find(name string) (Package, bool) {
	i, ok := slices.BinarySearchFunc(l.Packages, name, func(p Package, n string) int { return strings.Compare(p.Name, n) })
	if !ok {
		return Package{}, false
	}
	return l.Packages[i], true
}
