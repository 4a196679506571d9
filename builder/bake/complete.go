package bake

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"

	"github.com/slipway-os/slipway/builder/complete"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/builder/rootfs"
)

// proveComplete checks, before anything is packed, that all that something in the trees refers to is in them.
func (b *baker) proveComplete() error {
	b.step("prove that nothing is missing")
	initrd, err := b.initrdTree()
	if err != nil {
		return err
	}
	containers, err := b.containerTrees()
	if err != nil {
		return err
	}
	b.proof, err = complete.Check(complete.Image{
		Arch: b.Plan.Arch, Root: b.tree, Initrd: initrd, Containers: containers, Target: b.Role.Target,
		Modules: b.modules.Modules(), ModuleFolder: path.Join("usr/lib/modules", b.Plan.KernelRelease), Builtin: b.modules.IsBuiltin, KernelConfig: b.config,
		Runs: b.runs(), AtBoot: b.atBoot(), Absent: b.absent(), Firmware: b.firmware(),
	})
	var faults complete.Faults
	if errors.As(err, &faults) {
		return errors.Join(err, b.damaged(faults, initrd))
	}
	return err
}

// damaged tells whether one who refers to something missing is damaged in the cache, and so says what it doesn't mean.
func (b *baker) damaged(faults complete.Faults, initrd *rootfs.Tree) error {
	for _, f := range faults {
		for _, t := range []*rootfs.Tree{b.tree, initrd} {
			if e, ok := t.Resolve(f.From); ok && e.Type == rootfs.Regular {
				if err := e.Content.CopyTo(io.Discard); err != nil {
					return fmt.Errorf("cannot read %s of %s: %w", e.Path, e.Origin, err)
				}
			}
		}
	}
	return nil
}

// containerTrees are the trees of the plan's container images.
func (b *baker) containerTrees() ([]complete.Container, error) {
	var list []complete.Container
	for _, i := range b.Plan.ContainerImages {
		t := rootfs.New()
		if err := addComponent(t, b.components[i.Component]); err != nil {
			return nil, err
		}
		list = append(list, complete.Container{Name: i.Name, Reference: i.Reference, Files: t})
	}
	return list, nil
}

func (b *baker) roleName() string { return "role " + b.Role.Name }

func (b *baker) runs() []complete.Runs {
	var list []complete.Runs
	for _, program := range slices.Sorted(maps.Keys(b.Role.Runs)) {
		list = append(list, complete.Runs{Program: program, Names: b.Role.Runs[program], By: b.roleName()})
	}
	return list
}

func (b *baker) atBoot() []complete.AtBoot {
	var list []complete.AtBoot
	for _, a := range b.Role.AtBoot {
		list = append(list, complete.AtBoot(a))
	}
	return list
}

func (b *baker) absent() []complete.Absence {
	var list []complete.Absence
	for i, a := range b.Plan.Absent {
		list = append(list, complete.Absence{From: a.From, To: a.To, Reason: a.Reason, By: fmt.Sprintf("%s, absent[%d]", plan.DefinitionName, i)})
	}
	for _, a := range b.Role.Absent {
		list = append(list, complete.Absence{From: a.From, To: a.To, Reason: a.Reason, By: b.roleName() + ", absent"})
	}
	return list
}

func (b *baker) firmware() []complete.Firmware {
	var list []complete.Firmware
	for i, f := range b.Plan.Firmware {
		list = append(list, complete.Firmware{Modules: f.Modules, Reason: f.Reason, By: fmt.Sprintf("%s, firmware[%d]", plan.DefinitionName, i)})
	}
	return list
}
