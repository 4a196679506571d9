package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/slipway-os/slipway/images/document"
	"github.com/slipway-os/slipway/images/version"
)

// Definition is the image definition document (images/definition.yaml).
type Definition struct {
	APIVersion      string           `yaml:"apiVersion" json:"apiVersion"`
	Kind            string           `yaml:"kind" json:"kind"` // Image
	Version         string           `yaml:"version" json:"version"`
	Mirror          string           `yaml:"mirror" json:"mirror,omitempty"` // optional; see archive.FindMirrors
	Archives        []Archive        `yaml:"archives" json:"archives"`
	Packages        []string         `yaml:"packages" json:"packages"` // and what they depend on
	Omit            []string         `yaml:"omit" json:"omit"`         // never taken: only maintainer scripts need them
	Tools           []string         `yaml:"tools" json:"tools"`       // packages of programs that a bake runs, and what they depend on
	Kernel          string           `yaml:"kernel" json:"kernel"`     // package; {arch} is replaced
	KernelArguments []string         `yaml:"kernelArguments" json:"kernelArguments"`
	Initrd          Initrd           `yaml:"initrd" json:"initrd"`
	PruneModules    []string         `yaml:"pruneModules" json:"pruneModules"`
	Exclude         []string         `yaml:"exclude" json:"exclude"`
	Compression     Compression      `yaml:"compression" json:"compression"`
	ContainerImages []ContainerImage `yaml:"containerImages" json:"containerImages"`
	Absent          []Absence        `yaml:"absent" json:"absent,omitempty"`     // what may be referred to and not be there
	Firmware        []Firmware       `yaml:"firmware" json:"firmware,omitempty"` // modules that may lack firmware files

	// Libraries are packages of headers and static C libraries, and what they depend on: components that need C are built
	// with those, and not with this machine's. Only an architecture's own document has them.
	Libraries []string `yaml:"-" json:"libraries,omitempty"`

	digest        string                   // of the document's bytes
	architectures map[string]*architecture // by Go's name, those that have a document of their own
}

// Archive is one suite of a Debian archive.
type Archive struct {
	Name       string   `yaml:"name" json:"name"`   // debian, debian-security: the folder a mirror keeps it in
	Suite      string   `yaml:"suite" json:"suite"` // trixie, trixie-security
	Components []string `yaml:"components" json:"components"`
	Keys       []string `yaml:"keys" json:"keys"` // file names in images/keys; a signature of one of them is needed
}

// Absence is a file in the image that refers to things that are not in it, on purpose.
type Absence struct {
	From   string   `yaml:"from" json:"from"`     // its path, without a slash at its beginning; * is one path element or a part of one
	To     []string `yaml:"to" json:"to"`         // what it refers to, as the bake's message says it; may have * too
	Reason string   `yaml:"reason" json:"reason"` // why that is right
}

// Firmware are kernel modules that may lack firmware files.
type Firmware struct {
	Modules []string `yaml:"modules" json:"modules"` // by name
	Reason  string   `yaml:"reason" json:"reason"`
}

// LoadDefinition reads a definition strictly. The name is for messages; the error is document.Faults, which has every
// fault with its place.
func LoadDefinition(name string, data []byte) (*Definition, error) {
	def := &Definition{}
	source, err := document.Decode(name, data, def)
	check := &checker{source: source}
	check.definition(def)
	if err := document.Join(err, check.faults); err != nil {
		return nil, fmt.Errorf("cannot use image definition:\n%w", err)
	}
	sum := sha256.Sum256(data)
	def.digest = hex.EncodeToString(sum[:])
	return def, nil
}

// WithBuild is the definition with build metadata in its version: of 0.1.0 with ci.57, 0.1.0+ci.57. An empty one changes nothing.
func (d *Definition) WithBuild(build string) (*Definition, error) {
	if build == "" {
		return d, nil
	}
	changed := *d
	var err error
	changed.Version, err = version.WithBuild(d.Version, build)
	return &changed, err
}

// ForRelease is the definition with the level that releases are packed with.
func (d *Definition) ForRelease() *Definition {
	changed := *d
	if d.Compression.ReleaseLevel != 0 {
		changed.Compression.Level = d.Compression.ReleaseLevel
	}
	return &changed
}
