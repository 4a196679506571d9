// Package plan turns an image definition, a lock and a role into a plan: everything a bake needs, resolved and pinned.
//
// Words: a definition says what an image is made of (images/definition.yaml); a lock says which package versions that
// is today, per architecture and role (images/lock.json); a plan is both for one role and one architecture, as
// canonical JSON. Nothing is resolved after a plan is made, and making one does no I/O.
//
// It is not for downloading (builder/archive) and not for building an image (builder/bake). It knows no cluster.
package plan

import (
	"bytes"
	"encoding/json"

	"github.com/slipway-os/slipway/builder/archive"
)

// APIVersion of definition, lock and plan documents.
const APIVersion = "slipway.dev/v1alpha1"

// Plan is everything a bake of one role needs. It holds no host names and no paths of the machine it was made on.
type Plan struct {
	APIVersion      string           `json:"apiVersion"`
	Kind            string           `json:"kind"` // Plan
	Role            string           `json:"role"`
	RoleDigest      string           `json:"roleDigest"`       // SHA-256 of the resolved role
	Version         string           `json:"version"`          // image version
	Arch            string           `json:"arch"`             // Go's name, which is Debian's for amd64 and arm64
	Epoch           int64            `json:"epoch"`            // time of all files, Unix seconds
	Definition      string           `json:"definitionDigest"` // SHA-256 of the definition document's bytes
	Packages        []Package        `json:"packages"`         // sorted by name; without the kernel
	Kernel          Package          `json:"kernel"`           // taken without its dependencies
	KernelRelease   string           `json:"kernelRelease"`    // 6.12.117+deb13-amd64, as in /lib/modules
	KernelArguments []string         `json:"kernelArguments"`  // in order, without those of bootspec.Root
	Modules         []string         `json:"modules"`          // kernel modules the role loads at boot, sorted
	PruneModules    []string         `json:"pruneModules"`     // patterns below /lib/modules/RELEASE/kernel
	Exclude         []string         `json:"exclude"`          // path patterns that are left out of the root tree
	Components      []string         `json:"components"`       // in the root image, sorted
	ContainerImages []ContainerImage `json:"containerImages"`  // in the root image, sorted by name
	Absent          []Absence        `json:"absent,omitempty"`
	Firmware        []Firmware       `json:"firmware,omitempty"`
	Initrd          Initrd           `json:"initrd"`
	Compression     Compression      `json:"compression"`
	// Tools are the packages of the programs that a bake runs, by the architecture of the machine that bakes. Without
	// any for its own, a bake runs that machine's programs.
	Tools map[string][]Package `json:"tools"`
	// Libraries are the packages of the C libraries that components are built with; without any, this machine's are.
	Libraries []Package `json:"libraries,omitempty"`
	// Snapshots are the dates of the archives that the packages are of (20261101T000000Z), where the lock was made from such.
	Snapshots     []archive.Snapshot `json:"snapshots,omitempty"`
	Files         []File             `json:"files,omitempty"`         // of the definition, by path
	FirmwareFiles []string           `json:"firmwareFiles,omitempty"` // patterns of what is taken below usr/lib/firmware; without any, everything
}

// Package is one file of a Debian archive.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`   // amd64, arm64, all
	Path    string `json:"path"`   // archive name + path in it: debian/pool/main/s/systemd/udev_257.13-1_amd64.deb
	Size    int64  `json:"size"`   // bytes
	SHA256  string `json:"sha256"` // hexadecimal, lower case
}

// ContainerImage is an OCI image: made of one component, or one that comes as it is, from an archive or a registry.
type ContainerImage struct {
	Name       string   `yaml:"name" json:"name"`
	Reference  string   `yaml:"reference" json:"reference"` // slipway.local/pause:0.1.0; what pods name
	Component  string   `yaml:"component" json:"component,omitempty"`
	Entrypoint []string `yaml:"entrypoint" json:"entrypoint,omitempty"`
	Args       []string `yaml:"args" json:"args,omitempty"`
	User       string   `yaml:"user" json:"user,omitempty"`   // UID:GID, numbers
	Ports      []string `yaml:"ports" json:"ports,omitempty"` // 53/udp

	Archive string   `yaml:"archive" json:"-"` // OCI archive: in a definition relative to its file, in a Definition a path in the images folder
	Source  string   `yaml:"source" json:"-"`  // registry.example.com/team/exporter@sha256:...; no plan names a registry to fetch from
	Roles   []string `yaml:"roles" json:"-"`   // roles that have it besides those that name it

	Digest string `yaml:"-" json:"digest,omitempty"` // sha256:... of the manifest for the plan's architecture, of one that comes as it is
	Size   int64  `yaml:"-" json:"size,omitempty"`   // bytes of that manifest and all it names
}

// external: it comes as it is, and is not made of a component.
func (c ContainerImage) external() bool { return c.Archive != "" || c.Source != "" || c.Digest != "" }

// Initrd is what the first stage needs besides the agent itself.
type Initrd struct {
	Modules    []string `yaml:"modules" json:"modules"`       // by name, with whatever they depend on
	Components []string `yaml:"components" json:"components"` // such as ignition
}

// Compression is how the root image is packed.
type Compression struct {
	Algorithm string `yaml:"algorithm" json:"algorithm"` // zstd
	Level     int    `yaml:"level" json:"level"`         // 1 to 22
	BlockSize int    `yaml:"blockSize" json:"blockSize"` // bytes, a power of two, 4 KiB to 1 MiB
	// ReleaseLevel is a definition's level for releases, 1 to 22; 0: as Level. A plan is for one level, so that it is not in its JSON.
	ReleaseLevel int `yaml:"releaseLevel" json:"-"`
}

// JSON is the plan's canonical form: two-space indent, one newline at the end; equal plans have equal bytes.
func (p *Plan) JSON() []byte { return canonical(p) }

func canonical(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		panic("plan: " + err.Error()) // plain structs always encode
	}
	return b.Bytes()
}
