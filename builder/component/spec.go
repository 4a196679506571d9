package component

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/slipway-os/slipway/images/document"
)

const apiVersion = "slipway.dev/v1alpha1"

// Spec is one component.yaml.
type Spec struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"` // Component
	Metadata   Metadata `yaml:"metadata"`
	Version    string   `yaml:"version"` // what its users call this version
	// Source is where the programs come from: "go" (the default) builds them, "url" downloads them.
	Source string `yaml:"source"`
	// Module is the folder of the Go module, relative to the definition; default: the definition's own folder.
	Module string  `yaml:"module"`
	Builds []Build `yaml:"builds"`
	// Patches change modules that the component's depends on, in a copy.
	Patches []Patch `yaml:"patches"`
	// Downloads are the programs of source "url".
	Downloads []Download `yaml:"downloads"`
	// HostPackages are the Debian packages that building needs beside Go.
	HostPackages []string `yaml:"hostPackages"`
	// HostLibraries are the static C libraries that get linked in, each with the Debian package that has it.
	HostLibraries map[string]string `yaml:"hostLibraries"`

	dir  string // of the definition
	text []byte // of the definition
}

// Metadata names a component.
type Metadata struct {
	Name string `yaml:"name"` // [a-z0-9-]+, the name of its folder
}

// Build is one binary.
type Build struct {
	Package string   `yaml:"package"` // relative to the module, or the import path of a dependency
	Output  string   `yaml:"output"`  // absolute path in the image
	Links   []string `yaml:"links"`   // absolute paths of symbolic links to the output
	CGO     bool     `yaml:"cgo"`
	Tags    []string `yaml:"tags"`
	LDFlags []string `yaml:"ldflags"` // in addition to those every build has
}

func (b Build) cgoSetting() string {
	if b.CGO {
		return "CGO_ENABLED=1"
	}
	return "CGO_ENABLED=0"
}

// Download is one binary as its makers built it.
type Download struct {
	Arch   string   `yaml:"arch"` // as Go names it
	URL    string   `yaml:"url"`
	SHA256 string   `yaml:"sha256"` // hex
	Size   int64    `yaml:"size"`   // bytes
	Output string   `yaml:"output"` // absolute path in the image
	Links  []string `yaml:"links"`  // absolute paths of symbolic links to the output
}

// Sources of programs.
const (
	sourceGo  = "go"
	sourceURL = "url"
)

// ModuleDir is the folder of the Go module that is built.
func (s Spec) ModuleDir() string { return filepath.Join(s.dir, filepath.FromSlash(s.Module)) }

// own tells whether the module is for components only, so that every file in it is an input: it is in the definition's
// own folder, or in one beside it (../kube).
func (s Spec) own() bool {
	module := path.Clean(s.Module)
	name, beside := strings.CutPrefix(module, "../")
	return module == "." || beside && validName.MatchString(name)
}

func (s Spec) cgo() bool {
	for _, b := range s.Builds {
		if b.CGO {
			return true
		}
	}
	return false
}

// Load reads every component definition of a folder of images: IMAGES/components/NAME/component.yaml. The error joins
// the faults of all of them.
func Load(images string) (map[string]Spec, error) {
	files, err := filepath.Glob(filepath.Join(images, "components", "*", "component.yaml"))
	if err != nil {
		return nil, fmt.Errorf("cannot list components in %s: %w", images, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("cannot find components in %s: no components/NAME/component.yaml there", images)
	}
	specs := make(map[string]Spec, len(files))
	var faults []error
	for _, file := range files {
		spec, err := read(file)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		specs[spec.Metadata.Name] = spec
	}
	return specs, errors.Join(faults...)
}

func read(file string) (Spec, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Spec{}, fmt.Errorf("cannot read component: %w", err)
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return Spec{}, fmt.Errorf("cannot read component: %w", err)
	}
	spec, err := parse(file, text)
	if err != nil {
		return Spec{}, err
	}
	spec.dir = dir
	if name := filepath.Base(dir); spec.Metadata.Name != name {
		return Spec{}, fmt.Errorf("%s: metadata.name: %q is not the name of its folder, %q", file, spec.Metadata.Name, name)
	}
	return spec, nil
}

func parse(file string, text []byte) (Spec, error) {
	spec := Spec{Source: sourceGo, Module: ".", text: text}
	source, err := document.Decode(file, text, &spec)
	return spec, document.Join(err, spec.faults(source))
}

var (
	validName    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	validVersion = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+~_-]{0,62}$`)
	validDigest  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	validTag     = regexp.MustCompile(`^[A-Za-z0-9_.]+$`)
)

// complain notes a fault at a path of the document.
type complain func(path, message, hint string)

// faults gives every fault at once.
func (s Spec) faults(source *document.Source) document.Faults {
	var found document.Faults
	wrong := func(path, message, hint string) { found = append(found, source.Fault(path, message, hint)) }
	if s.APIVersion != apiVersion {
		wrong("apiVersion", fmt.Sprintf("unknown version %q", s.APIVersion), apiVersion)
	}
	if s.Kind != "Component" {
		wrong("kind", fmt.Sprintf("unknown kind %q", s.Kind), "Component")
	}
	if !validName.MatchString(s.Metadata.Name) {
		wrong("metadata.name", fmt.Sprintf("%q is not a name", s.Metadata.Name), "lower-case letters, digits and dashes")
	}
	if !validVersion.MatchString(s.Version) {
		wrong("version", fmt.Sprintf("%q is not a version", s.Version), "")
	}
	if path.IsAbs(s.Module) {
		wrong("module", "an absolute path depends on the machine", "a path relative to the definition's folder")
	}
	s.sourceFaults(wrong)
	for name := range s.HostLibraries {
		if path.Base(name) != name || path.Ext(name) != ".a" {
			wrong(document.Key("hostLibraries", name), "not the file name of a static library", "like libblkid.a")
		}
	}
	for i, p := range s.Patches {
		p.faults(document.Index("patches", i), wrong)
	}
	taken := map[string]bool{}
	for i, b := range s.Builds {
		b.faults(document.Index("builds", i), taken, wrong)
	}
	perArch := map[string]map[string]bool{"amd64": {}, "arm64": {}}
	for i, d := range s.Downloads {
		d.faults(document.Index("downloads", i), perArch, wrong)
	}
	return found
}

// sourceFaults holds the lists to what the source says.
func (s Spec) sourceFaults(wrong complain) {
	switch s.Source {
	case sourceGo:
		if len(s.Builds) == 0 {
			wrong("builds", "there is nothing to build", "at least one package")
		}
		if len(s.Downloads) > 0 {
			wrong("downloads", "source go has none", "source: url")
		}
		if len(s.Patches) > 0 && !s.own() {
			wrong("patches", "only a module that is for components can have them", "module: . or ../NAME")
		}
	case sourceURL:
		if len(s.Downloads) == 0 {
			wrong("downloads", "there is nothing to download", "at least one file")
		}
		if len(s.Builds) > 0 {
			wrong("builds", "source url has none", "source: go")
		}
		if len(s.Patches) > 0 {
			wrong("patches", "source url has none", "source: go")
		}
	default:
		wrong("source", fmt.Sprintf("unknown source %q", s.Source), "go, url")
	}
}

// faults notes in taken, by architecture, the paths the download occupies in the image.
func (d Download) faults(where string, taken map[string]map[string]bool, wrong complain) {
	if taken[d.Arch] == nil {
		wrong(where+".arch", fmt.Sprintf("unknown architecture %q", d.Arch), "amd64, arm64")
		return
	}
	if u, err := url.Parse(d.URL); err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		wrong(where+".url", fmt.Sprintf("%q is not a web address", d.URL), "https://...")
	}
	if !validDigest.MatchString(d.SHA256) {
		wrong(where+".sha256", "not a SHA-256", "64 lower-case hexadecimal digits")
	}
	if d.Size <= 0 || d.Size > maxDownload {
		wrong(where+".size", fmt.Sprintf("%d is out of range", d.Size), fmt.Sprintf("1 to %d bytes", maxDownload))
	}
	occupy(where, d.Output, d.Links, taken[d.Arch], wrong)
}

// maxDownload bounds the size of a downloaded file, in bytes.
const maxDownload = 1 << 30

// occupy notes the paths of a file and its links in the image.
func occupy(where, output string, links []string, taken map[string]bool, wrong complain) {
	one := func(where, p string) {
		switch {
		case !path.IsAbs(p) || path.Clean(p) != p || p == "/":
			wrong(where, fmt.Sprintf("%q is not a clean absolute path", p), "where it is in the image, like /usr/bin/NAME")
		case taken[p]:
			wrong(where, p+" is taken", "each output and link needs a path of its own")
		}
		taken[p] = true
	}
	one(where+".output", output)
	for i, link := range links {
		one(document.Index(where+".links", i), link)
	}
}

// faults notes in taken the paths the build occupies in the image.
func (b Build) faults(where string, taken map[string]bool, wrong complain) {
	if b.Package == "" || strings.HasPrefix(b.Package, "-") {
		wrong(where+".package", fmt.Sprintf("%q is not a package", b.Package), "")
	}
	occupy(where, b.Output, b.Links, taken, wrong)
	for i, tag := range b.Tags {
		if !validTag.MatchString(tag) {
			wrong(document.Index(where+".tags", i), fmt.Sprintf("%q is not a build tag", tag), "")
		}
	}
}
