package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/document"
)

// architecture is a document images/definition-ARCH.yaml: what is different in the images of one architecture. What it
// doesn't speak of is as the definition has it, and images of others don't change with it.
type architecture struct {
	APIVersion      string   `yaml:"apiVersion"`
	Kind            string   `yaml:"kind"` // ImageArchitecture
	Arch            string   `yaml:"arch"` // Go's name, as in the file's name
	Packages        edit     `yaml:"packages"`
	Omit            edit     `yaml:"omit"`
	Libraries       []string `yaml:"libraries"` // see Definition
	KernelArguments edit     `yaml:"kernelArguments"`
	Initrd          struct {
		Modules edit `yaml:"modules"`
	} `yaml:"initrd"`
	PruneModules edit `yaml:"pruneModules"`
	Exclude      edit `yaml:"exclude"`

	digest string // of the document's bytes
}

// edit changes a list: what is dropped must be there, what is added goes behind the rest.
type edit struct {
	Drop []string `yaml:"drop"`
	Add  []string `yaml:"add"`
}

func (e edit) apply(list []string) []string {
	kept := slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(e.Drop, s) })
	return append(kept, e.Add...)
}

const (
	architecturePrefix = "definition-"
	architectureSuffix = ".yaml"
)

// loadArchitectures reads the documents of architectures in an images folder. The error has the faults of all.
func (d *Definition) loadArchitectures(images string) error {
	files, err := filepath.Glob(filepath.Join(images, architecturePrefix+"*"+architectureSuffix))
	if err != nil {
		return fmt.Errorf("cannot list image definitions: %w", err)
	}
	var faults []error
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a link to nothing, as editors leave them
		}
		if err != nil {
			return fmt.Errorf("cannot read image definition: %w", err)
		}
		faults = append(faults, d.addArchitecture(file, data))
	}
	return errors.Join(faults...)
}

// addArchitecture reads one strictly. The definition that it makes of this one is checked like any.
func (d *Definition) addArchitecture(name string, data []byte) error {
	a := &architecture{}
	source, err := document.Decode(name, data, a)
	check := &checker{source: source}
	check.architecture(d, a, strings.TrimSuffix(strings.TrimPrefix(filepath.Base(name), architecturePrefix), architectureSuffix))
	if err := document.Join(err, check.faults); err != nil {
		return fmt.Errorf("cannot use image definition:\n%w", err)
	}
	sum := sha256.Sum256(data)
	a.digest = hex.EncodeToString(sum[:])
	if d.architectures == nil {
		d.architectures = map[string]*architecture{}
	}
	d.architectures[a.Arch] = a
	return nil
}

func (c *checker) architecture(d *Definition, a *architecture, arch string) {
	if a.APIVersion != APIVersion {
		c.fault("apiVersion", "use "+APIVersion, "unknown version %q", a.APIVersion)
	}
	if a.Kind != "ImageArchitecture" {
		c.fault("kind", "use ImageArchitecture", "unknown kind %q", a.Kind)
	}
	if !word.MatchString(a.Arch) || a.Arch != arch {
		c.fault("arch", "as in the file's name", "%q is not %q", a.Arch, arch)
	}
	c.edit("packages", d.Packages, a.Packages, packageName)
	c.edit("omit", d.Omit, a.Omit, packageName)
	c.each("libraries", a.Libraries, "", packageName)
	c.edit("kernelArguments", d.KernelArguments, a.KernelArguments, kernelArgument)
	c.edit("initrd.modules", d.Initrd.Modules, a.Initrd.Modules, match(module, "a module's name"))
	c.edit("pruneModules", d.PruneModules, a.PruneModules, checkPattern)
	c.edit("exclude", d.Exclude, a.Exclude, checkPattern)
	packages, omit := a.Packages.apply(d.Packages), a.Omit.apply(d.Omit)
	for _, name := range packages {
		if slices.Contains(omit, name) {
			c.fault("packages", "take it out of one of them", "%s is in omit too", name)
		}
	}
}

// edit checks what is added, and that what is dropped is there.
func (c *checker) edit(list string, have []string, e edit, check func(string) error) {
	c.each(list+".add", e.Add, "", check)
	c.each(list+".drop", e.Drop, "", func(s string) error {
		if !slices.Contains(have, s) {
			return fmt.Errorf("%q is not in %s", s, DefinitionName)
		}
		return nil
	})
	for i, s := range e.Add {
		if slices.Contains(have, s) {
			c.fault(index(list+".add", i), "", "%q is in %s already", s, DefinitionName)
		}
	}
}

// For is the definition for images of an architecture.
func (d *Definition) For(arch string) *Definition {
	a := d.architectures[arch]
	if a == nil {
		return d
	}
	changed := *d
	changed.Packages, changed.Omit = a.Packages.apply(d.Packages), a.Omit.apply(d.Omit)
	changed.Libraries = a.Libraries
	changed.KernelArguments = a.KernelArguments.apply(d.KernelArguments)
	changed.Initrd.Modules = a.Initrd.Modules.apply(d.Initrd.Modules)
	changed.PruneModules, changed.Exclude = a.PruneModules.apply(d.PruneModules), a.Exclude.apply(d.Exclude)
	sum := sha256.Sum256([]byte(d.digest + a.digest))
	changed.digest = hex.EncodeToString(sum[:])
	return &changed
}

// bakesOthers says whether machines of an architecture bake images of others too: those that the definition itself is for. The
// programs of one with a document of its own are in no other architecture's plan, so that locking it changes none.
func (d *Definition) bakesOthers(arch string) bool { return d.architectures[arch] == nil }
