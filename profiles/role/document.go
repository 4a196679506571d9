package role

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/document"
)

// roleDocument is ROLE/role.yaml.
type roleDocument struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"` // the folder's
	} `yaml:"metadata"`
	Include         []string          `yaml:"include"` // roles, here or among the shipped ones
	Target          string            `yaml:"target"`  // else the included roles' target
	Packages        []string          `yaml:"packages"`
	Components      []string          `yaml:"components"`
	ContainerImages []string          `yaml:"containerImages"`
	Modules         []string          `yaml:"modules"`
	Sysctls         map[string]string `yaml:"sysctls"`
	Enable          []string          `yaml:"enable"`
	PackageUnits    []string          `yaml:"packageUnits"` // units of packages that enable may name
	Mask            []string          `yaml:"mask"`
	Links           map[string]string `yaml:"links"`      // symbolic links of the image: path to target
	Executable      []string          `yaml:"executable"` // paths of files with mode 0755
	Override        []string          `yaml:"override"`   // paths and sysctls that win over an included role's

	Runs   map[string][]string `yaml:"runs"`
	AtBoot []AtBoot            `yaml:"atBoot"`
	Absent []Absence           `yaml:"absent"`
}

// part is one role document with the files beside it: a role is made of one or more.
type part struct {
	document roleDocument
	source   *document.Source
	fsys     fs.FS
}

func (p *part) name() string { return p.document.Metadata.Name }

// loader reads a role's parts, included ones first.
type loader struct {
	fsys   fs.FS
	parts  []*part
	open   []string // being read, for cycles
	faults document.Faults
}

// load reads the named role and, before it, what it includes. The place is who asks for it, nil for the first.
func (l *loader) load(name string, place func(message, hint string) document.Fault) {
	if slices.Contains(l.open, name) {
		l.faults = append(l.faults, place(fmt.Sprintf("includes role %q, which includes this one", name), "a role of your own that extends a shipped one needs another name"))
		return
	}
	if slices.ContainsFunc(l.parts, func(p *part) bool { return p.name() == name }) {
		return
	}
	fsys, data, err := l.read(name)
	if err != nil {
		l.faults = append(l.faults, place(err.Error(), ""))
		return
	}
	p := &part{fsys: fsys}
	p.source, err = document.Decode(path.Join(name, documentName), data, &p.document)
	l.faults = append(l.faults, checkDocument(p, name, err)...)
	p.document.Metadata.Name = name
	l.open = append(l.open, name)
	for i, include := range p.document.Include {
		l.load(include, func(message, hint string) document.Fault {
			return p.source.Fault(fmt.Sprintf("include[%d]", i), message, hint)
		})
	}
	l.open = l.open[:len(l.open)-1]
	l.parts = append(l.parts, p)
}

const documentName = "role.yaml"

// read finds a role in the caller's folder, else among the shipped ones.
func (l *loader) read(name string) (fs.FS, []byte, error) {
	if !roleName.MatchString(name) {
		return nil, nil, fmt.Errorf("%q is not a role's name (a-z, 0-9 and - between them)", name)
	}
	for _, fsys := range []fs.FS{l.fsys, Embedded()} {
		data, err := readFile(fsys, path.Join(name, documentName), document.MaxSize+1) // over the limit: Decode says so
		if !errors.Is(err, fs.ErrNotExist) {
			return fsys, data, err
		}
	}
	return nil, nil, fmt.Errorf("there is no role %q (%s)", name, roleNames(l.fsys))
}

// checkDocument checks what can be seen in one document alone, and joins that to the faults of decoding it.
func checkDocument(p *part, folder string, decoded error) document.Faults {
	c := checker{source: p.source}
	d := &p.document
	if d.APIVersion != bootspec.Version {
		c.fault("apiVersion", fmt.Sprintf("is %q", d.APIVersion), "write "+bootspec.Version)
	}
	if d.Kind != "Role" {
		c.fault("kind", fmt.Sprintf("is %q", d.Kind), "write Role")
	}
	if d.Metadata.Name != folder {
		c.fault("metadata.name", fmt.Sprintf("is %q in the folder %s", d.Metadata.Name, folder), "name and folder must be the same")
	}
	if d.Target != "" && !targetName.MatchString(d.Target) {
		c.fault("target", fmt.Sprintf("%q is not a target", d.Target), "write it like slipway-worker.target")
	}
	c.names("include", d.Include, roleName, "a role's name")
	c.names("packages", d.Packages, packageName, "a package's name")
	c.names("components", d.Components, roleName, "a component's name")
	c.names("containerImages", d.ContainerImages, imageName, "a container image's name")
	c.names("modules", d.Modules, moduleName, "a kernel module's name")
	c.names("enable", d.Enable, unitName, "a unit's name")
	c.names("packageUnits", d.PackageUnits, unitName, "a unit's name")
	c.names("mask", d.Mask, unitName, "a unit's name")
	c.names("executable", d.Executable, filePath, "a clean absolute path")
	c.names("override", d.Override, overridable, "a path or a sysctl")
	c.sysctls(d.Sysctls)
	c.links(d.Links)
	c.runs(d.Runs)
	c.atBoot(d.AtBoot)
	c.absent(d.Absent)
	var faults document.Faults
	if err := document.Join(decoded, c.faults); err != nil && !errors.As(err, &faults) {
		faults = document.Faults{p.source.Fault("", err.Error(), "")}
	}
	return faults
}
