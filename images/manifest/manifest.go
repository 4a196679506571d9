// Package manifest describes a baked image: which files belong to it, with sizes and digests, and what went in.
//
// A manifest is canonical JSON (encoding/json with sorted content, two-space indent, one newline at the end), so that
// equal images have equal manifests. It is not a lock (see builder/plan): a lock says what shall go in, a manifest says
// what came out.
package manifest

// Version is the manifest's apiVersion; Kind its kind.
const (
	Version = "slipway.dev/v1alpha1"
	Kind    = "Manifest"
)

// Manifest is one image: one role, one version, one architecture.
type Manifest struct {
	APIVersion string      `json:"apiVersion"`
	Kind       string      `json:"kind"`
	Role       string      `json:"role"`
	Version    string      `json:"version"`
	Arch       string      `json:"arch"` // Go's name: amd64, arm64
	Plan       string      `json:"plan"` // SHA-256 of the plan's JSON
	Root       Root        `json:"root"`
	Cmdline    string      `json:"cmdline"` // kernel command line in the UKI
	Artifacts  []Artifact  `json:"artifacts"`
	Packages   []Package   `json:"packages"`
	Components []Component `json:"components"`
	Images     []Image     `json:"containerImages"`
	// RootSlot is the size in bytes of each root partition of the disk images, where it was asked for; 0 means the default.
	RootSlot int64 `json:"rootSlot,omitempty"`
}

// Root is the root image.
type Root struct {
	Hash string `json:"hash"` // dm-verity root hash
	Data int64  `json:"data"` // bytes of squashfs data
}

// Artifact is one file beside the manifest.
type Artifact struct {
	Name   string `json:"name"` // file name, no path
	Kind   string `json:"kind"` // uki, root, kernel, initrd, cmdline, bios, disk, disk-4k, iso, disk.zst, disk.bmap, sbom...
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Package is a Debian package in the image.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	SHA256  string `json:"sha256"`
}

// Component is a component built for the image.
type Component struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Key     string `json:"key"` // digest of everything that went in
}

// Image is a container image in the root image.
type Image struct {
	Reference string `json:"reference"`
	Digest    string `json:"digest"` // sha256:...
}
