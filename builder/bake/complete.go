package bake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"

	"github.com/slipway-os/slipway/builder/complete"
	"github.com/slipway-os/slipway/builder/rootfs"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// Prove does what a bake does before it packs anything, and proves that the image will lack nothing. It writes no artifacts; what
// it makes of container images stays in the cache for a bake.
func Prove(ctx context.Context, o Options) (*complete.Proof, error) {
	scratch, err := os.MkdirTemp("", "slipway-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	o.Out, o.Formats = scratch, nil
	proved := o.Proved
	var proof *complete.Proof
	o.Proved = func(p *complete.Proof) {
		proof = p
		if proved != nil {
			proved(p)
		}
	}
	_, err = run(ctx, o, (*baker).prepare)
	return proof, err
}

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
	if err == nil && b.Proved != nil {
		b.Proved(b.proof)
	}
	return err
}

// proofDocument is the artifact that says what was proven, and what was let pass with which reason.
type proofDocument struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Image      string `json:"image"`
	Root       string `json:"root"` // dm-verity root hash
	*complete.Proof
}

func (b *baker) writeProof() error {
	text, err := json.MarshalIndent(proofDocument{manifest.Version, "Proof", b.base(), b.root.Hash, b.proof}, "", "  ")
	if err != nil {
		return err
	}
	return b.out.artifact(manifest.KindProof, b.base()+bootspec.ExtProof, bytesTo(append(text, '\n')))
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
		if i.Component != "" { // else it comes as it is, and nobody here knows what it needs
			if err := addComponent(t, b.components[i.Component]); err != nil {
				return nil, err
			}
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
	for _, a := range b.Plan.Absent {
		list = append(list, complete.Absence(a))
	}
	for _, a := range b.Role.Absent {
		list = append(list, complete.Absence{From: a.From, To: a.To, Reason: a.Reason, By: b.roleName() + ", absent"})
	}
	return list
}

func (b *baker) firmware() []complete.Firmware {
	var list []complete.Firmware
	for _, f := range b.Plan.Firmware {
		list = append(list, complete.Firmware(f))
	}
	return list
}
