package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/profiles/role"
)

// Make makes the plan of one role. The error wraps ErrStale, with what differs, if the lock was made from something else
// than this definition and role. It does no I/O.
func Make(def *Definition, lock *Lock, r *role.Role, arch string) (*Plan, error) {
	p, err := makePlan(def, lock, r, arch)
	if err != nil {
		return nil, fmt.Errorf("cannot plan role %s for %s: %w", r.Name, arch, err)
	}
	return p, nil
}

func makePlan(def *Definition, lock *Lock, r *role.Role, arch string) (*Plan, error) {
	l := lock.Architectures[arch]
	if l == nil {
		return nil, fmt.Errorf("%w: it has no architecture %s; run `%s`", ErrStale, arch, LockCommand)
	}
	if err := stale(l.Asked, asked(def, map[string][]string{r.Name: r.Packages}), r.Name); err != nil {
		return nil, err
	}
	images, err := def.images(r.ContainerImages, l)
	if err != nil {
		return nil, err
	}
	if err := def.checkFiles(r); err != nil {
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
		Snapshots:       l.Snapshots,
		Files:           def.files,
		Firmware:        def.Firmware,
	}
	if err := p.addPackages(l); err != nil {
		return nil, err
	}
	return p, p.addTools(lock)
}

// addTools adds the tools for machines of every architecture that the lock has.
func (p *Plan) addTools(lock *Lock) error {
	p.Tools = map[string][]Package{}
	for arch, l := range lock.Architectures {
		for _, name := range l.Tools {
			pkg, ok := l.find(name)
			if !ok {
				return fmt.Errorf("the lock names package %s but does not hold it", name)
			}
			p.Tools[arch] = append(p.Tools[arch], pkg)
		}
	}
	return nil
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
