package plan

import "errors"

// ErrStale means that the lock was made from something else than what is asked of it now.
var ErrStale = errors.New("the lock is stale")

// LockName is the lock's file name in an images folder; DefinitionName the definition's; KeysName the keys' folder.
const (
	LockName       = "lock.json"
	DefinitionName = "definition.yaml"
	KeysName       = "keys"
)

// Lock is the lock document (images/lock.json).
type Lock struct {
	APIVersion    string               `json:"apiVersion"`
	Kind          string               `json:"kind"`          // Lock
	Architectures map[string]*ArchLock `json:"architectures"` // by Go's name
}

// ArchLock is the lock of one architecture.
type ArchLock struct {
	Asked    Asked               `json:"asked"`
	Archives []LockedArchive     `json:"archives"`
	Kernel   string              `json:"kernel"`   // name of the kernel's package in Packages
	Packages []Package           `json:"packages"` // all, sorted by name
	Roles    map[string][]string `json:"roles"`    // names of the packages of each role, sorted, without the kernel
	Omitted  map[string][]string `json:"omitted"`  // what was left out, and the packages that depend on it
}

// Asked is what a lock was made from; a difference makes it stale.
type Asked struct {
	Archives []Archive           `json:"archives"`
	Packages []string            `json:"packages"`
	Omit     []string            `json:"omit"`
	Kernel   string              `json:"kernel"`
	Roles    map[string][]string `json:"roles"` // the roles' own packages
}

// LockedArchive is the signed index a lock was made from.
type LockedArchive struct {
	Name   string `json:"name"`
	Suite  string `json:"suite"`
	Date   string `json:"date"`   // RFC 3339, the index's own
	SHA256 string `json:"sha256"` // of InRelease
	Signer string `json:"signer"` // fingerprint of the key whose signature was good
}
