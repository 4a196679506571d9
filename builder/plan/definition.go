package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/images/document"
	"github.com/slipway-os/slipway/images/version"
)

// Definition is the image definition document (images/definition.yaml), with what it includes merged in.
type Definition struct {
	APIVersion      string           `yaml:"apiVersion"`
	Kind            string           `yaml:"kind"`    // Image
	Include         []string         `yaml:"include"` // definitions that this one changes; relative to its own folder
	Remove          Removals         `yaml:"remove"`  // what this one doesn't want of what those have
	Version         string           `yaml:"version"`
	Mirror          string           `yaml:"mirror"`   // optional; see archive.FindMirrors
	Snapshot        archive.Snapshot `yaml:"snapshot"` // optional: the archives as they were then
	Archives        []Archive        `yaml:"archives"`
	Packages        []string         `yaml:"packages"` // and what they depend on
	Omit            []string         `yaml:"omit"`     // never taken: only maintainer scripts need them
	Tools           []string         `yaml:"tools"`    // packages of programs that a bake runs, and what they depend on
	Kernel          string           `yaml:"kernel"`   // package; {arch} is replaced
	KernelArguments []string         `yaml:"kernelArguments"`
	Initrd          Initrd           `yaml:"initrd"`
	PruneModules    []string         `yaml:"pruneModules"`
	Exclude         []string         `yaml:"exclude"`
	FirmwareFiles   []string         `yaml:"firmwareFiles"` // patterns below usr/lib/firmware; without any, all that packages bring
	Compression     Compression      `yaml:"compression"`
	ContainerImages []ContainerImage `yaml:"containerImages"`
	Files           []FileSource     `yaml:"files"`
	Absent          []Absence        `yaml:"absent"`   // what may be referred to and not be there
	Firmware        []Firmware       `yaml:"firmware"` // modules that may lack firmware files

	// Libraries are packages of headers and static C libraries, and what they depend on: components that need C are built
	// with those, and not with this machine's. Only an architecture's own document has them.
	Libraries []string `yaml:"-"`

	digest   string              // of the documents' bytes
	files    []File              // what Files name, read, by path
	places   map[string]place    // where values stand: files["/etc/motd"], containerImages["pause"]
	variants map[string]*variant // by Go's name, those of architectures that have documents of their own
}

// Removals are what a definition takes away from what it includes. What is not there to take away is a fault.
type Removals struct {
	Archives        []string `yaml:"archives"` // NAME SUITE: debian trixie-updates
	Packages        []string `yaml:"packages"`
	Omit            []string `yaml:"omit"`
	Tools           []string `yaml:"tools"`
	KernelArguments []string `yaml:"kernelArguments"`
	Initrd          Initrd   `yaml:"initrd"`
	PruneModules    []string `yaml:"pruneModules"`
	Exclude         []string `yaml:"exclude"`
	FirmwareFiles   []string `yaml:"firmwareFiles"`
	ContainerImages []string `yaml:"containerImages"` // names
	Files           []string `yaml:"files"`           // paths of the image
	Absent          []string `yaml:"absent"`          // who refers: what is in from
	Firmware        []string `yaml:"firmware"`        // modules
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
	By     string   `yaml:"-" json:"-"`           // where it is declared: definition.yaml, absent[0]
}

// Firmware are kernel modules that may lack firmware files.
type Firmware struct {
	Modules []string `yaml:"modules" json:"modules"` // by name
	Reason  string   `yaml:"reason" json:"reason"`
	By      string   `yaml:"-" json:"-"` // where it is declared: definition.yaml, firmware[0]
}

// LoadDefinition reads a definition of an images folder strictly, with what it includes, the documents of architectures
// beside it and the files that it names. The name is a path in the folder; the folder's own is for messages. The error is
// document.Faults, which has every fault of all documents with its place.
func LoadDefinition(images fs.FS, name, folder string) (*Definition, error) {
	l := &loader{images: images, folder: folder}
	l.load(name, l.missing(name))
	m := &merger{def: &Definition{APIVersion: APIVersion, Kind: "Image", places: map[string]place{}}}
	for _, p := range l.parts {
		m.add(p)
	}
	if faults := l.sorted(append(l.faults, m.finish(l)...)); len(faults) > 0 {
		return nil, fmt.Errorf("cannot use image definition:\n%w", faults)
	}
	m.def.digest = l.digest()
	return m.def, nil
}

// digest is that of one document's bytes, or of the digests of several, in the order they are read in.
func (l *loader) digest() string {
	h := sha256.New()
	for _, p := range l.parts {
		if len(l.parts) == 1 {
			h.Write(p.data)
			continue
		}
		sum := sha256.Sum256(p.data)
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil))
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

// fault places what is wrong with a value of the definition that others found out, such as a file that a role has too.
func (d *Definition) fault(key, message, hint string) error {
	at := d.places[key]
	if at.source == nil {
		return document.Faults{{Path: key, Message: message, Hint: hint}}
	}
	return document.Faults{at.source.Fault(at.path, message, hint)}
}
