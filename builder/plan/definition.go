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
	Firmware        []string         `yaml:"firmware"` // patterns below usr/lib/firmware; without any, all that packages bring
	Compression     Compression      `yaml:"compression"`
	ContainerImages []ContainerImage `yaml:"containerImages"`
	Files           []FileSource     `yaml:"files"`

	folder string           // the images folder, where files and archives are
	digest string           // of the documents' bytes
	files  []File           // what Files name, read, by path
	places map[string]place // where values stand: files["/etc/motd"], containerImages["pause"]
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
	Firmware        []string `yaml:"firmware"`
	ContainerImages []string `yaml:"containerImages"` // names
	Files           []string `yaml:"files"`           // paths of the image
}

// Archive is one suite of a Debian archive.
type Archive struct {
	Name       string   `yaml:"name" json:"name"`   // debian, debian-security: the folder a mirror keeps it in
	Suite      string   `yaml:"suite" json:"suite"` // trixie, trixie-security
	Components []string `yaml:"components" json:"components"`
	Keys       []string `yaml:"keys" json:"keys"` // file names in images/keys; a signature of one of them is needed
}

// LoadDefinition reads a definition of an images folder strictly, with what it includes and the files that it names. The
// name is a path in the folder; the folder's own is for messages. The error is document.Faults, which has every fault of
// all documents with its place.
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

// fault places what is wrong with a value of the definition that others found out, such as a file that a role has too.
func (d *Definition) fault(key, message, hint string) error {
	at := d.places[key]
	if at.source == nil {
		return document.Faults{{Path: key, Message: message, Hint: hint}}
	}
	return document.Faults{at.source.Fault(at.path, message, hint)}
}
