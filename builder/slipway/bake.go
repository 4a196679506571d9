package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/bake"
	"github.com/slipway-os/slipway/builder/component"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
	"github.com/slipway-os/slipway/images/manifest"
	"github.com/slipway-os/slipway/profiles/role"
)

// bakeFlags are what bake needs besides what an image is made of.
type bakeFlags struct {
	imageFlags
	names   []string
	out     string
	plans   bool
	formats []string
	slot    int64 // MiB of a root slot
	build   string
}

func bakeCommand(a *app) *cobra.Command {
	var flags bakeFlags
	c := &cobra.Command{
		Use:   "bake --role ROLE[,ROLE] --out DIR",
		Short: "Bake images for roles",
		Long: `bake makes an image for each role from the lock: packages, components, root image with its verity tree,
initrd, unified kernel image and manifest. It needs no root rights. DIR gets only finished files, named
slipway-ROLE-VERSION-ARCH.EXT: .efi the unified kernel image, .root the root image, .json the manifest (written last).
With --format disk there is a bootable disk image besides, .disk.raw, for USB sticks and disks with sectors of 512 bytes;
with disk-4k one for sectors of 4096, .disk-4k.raw. Both are sparse: keep them so when you copy them (cp --sparse=always).
A block map lies beside each, .bmap, for slipway flash and bmaptool. With disk.zst or disk-4k.zst the image is compressed,
.disk.raw.zst; with disk.qcow2 or disk-4k.qcow2 it is one for QEMU, .disk.qcow2.
With --format iso there is a small disk image that boots from CD-ROM (virtual media) and from a stick alike, .iso. All of
them boot with UEFI only; machines with legacy BIOS boot from the network.
The version is the definition's; --build adds build metadata to it, such as the number of a pipeline's run.
Two bakes of the same plan give the same bytes. With --plan the plans are printed and nothing is baked.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := errors.Join(flags.checkDisk(), flags.checkBuild()); err != nil {
				return usage(c, err)
			}
			if flags.plans {
				return printPlans(a, flags)
			}
			if err := needs(c, "role", "out"); err != nil {
				return err
			}
			return bakeRoles(c.Context(), a, flags)
		},
	}
	flags.register(c)
	c.Flags().StringSliceVar(&flags.names, "role", nil, "roles to bake")
	c.Flags().StringVar(&flags.out, "out", "", "folder of the artifacts")
	c.Flags().StringSliceVar(&flags.formats, "format", []string{bake.FormatNetboot}, "what to make besides the netboot files: disk, disk-4k, iso, each also with .zst or .qcow2 after it")
	c.Flags().Int64Var(&flags.slot, "root-slot", 0, "size of each of a disk image's two root partitions, in MiB (0 means 512)")
	c.Flags().StringVar(&flags.build, "build", "", "build metadata for the version, such as ci.57 (0.1.0+ci.57)")
	c.Flags().BoolVar(&flags.plans, "plan", false, "print the plans as JSON and bake nothing")
	a.outputFlag(c)
	return c
}

// checkDisk says what is wrong with the flags about disk images, before anything long is begun.
func (f *bakeFlags) checkDisk() error {
	if f.slot < 0 || f.slot > 1<<20 {
		return fmt.Errorf("--root-slot %d is not between 0 and %d", f.slot, 1<<20)
	}
	return bake.CheckFormats(f.formats)
}

func (f *bakeFlags) checkBuild() error {
	some := plan.Definition{Version: "0.0.0"}
	if _, err := some.WithBuild(f.build); err != nil {
		return fmt.Errorf("--build %q is no build metadata: words of a-z, 0-9 and hyphens, with dots between them", f.build)
	}
	return nil
}

// order is one image to bake.
type order struct {
	plan *plan.Plan
	role *role.Role
}

// orders makes the plans of all wanted images.
func (f *bakeFlags) orders(w *workshop) ([]order, error) {
	roles, err := f.loadRoles(f.names)
	if err != nil {
		return nil, err
	}
	lock, err := plan.ReadLock(w.lock)
	if err != nil {
		return nil, err
	}
	definition, err := w.definition.WithBuild(f.build)
	if err != nil {
		return nil, err
	}
	var list []order
	for _, arch := range f.arches {
		for _, r := range roles {
			p, err := plan.Make(definition, lock, r, arch)
			if err != nil {
				return nil, err
			}
			list = append(list, order{p, r})
		}
	}
	return list, nil
}

func printPlans(a *app, flags bakeFlags) error {
	w, err := flags.open(a)
	if err != nil {
		return err
	}
	orders, err := flags.orders(w)
	if err != nil {
		return err
	}
	for _, o := range orders {
		if _, err := a.out.Write(o.plan.JSON()); err != nil {
			return err
		}
	}
	return nil
}

func bakeRoles(ctx context.Context, a *app, flags bakeFlags) error {
	w, err := flags.open(a)
	if err != nil {
		return err
	}
	orders, err := flags.orders(w)
	if err != nil {
		return err
	}
	p := newProgress(a)
	defer p.end()
	w.source.Warn = p.warn
	var plans []*plan.Plan
	for _, o := range orders {
		plans = append(plans, o.plan)
	}
	if err := plan.Fetch(ctx, w.source, plans, p.fetching("packages")); err != nil {
		return err
	}
	builder, err := component.New(component.Options{ImagesDir: w.images, CacheDir: w.cache, Progress: p.building, Warn: p.warn})
	if err != nil {
		return err
	}
	var baked []*manifest.Manifest
	for _, o := range orders {
		m, err := bakeOne(ctx, w, builder, o, bake.Options{
			Out: flags.out, Cache: filepath.Join(w.cache, "bake"), Formats: flags.formats, Disk: disk.Sizes{Root: flags.slot << 20},
		}, p)
		if err != nil {
			return err
		}
		baked = append(baked, m)
	}
	p.end()
	return a.print(baked, func(out io.Writer) error {
		for _, m := range baked {
			printBaked(out, flags.out, m)
		}
		return nil
	})
}

// bakeOne bakes an image; what it is made of is filled into the options.
func bakeOne(ctx context.Context, w *workshop, builder *component.Builder, o order, options bake.Options, p *progress) (*manifest.Manifest, error) {
	options.Plan, options.Role, options.Package = o.plan, o.role, w.source.Cache.Path
	options.Component = func(ctx context.Context, name string) (component.Component, error) {
		return builder.Build(ctx, name, o.plan.Arch)
	}
	options.Progress, options.Warn = p.baking(o.plan.Role), p.warn
	return bake.Bake(ctx, options)
}

func printBaked(w io.Writer, dir string, m *manifest.Manifest) {
	base := filepath.Join(dir, bootspec.ArtifactBase(m.Role, m.Version, m.Arch))
	uki, _ := m.Artifact(manifest.KindUKI)
	root, _ := m.Artifact(manifest.KindRoot)
	fmt.Fprintf(w, "baked %s: unified kernel image %s, root image %s\n", base, bytesText(uki.Size), bytesText(root.Size))
	for _, a := range m.Artifacts {
		if slices.Contains(bake.Formats(), a.Kind) { // formats of disk images and kinds of artifacts are the same words
			fmt.Fprintf(w, "disk image %s: %s; it boots with UEFI only\n", filepath.Join(dir, a.Name), bytesText(a.Size))
		}
	}
}

// bytesText is a size for people, in MB (10^6 bytes).
func bytesText(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
