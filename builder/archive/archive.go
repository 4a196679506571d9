// Package archive reads signed Debian archives: it finds a mirror, verifies a suite's index by its OpenPGP signature,
// reads its package lists and downloads files into a cache by digest.
//
// Words: an archive is what a mirror keeps in one folder (debian, debian-security); a suite is one of its releases
// (trixie, trixie-updates); a mirror is where archives are fetched from and is never written down in a lock; a file's
// path begins with the archive's name (debian/pool/main/...).
//
// Trust comes from the signature alone: every byte from a mirror passes a reader that checks its size and digest. The
// clock is an argument. It does not choose packages (see builder/plan) or open them (see builder/deb).
package archive

import (
	"errors"
	"fmt"
	"time"
)

// Suite names one suite of an archive and who may sign it.
type Suite struct {
	Archive    string   // debian, debian-security
	Name       string   // trixie, trixie-security
	Components []string // main
	Arch       string   // Debian's name: amd64, arm64
	Keys       Keys     // at least one of these must have signed
}

// String is "debian trixie".
func (s Suite) String() string { return s.Archive + " " + s.Name }

// File is one file of an archive.
type File struct {
	Path   string // archive name + path in it
	Size   int64  // bytes
	SHA256 string // hexadecimal, lower case
}

// Release is what a suite's signed index says.
type Release struct {
	Suite      Suite
	Date       time.Time
	ValidUntil time.Time // zero: no limit, as in stable
	SHA256     string    // of the InRelease (or Release) file
	Signer     string    // fingerprint of the key whose signature was good
	Expired    bool      // ValidUntil is past, and the mirror's settings allow it

	byHash bool
	files  map[string]File // by path below dists/SUITE
}

// Package is one package of an archive's list. Relationship fields are as written; they are parsed by who needs them.
type Package struct {
	Name, Version, Arch string
	File                File
	PreDepends, Depends string
	Conflicts, Breaks   string
	Provides            string
}

// Errors that callers branch on.
var (
	// ErrGone: the mirror does not have the file (any more).
	ErrGone = errors.New("the mirror does not have it")
	// ErrDigest: what came is not what was asked for.
	ErrDigest = errors.New("wrong content")
	// ErrSignature: an index is not signed by a key that is trusted for it.
	ErrSignature = errors.New("bad signature")
	// ErrExpired: an index is past its Valid-Until.
	ErrExpired = errors.New("expired")
)

// FileError says which file could not be had. It wraps the cause (ErrGone, ErrDigest, ...).
type FileError struct {
	File File
	URL  string
	Err  error
}

func (e *FileError) Error() string { return fmt.Sprintf("cannot fetch %s: %v", e.URL, e.Err) }

func (e *FileError) Unwrap() error { return e.Err }
