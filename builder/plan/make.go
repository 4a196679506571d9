package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/profiles/role"
)

// Make makes the plan of one role. The error wraps ErrStale, with what differs, if the lock was made from something else
// than this definition and role. It does no I/O.
func Make(def *Definition, lock *Lock, r *role.Role, arch string) (*Plan, error) {
	p, err := makePlan(def, lock, r, arch)
	if err != nil {
		err = fmt.Errorf("cannot plan role %s for %s: %w", r.Name, arch, err)
		if errors.Is(err, ErrStale) {
			err = fmt.Errorf("%w%s", err, withArch(arch))
		}
		return nil, err
	}
	return p, nil
}

// withArch goes behind LockCommand, which locks for this machine's architecture when it is told no other.
func withArch(arch string) string {
	if arch == runtime.GOARCH || arch == "all" {
		return ""
	}
	return " (with --arch " + arch + ")"
}

func makePlan(def *Definition, lock *Lock, r *role.Role, arch string) (*Plan, error) {
	def = def.For(arch)
	l := lock.Architectures[arch]
	if l == nil {
		return nil, fmt.Errorf("%w: it has no architecture %s; run `%s`", ErrStale, arch, LockCommand)
	}
	if err := stale(l.Asked, asked(def, map[string][]string{r.Name: r.Packages}), r.Name); err != nil {
		return nil, err
	}
	images, err := def.images(r.ContainerImages)
	if err != nil {
		return nil, err
	}
	p := &Plan{
		APIVersion: APIVersion, Kind: "Plan",
		Role: r.Name, RoleDigest: roleDigest(r), Version: def.Version, Arch: arch,
		Epoch: l.epoch(), Definition: def.digest,
		KernelArguments: orEmpty(def.KernelArguments),
		Modules:         sorted(r.Modules),
		PruneModules:    orEmpty(def.PruneModules),
		Exclude:         orEmpty(def.Exclude),
		Components:      sorted(r.Components),
		ContainerImages: images,
		Initrd:          Initrd{Modules: sorted(def.Initrd.Modules), Components: sorted(def.Initrd.Components)},
		Compression:     def.Compression,
		Absent:          def.Absent,
		Firmware:        def.Firmware,
	}
	if err := p.addPackages(l); err != nil {
		return nil, err
	}
	if p.Libraries, err = l.all(l.Libraries); err != nil {
		return nil, err
	}
	return p, p.addTools(def, lock)
}

// addTools adds the tools for machines of the image's own architecture, and of those that bake others' images.
func (p *Plan) addTools(def *Definition, lock *Lock) error {
	p.Tools = map[string][]Package{}
	for arch, l := range lock.Architectures {
		if len(l.Tools) == 0 || arch != p.Arch && !def.bakesOthers(arch) {
			continue
		}
		var err error
		if p.Tools[arch], err = l.all(l.Tools); err != nil {
			return err
		}
	}
	return nil
}

// all are the locked packages of those names.
func (l *ArchLock) all(names []string) ([]Package, error) {
	var packages []Package
	for _, name := range names {
		p, ok := l.find(name)
		if !ok {
			return nil, fmt.Errorf("the lock names package %s but does not hold it", name)
		}
		packages = append(packages, p)
	}
	return packages, nil
}

func (p *Plan) addPackages(l *ArchLock) error {
	names := l.Roles[p.Role]
	for _, name := range append(slices.Clone(names), l.Kernel) {
		pkg, ok := l.find(name)
		if !ok {
			return fmt.Errorf("the lock names package %s but does not hold it", name)
		}
		if name == l.Kernel {
			p.Kernel = pkg
		} else {
			p.Packages = append(p.Packages, pkg)
		}
	}
	p.KernelRelease = strings.TrimPrefix(p.Kernel.Name, kernelPrefix)
	return nil
}

// images picks the role's container images, by name.
func (d *Definition) images(names []string) ([]ContainerImage, error) {
	picked := []ContainerImage{}
	for _, name := range sorted(names) {
		i := slices.IndexFunc(d.ContainerImages, func(c ContainerImage) bool { return c.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("container image %q is not in the definition", name)
		}
		picked = append(picked, d.ContainerImages[i])
	}
	return picked, nil
}

func roleDigest(r *role.Role) string {
	data, err := json.Marshal(r) // maps are sorted
	if err != nil {
		panic("plan: " + err.Error()) // a plain struct always encodes
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// orEmpty is a list that encodes as [] rather than null.
func orEmpty(list []string) []string { return append([]string{}, list...) }
