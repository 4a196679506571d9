// Package role owns what a node of a role is: components, packages, container images, kernel modules, sysctls, units and
// files, as declarative documents with a folder of files beside each. The shipped roles are embedded; a user's own folder
// of the same shape can replace or extend them.
//
// Words: a role document is ROLE/role.yaml; files below ROLE/files/ land at the same path in the image; a role includes
// others (`include`), and its own files win over theirs only where `override` says so.
//
// It is not for what depends on a cluster (profiles/cluster, builder/nodeconfig): no address, name or secret is in a role.
// Whether a component or container image exists is for builder/plan to say.
package role

import "slices"

// Role is one role, resolved: includes merged, every list sorted and free of repeats, files sorted by path.
type Role struct {
	Name            string            // worker; [a-z0-9-]+
	Target          string            // systemd target that the agent starts: slipway-worker.target
	Packages        []string          // Debian packages besides the definition's
	Components      []string          // folders of images/components
	ContainerImages []string          // names in the definition
	Modules         []string          // kernel modules loaded at boot
	Enable          []string          // units wanted at boot
	Mask            []string          // units that never start
	Sysctls         map[string]string // net.ipv4.ip_forward: "1"
	Files           []File
	Runs            map[string][]string `json:",omitempty"` // program (absolute path) to the programs that it starts by name
	AtBoot          []AtBoot            `json:",omitempty"` // what the role's files name and the image doesn't have, because it is made at boot
	Absent          []Absence           `json:",omitempty"` // what may be referred to and not be there, as in the definition
}

// AtBoot are paths that something makes at boot.
type AtBoot struct {
	By    string   `yaml:"by"`    // who makes them
	Paths []string `yaml:"paths"` // absolute; one with a slash at its end stands for all below it
}

// Absence is a file in the image that refers to things that are not in it, on purpose.
type Absence struct {
	From   string   `yaml:"from"` // its path, without a slash at its beginning; may have * as path.Match has it
	To     []string `yaml:"to"`   // what it refers to, as the bake's message says it; likewise
	Reason string   `yaml:"reason"`
}

// File is one file or symbolic link of the image. A File of a role wins over a package's file at the same path.
type File struct {
	Path    string // clean and absolute: /etc/containerd/config.toml
	Mode    uint32 // 0644 or 0755; 0777 for a link
	Content []byte
	Link    string // target, if it is a symbolic link
}

// WithImages is the role with further container images of the definition; without any, the role itself.
func (r *Role) WithImages(names []string) *Role {
	if len(names) == 0 {
		return r
	}
	changed := *r
	changed.ContainerImages = slices.Compact(slices.Sorted(slices.Values(slices.Concat(r.ContainerImages, names))))
	changed.Files = slices.Clone(r.Files)
	if i := slices.IndexFunc(changed.Files, func(f File) bool { return f.Path == imagesDrop }); i >= 0 {
		changed.Files[i] = imagesFile(changed.ContainerImages)
	}
	return &changed
}
