package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/bake"
	"github.com/slipway-os/slipway/builder/complete"
	"github.com/slipway-os/slipway/builder/component"
	"github.com/slipway-os/slipway/builder/container"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/checksums"
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
	checks  bool
	formats []string
	slot    int64 // MiB of a root slot
	build   string
	release bool
	origin  originFlags
	bootCAs []string
	secure  secureBootFlags
	keys    []string // public keys to pin
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
With --boot-ca the images take configurations only from boot servers with one of these authorities: an identity's boot-ca.crt.
Without it they take whoever answers for their boot server. Only the certificate's digest is in the image.
With --secure-boot-key and --secure-boot-cert the unified kernel image and the boot loader are signed with a key of yours, for firmware that has
its certificate in db and Secure Boot on. A signature says no time: the same key gives the same bytes.
With --release-key a machine that installs itself from the network writes nothing unless one of these public keys (minisign's or cosign's)
has signed the release: sign what you bake (slipway sign) before you serve it.
The version is the definition's; --build adds build metadata to it, such as the number of a pipeline's run.
With --release root images are packed as small as the definition's compression.releaseLevel makes them; what is compressed once stays in
the cache. Two bakes of the same plan give the same bytes. With --plan the plans are printed and nothing is baked.
Before anything is packed, a bake proves that all that something in an image refers to is in it, and fails with a list of what is
missing and who refers to it. With --check that is all it does.
Beside lies .provenance.json, which says how the image came to be: who baked it (--builder-id) from which commit, definition, lock,
packages and modules (SLSA provenance; slipway sign signs it).`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := errors.Join(flags.checkDisk(), flags.checkBuild(), flags.secure.check()); err != nil {
				return usage(c, err)
			}
			switch {
			case flags.plans && flags.checks:
				return usage(c, errors.New("--plan prints plans, --check proves images: choose one"))
			case flags.plans:
				return printPlans(a, flags)
			case flags.checks && flags.out != "":
				return usage(c, errors.New("--check writes nothing: leave --out away"))
			case flags.checks:
				if err := needs(c, "role"); err != nil {
					return err
				}
				return checkRoles(c.Context(), a, flags)
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
	c.Flags().BoolVar(&flags.release, "release", false, "pack root images as small as releases are: with the definition's compression.releaseLevel")
	flags.origin.register(c)
	c.Flags().StringSliceVar(&flags.bootCAs, "boot-ca", nil, "certificates of the boot servers' authorities that the images trust (IDENTITY/boot-ca.crt)")
	flags.secure.register(c)
	c.Flags().StringArrayVar(&flags.keys, "release-key", nil, "public key file of whoever signs releases, may be repeated: nodes install only what one of them signed")
	c.Flags().BoolVar(&flags.plans, "plan", false, "print the plans as JSON and bake nothing")
	c.Flags().BoolVar(&flags.checks, "check", false, "prove that nothing is missing in the images, and bake nothing")
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

// readPins is the value of bootspec.ArgBootCA for certificate files.
func readPins(files []string) (string, error) {
	var pins []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("cannot pin a boot authority: %w", err)
		}
		_, digest, err := bootspec.Secure{Authority: string(data)}.Trust(nil)
		if err != nil {
			return "", fmt.Errorf("cannot pin a boot authority: %s: %w", file, err)
		}
		pins = append(pins, digest)
	}
	return strings.Join(pins, ","), nil
}

// readReleaseKeys is the value of bootspec.ArgReleaseKey for files of public keys.
func readReleaseKeys(files []string) (string, error) {
	var all checksums.Keys
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("cannot pin a release key: %w", err)
		}
		if all, err = all.Add(data); err != nil {
			return "", fmt.Errorf("cannot pin release key %s: %w", file, err)
		}
	}
	return all.String(), nil
}

// pins are the kernel arguments of what images are to trust.
func (f *bakeFlags) pins() (arguments []string, err error) {
	for _, pin := range []struct {
		name  string
		files []string
		read  func([]string) (string, error)
	}{{bootspec.ArgBootCA, f.bootCAs, readPins}, {bootspec.ArgReleaseKey, f.keys, readReleaseKeys}} {
		value, err := pin.read(pin.files)
		if err != nil {
			return nil, err
		}
		if value != "" {
			arguments = append(arguments, pin.name+"="+value)
		}
	}
	return arguments, nil
}

// order is one image to bake.
type order struct {
	plan *plan.Plan
	role *role.Role
}

// orders makes the plans of all wanted images, and notes the lock they are from.
func (f *bakeFlags) orders(w *workshop) ([]order, error) {
	roles, err := f.loadRoles(w.definition, f.names)
	if err != nil {
		return nil, err
	}
	lock, err := plan.ReadLock(w.lock)
	if err != nil {
		return nil, err
	}
	f.origin.lock = lock.Digest()
	definition, err := w.definition.WithBuild(f.build)
	if err != nil {
		return nil, err
	}
	if f.release {
		definition = definition.ForRelease()
	}
	pins, err := f.pins()
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
			p.KernelArguments = append(slices.Clone(p.KernelArguments), pins...)
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

// kitchen is what all images of one call are baked with.
type kitchen struct {
	orders   []order
	progress *progress
	options  func(order) bake.Options
}

// kitchen makes the plans, and fetches their packages.
func (f *bakeFlags) kitchen(ctx context.Context, a *app) (*kitchen, error) {
	signer, err := f.secure.signer()
	if err != nil {
		return nil, err
	}
	w, err := f.open(a)
	if err != nil {
		return nil, err
	}
	k := &kitchen{progress: newProgress(a)}
	if k.orders, err = f.orders(w); err != nil {
		return nil, err
	}
	origin := f.origin.read(ctx, a, w.images)
	w.source.Warn = k.progress.warn
	var plans []*plan.Plan
	for _, o := range k.orders {
		plans = append(plans, o.plan)
	}
	if err := plan.Fetch(ctx, w.source, plans, k.progress.fetching("packages")); err != nil {
		k.progress.end()
		return nil, err
	}
	images, err := w.fetchImages(ctx, plans, k.progress)
	if err != nil {
		k.progress.end()
		return nil, err
	}
	libraries, err := installLibraries(plans, w)
	if err != nil {
		k.progress.end()
		return nil, err
	}
	builder, err := component.New(component.Options{
		ImagesDir: w.images, CacheDir: w.cache, Libraries: libraries, Progress: k.progress.building, Warn: k.progress.warn,
	})
	if err != nil {
		k.progress.end()
		return nil, err
	}
	k.options = func(o order) bake.Options {
		options := baking(w, builder, images, o, k.progress)
		options.Out, options.Cache, options.Formats, options.Origin = f.out, filepath.Join(w.cache, "bake"), f.formats, origin
		options.SecureBoot = signer
		options.Disk = disk.Sizes{Root: f.slot << 20}
		return options
	}
	return k, nil
}

// baking is what an image is made of.
func baking(w *workshop, builder *component.Builder, images *container.Store, o order, p *progress) bake.Options {
	return bake.Options{
		Plan: o.plan, Role: o.role, Package: w.source.Cache.Path, Blob: images.Path,
		Component: func(ctx context.Context, name string) (component.Component, error) {
			return builder.Build(ctx, name, o.plan.Arch)
		},
		Progress: p.baking(o.plan.Role), Warn: p.warn,
	}
}

func bakeRoles(ctx context.Context, a *app, flags bakeFlags) error {
	k, err := flags.kitchen(ctx, a)
	if err != nil {
		return err
	}
	defer k.progress.end()
	var baked []*manifest.Manifest
	proofs := map[*manifest.Manifest]*complete.Proof{}
	for _, o := range k.orders {
		options := k.options(o)
		var proof *complete.Proof
		options.Proved = func(p *complete.Proof) { proof = p }
		m, err := bake.Bake(ctx, options)
		if err != nil {
			return err
		}
		baked, proofs[m] = append(baked, m), proof
	}
	k.progress.end()
	return a.print(baked, func(out io.Writer) error {
		for _, m := range baked {
			printBaked(out, flags.out, m)
			fmt.Fprintln(out, proofs[m].Summary())
		}
		return nil
	})
}

// proved is what --check says of an image.
type proved struct {
	Image string `json:"image"`
	*complete.Proof
}

func checkRoles(ctx context.Context, a *app, flags bakeFlags) error {
	k, err := flags.kitchen(ctx, a)
	if err != nil {
		return err
	}
	defer k.progress.end()
	list := []proved{}
	var faults []error // of all images: who mends one mends all
	for _, o := range k.orders {
		proof, err := bake.Prove(ctx, k.options(o))
		if ctx.Err() != nil {
			return err
		}
		faults = append(faults, err)
		list = append(list, proved{bootspec.ArtifactBase(o.plan.Role, o.plan.Version, o.plan.Arch), proof})
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	k.progress.end()
	return a.print(list, func(out io.Writer) error {
		for _, p := range list {
			fmt.Fprintf(out, "%s: %s\n", p.Image, p.Summary())
		}
		return nil
	})
}

// installLibraries gives the folders of C libraries for components, by architecture.
func installLibraries(plans []*plan.Plan, w *workshop) (map[string]string, error) {
	folders := map[string]string{}
	for _, p := range plans {
		if folders[p.Arch] != "" {
			continue // equal in all plans of an architecture
		}
		dir, err := bake.Libraries(p, filepath.Join(w.cache, "bake"), w.source.Cache.Path, w.source.Warn)
		if err != nil {
			return nil, fmt.Errorf("cannot prepare C libraries for %s: %w", p.Arch, err)
		}
		folders[p.Arch] = dir
	}
	return folders, nil
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
