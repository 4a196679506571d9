package role

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/document"
)

// Load reads the role of a name, with what it includes, from a folder of roles: Embedded(), or one's own (os.DirFS),
// where roles that are not there are looked for among the shipped ones. The error is document.Faults, with every fault
// of all documents and files.
func Load(fsys fs.FS, name string) (*Role, error) {
	l := &loader{fsys: fsys}
	l.load(name, func(message, hint string) document.Fault {
		return document.Fault{File: path.Join(name, documentName), Message: message, Hint: hint}
	})
	if len(l.faults) > 0 {
		return nil, fmt.Errorf("cannot load role %s:\n%w", name, l.faults)
	}
	m := &merger{role: Role{Name: name, Sysctls: map[string]string{}}, owner: map[string]*part{}, files: map[string]File{}}
	for _, p := range l.parts {
		m.add(p)
	}
	m.finish()
	if len(m.faults) > 0 {
		return nil, fmt.Errorf("cannot load role %s:\n%w", name, m.faults)
	}
	return &m.role, nil
}

// Names are the roles in a folder that can be baked: those with a target of their own or an included one's.
func Names(fsys fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("cannot list roles: %w", err)
	}
	names := []string{}
	for _, e := range entries {
		if _, err := fs.Stat(fsys, path.Join(e.Name(), documentName)); err != nil || !e.IsDir() {
			continue
		}
		l := &loader{fsys: fsys}
		l.load(e.Name(), func(message, hint string) document.Fault { return document.Fault{Message: message} })
		if slices.ContainsFunc(l.parts, func(p *part) bool { return p.document.Target != "" }) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// roleNames are the folders of roles in a message.
func roleNames(fsys fs.FS) string {
	names := map[string]bool{}
	for _, f := range []fs.FS{fsys, Embedded()} {
		entries, _ := fs.ReadDir(f, ".") // what can't be read has no names
		for _, e := range entries {
			if e.IsDir() && roleName.MatchString(e.Name()) {
				names[e.Name()] = true
			}
		}
	}
	return "there are: " + strings.Join(slices.Sorted(maps.Keys(names)), ", ")
}

// merger makes one role of its parts.
type merger struct {
	role   Role
	units  []string // packages' units that may be enabled
	owner  map[string]*part
	files  map[string]File
	faults document.Faults
}

func (m *merger) add(p *part) {
	d := &p.document
	if d.Target != "" {
		m.role.Target = d.Target
	}
	m.role.Packages = append(m.role.Packages, d.Packages...)
	m.role.Components = append(m.role.Components, d.Components...)
	m.role.ContainerImages = append(m.role.ContainerImages, d.ContainerImages...)
	m.role.Modules = append(m.role.Modules, d.Modules...)
	m.role.Enable = append(m.role.Enable, d.Enable...)
	m.role.Mask = append(m.role.Mask, d.Mask...)
	m.units = append(m.units, d.PackageUnits...)
	m.role.AtBoot = append(m.role.AtBoot, d.AtBoot...)
	m.role.Absent = append(m.role.Absent, d.Absent...)
	for program, names := range d.Runs {
		if m.role.Runs == nil {
			m.role.Runs = map[string][]string{}
		}
		m.role.Runs[program] = slices.Compact(slices.Sorted(slices.Values(append(m.role.Runs[program], names...))))
	}
	overridden := map[string]bool{}
	m.addSysctls(p, overridden)
	m.addFiles(p, overridden)
	for i, name := range d.Override {
		if !overridden[name] {
			m.faults = append(m.faults, p.source.Fault(document.Index("override", i), fmt.Sprintf("%q overrides nothing", name), "it must be in this role and in an included one"))
		}
	}
}

// claim says whether a part may set a path or sysctl: nobody before it does, or its override says so.
func (m *merger) claim(p *part, name string, overridden map[string]bool) (other string, ok bool) {
	before, taken := m.owner[name]
	if taken && !slices.Contains(p.document.Override, name) {
		return before.name(), false
	}
	overridden[name] = overridden[name] || taken
	m.owner[name] = p
	return "", true
}

func (m *merger) addSysctls(p *part, overridden map[string]bool) {
	for _, name := range slices.Sorted(maps.Keys(p.document.Sysctls)) {
		if other, ok := m.claim(p, name, overridden); !ok {
			m.faults = append(m.faults, p.source.Fault(document.Key("sysctls", name), fmt.Sprintf("role %s sets this too", other), "name it under override to win"))
			continue
		}
		m.role.Sysctls[name] = p.document.Sysctls[name]
	}
}

// addFiles adds a part's files and links.
func (m *merger) addFiles(p *part, overridden map[string]bool) {
	files, faults := readFiles(p)
	m.faults = append(m.faults, faults...)
	for _, f := range files {
		other, ok := m.claim(p, f.Path, overridden)
		if !ok {
			m.faults = append(m.faults, document.Fault{File: path.Join(p.name(), filesFolder, f.Path), Message: fmt.Sprintf("role %s has this file too", other), Hint: "name its path under override to win"})
			continue
		}
		m.files[f.Path] = f
	}
}

// finish sorts everything and checks what only the whole role can be checked for.
func (m *merger) finish() {
	r := &m.role
	for _, list := range []*[]string{&r.Packages, &r.Components, &r.ContainerImages, &r.Modules, &r.Enable, &r.Mask} {
		*list = slices.Compact(slices.Sorted(slices.Values(*list)))
	}
	m.importImages()
	for _, at := range slices.Sorted(maps.Keys(m.files)) {
		r.Files = append(r.Files, m.files[at])
	}
	m.checkTarget()
	m.checkUnits()
	m.checkTree()
}

const (
	unitFolder  = "/usr/lib/systemd/system/"
	imagesUnit  = "slipway-images.service"
	imagesDrop  = unitFolder + imagesUnit + ".d/10-images.conf"
	importImage = "/usr/bin/ctr --namespace k8s.io images import --local --no-unpack --snapshotter overlayfs" +
		" --label io.cri-containerd.image=managed --label io.cri-containerd.pinned=pinned"
)

// importImages has each container image given to containerd at boot, by the unit for it, if the role has that unit. It is
// unpacked by the first container that uses it: that costs neither time at boot nor memory on nodes that never do. The
// label keeps the kubelet from removing an image that nothing uses: it could not be had again.
func (m *merger) importImages() {
	if _, ok := m.files[unitFolder+imagesUnit]; !ok {
		return
	}
	m.files[imagesDrop] = imagesFile(m.role.ContainerImages)
}

// imagesFile has the unit import images of these names.
func imagesFile(names []string) File {
	var drop strings.Builder
	drop.WriteString("[Service]\n")
	for _, name := range names {
		fmt.Fprintf(&drop, "ExecStart=%s %s/%s.tar\n", importImage, bootspec.ContainerImagesDirectory, name)
	}
	return File{Path: imagesDrop, Mode: 0o644, Content: []byte(drop.String())}
}

func (m *merger) fault(message, hint string) {
	m.faults = append(m.faults, document.Fault{File: path.Join(m.role.Name, documentName), Message: message, Hint: hint})
}

func (m *merger) checkTarget() {
	target := m.role.Target
	if target == "" {
		m.fault("the role has no target, so it can only be included", "give it a target: "+bootspec.SystemdTarget(m.role.Name)+", and that unit in its files")
	} else if _, ok := m.files[unitFolder+target]; !ok {
		m.fault(fmt.Sprintf("target %s is not among the role's files", target), "add files"+unitFolder+target)
	}
}

// checkUnits checks that what is enabled is there and can be, and that nothing of the role's own is masked.
func (m *merger) checkUnits() {
	for _, unit := range m.role.Enable {
		file, ours := m.files[unitFolder+unitFile(unit)]
		switch {
		case slices.Contains(m.role.Mask, unit):
			m.fault(fmt.Sprintf("unit %s is both enabled and masked", unit), "remove one")
		case ours && file.Link == "" && !strings.Contains("\n"+string(file.Content), "\n[Install]\n"):
			m.fault(fmt.Sprintf("unit %s is enabled but has no [Install] section", unit), "say there what wants it: WantedBy=multi-user.target")
		case !ours && !slices.Contains(m.units, unit):
			m.fault(fmt.Sprintf("unit %s is enabled but not among the role's files", unit), "if a package brings it, name it under packageUnits too")
		}
	}
	for _, unit := range m.role.Mask {
		if _, ours := m.files[unitFolder+unit]; ours {
			m.fault(fmt.Sprintf("unit %s is masked but among the role's files", unit), "remove one")
		}
	}
}

// unitFile is the file of a unit: an instance name@x.service comes from name@.service.
func unitFile(unit string) string {
	prefix, rest, instance := strings.Cut(unit, "@")
	if !instance {
		return unit
	}
	return prefix + "@" + path.Ext(rest)
}

// checkTree checks that no file is also a folder of another.
func (m *merger) checkTree() {
	for _, f := range m.role.Files {
		for dir := path.Dir(f.Path); dir != "/"; dir = path.Dir(dir) {
			if _, ok := m.files[dir]; ok {
				m.fault(fmt.Sprintf("%s is a file or link, and %s is below it", dir, f.Path), "")
			}
		}
	}
}
