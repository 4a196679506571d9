// Package bake is the recipe: from a plan and what it names to finished artifacts and their manifest.
//
// Words: a stage is a step whose result is kept in the cache under the digest of all that went in, so that it is done
// once; an artifact is a file in the output folder, which appears there only when it is finished. A bake needs no
// rights, no mounts and no network, and reads no clock: equal plans give equal bytes.
//
// It does not resolve (builder/plan), download (builder/archive) or compile (builder/component), and knows no cluster.
package bake

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/authenticode"
	"github.com/slipway-os/slipway/builder/complete"
	"github.com/slipway-os/slipway/builder/component"
	"github.com/slipway-os/slipway/builder/kmod"
	"github.com/slipway-os/slipway/builder/layer"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/builder/provenance"
	"github.com/slipway-os/slipway/builder/rootfs"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
	"github.com/slipway-os/slipway/images/manifest"
	"github.com/slipway-os/slipway/profiles/role"
)

// Options are what a bake is made from and where it puts things.
type Options struct {
	Plan *plan.Plan
	Role *role.Role // the one the plan was made for
	// Component gives a built component; called once for each name, perhaps from several goroutines.
	Component func(ctx context.Context, name string) (component.Component, error)
	// Package is where the .deb with that SHA-256 lies.
	Package func(sha256 string) string
	// Blob is where the manifest or blob of a container image with that digest (sha256:...) lies; nil when the plan has no
	// image that comes as it is.
	Blob func(digest string) string
	// Formats are artifacts to make besides the netboot set, which is always made: FormatDisk, FormatDisk4K. With
	// FormatNetboot or none there is nothing else.
	Formats []string
	Disk    disk.Sizes // partitions of disk images; zero fields are disk's defaults
	Out     string     // folder of the artifacts; made when missing
	Cache   string     // folder of stages; made when missing
	Origin  provenance.Origin
	// SecureBoot signs the EFI programs that firmware starts: the UKI and the boot loader. nil: they are left as they are.
	SecureBoot *authenticode.Signer
	// Proved is told what was proven, before anything is packed. It may be nil.
	Proved func(*complete.Proof)
	// Progress is told what is being done. It may be nil, and may be called from several goroutines.
	Progress func(Step)
	// Warn is told of damage in the cache that was found and made good. It may be nil, and may be called from several goroutines.
	Warn func(string)
}

// Step is one thing a bake does.
type Step struct {
	Name   string // pack root image
	Cached bool   // its result was there already
}

// Bake makes all artifacts of a plan. They appear in the output folder only when all are finished, the manifest last;
// after an error, what an earlier bake left there is whole. Damage in the cache is found while it is read: what is
// damaged is dropped and made again.
func Bake(ctx context.Context, o Options) (*manifest.Manifest, error) {
	return run(ctx, o, (*baker).bake)
}

// mostHeals is how often a bake begins again because of damage: a cache on a disk that is failing would never be whole.
const mostHeals = 4

func run(ctx context.Context, o Options, recipe func(*baker) []func() error) (*manifest.Manifest, error) {
	for times := 1; ; times++ { // a later step may find more, among what an earlier one didn't get to
		m, healed, err := try(ctx, o, recipe)
		if err == nil {
			return m, nil
		}
		if !healed || times == mostHeals {
			return nil, fmt.Errorf("cannot bake role %s: %w", o.Plan.Role, err)
		}
	}
}

// prepare is the first half of the recipe: what will be packed. What takes long and needs one processor is begun early.
func (b *baker) prepare() []func() error {
	return []func() error{
		b.beginTools,
		b.buildComponents,
		b.beginContainerImages,
		b.unpackPackages,
		b.chooseFirmware,
		b.assembleRoot,
		b.indexModules,
		b.addContainerImages,
		b.finishRoot,
		b.proveComplete,
	}
}

// bake is the recipe.
func (b *baker) bake() []func() error {
	return append(b.prepare(),
		b.beginInitrd,
		b.packRoot,
		b.finishInitrd,
		b.writeArtifacts,
		b.writeInventory,
		b.writeProof,
		b.writeDisks,
		b.writeSBOM,
		b.writeManifest,
	)
}

// try follows a recipe. Healed tells that it failed because of damage in the cache that is gone now.
func try(ctx context.Context, o Options, recipe func(*baker) []func() error) (m *manifest.Manifest, healed bool, err error) {
	b, err := begin(ctx, o)
	if err != nil {
		return nil, false, err
	}
	defer b.end()
	for _, verb := range recipe(b) {
		err := verb()
		if errors.Is(err, rootfs.ErrDamaged) {
			b.rest()
			b.step("look for damage in the cache")
			healed, failed := b.stages.heal(append(b.allPackages(), b.tools()...), b.layersOf)
			return nil, healed, errors.Join(err, failed)
		}
		if err != nil {
			return nil, false, err
		}
	}
	return b.manifest, false, nil
}

// baker is a bake at work: what each verb leaves for the next.
type baker struct {
	Options
	*workers
	ctx    context.Context
	cancel context.CancelFunc
	stages *stages
	out    *output

	components    map[string]component.Component
	layers        []*layer.Layer  // base-files first, the kernel last
	firmwareFiles map[string]bool // what is taken below usr/lib/firmware; nil: everything
	tree          *rootfs.Tree
	modules       *kmod.Index
	kernel        []byte
	stub          []byte
	loader        []byte // only for disk images
	config        []byte // the kernel's configuration; nil: its package has none
	undionly      []byte // iPXE for legacy BIOS; nil: no package brings it
	uki           []byte
	ukiDigest     string // what its command line says of it; empty: it isn't made yet
	images        []manifest.Image
	imageFiles    []func() (imageFile, error) // of the container images, when they are made
	proof         *complete.Proof
	root          rootImage
	rootFile      rootfs.Content
	initrd        rootfs.Content
	waitInitrd    func() error // until it is packed
	waitTools     func() error // until the programs are installed
	programs      toolbox
	manifest      *manifest.Manifest
}

// agent is the component that is /init in the initrd and a service on the node.
const agent = "slipway-agent"

func begin(ctx context.Context, o Options) (*baker, error) {
	if o.Progress == nil {
		o.Progress = func(Step) {}
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	if o.Plan.Role != o.Role.Name {
		return nil, fmt.Errorf("the plan is one for role %s, not for %s", o.Plan.Role, o.Role.Name)
	}
	if err := CheckFormats(o.Formats); err != nil {
		return nil, err
	}
	stages, err := newStages(o.Cache, o.Warn)
	if err != nil {
		return nil, err
	}
	out, err := newOutput(o.Out)
	if err != nil {
		stages.leave()
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	return &baker{Options: o, workers: newWorkers(), ctx: ctx, cancel: cancel, stages: stages, out: out, tree: rootfs.New()}, nil
}

// rest ends what runs beside.
func (b *baker) rest() {
	b.cancel()
	b.running.Wait()
}

func (b *baker) end() {
	b.rest()
	b.out.close()
	b.stages.leave()
}

func (b *baker) allPackages() []plan.Package {
	return append(slices.Clone(b.Plan.Packages), b.Plan.Kernel)
}

func (b *baker) step(name string) { b.Progress(Step{Name: name}) }

func (b *baker) base() string {
	return bootspec.ArtifactBase(b.Plan.Role, b.Plan.Version, b.Plan.Arch)
}

// cmdline is the kernel command line of the UKI.
func (b *baker) cmdline() string {
	root := bootspec.Root{
		Image:  b.base(),
		Hash:   b.root.Hash,
		Data:   b.root.Data,
		Size:   b.root.Size,
		Digest: b.root.SHA256,
	}
	seal := bootspec.NoUKIDigest()
	if b.ukiDigest != "" {
		seal = bootspec.ArgUKI + "=" + b.ukiDigest
	}
	return strings.Join(slices.Concat(b.Plan.KernelArguments, root.Args(), []string{seal}), " ")
}

func (b *baker) planDigest() string { return fmt.Sprintf("%x", sha256.Sum256(b.Plan.JSON())) }

// writeManifest says what was baked and from which plan, and puts everything in its place.
func (b *baker) writeManifest() error {
	if err := b.out.artifact(manifest.KindPlan, b.base()+bootspec.ExtPlan, bytesTo(b.Plan.JSON())); err != nil {
		return err
	}
	m := &manifest.Manifest{
		APIVersion: manifest.Version, Kind: manifest.Kind,
		Role: b.Plan.Role, Version: b.Plan.Version, Arch: b.Plan.Arch, Plan: b.planDigest(),
		Root:       manifest.Root{Hash: b.root.Hash, Data: b.root.Data},
		Cmdline:    b.cmdline(),
		Artifacts:  b.out.artifacts,
		Packages:   b.listPackages(),
		Components: b.listComponents(),
		Images:     b.images,
		RootSlot:   b.Disk.Root,
	}
	b.manifest = m
	if err := b.writeProvenance(m); err != nil {
		return err
	}
	name := b.base() + bootspec.ExtManifest
	if _, err := b.out.write(name, bytesTo(m.Encode())); err != nil {
		return err
	}
	return b.out.commit(name)
}

func (b *baker) listPackages() []manifest.Package {
	list := []manifest.Package{}
	for _, p := range b.allPackages() {
		list = append(list, manifest.Package{Name: p.Name, Version: p.Version, Arch: p.Arch, SHA256: p.SHA256})
	}
	return list
}

func (b *baker) listComponents() []manifest.Component {
	list := []manifest.Component{}
	for _, name := range b.componentNames() {
		c := b.components[name]
		list = append(list, manifest.Component{Name: c.Name, Version: c.Version, Key: c.Key})
	}
	return list
}

func makeFolder(what, dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return "", fmt.Errorf("cannot make %s: %w", what, err)
	}
	return dir, nil
}
