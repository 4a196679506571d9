package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/bake"
	"github.com/slipway-os/slipway/builder/component"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/builder/rebuild"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
	"github.com/slipway-os/slipway/images/manifest"
)

type verifyFlags struct {
	imageFlags
	compile bool
	keep    string
	secure  secureBootFlags
}

func verifyCommand(a *app) *cobra.Command {
	var flags verifyFlags
	c := &cobra.Command{
		Use:   "verify ARTIFACT|MANIFEST|DIR",
		Short: "Bake an image again and compare the bytes",
		Long: `verify bakes the plan of an image again and compares every artifact, byte by byte: all of a manifest, one of them, or all
images of a folder. The plan is the one beside the image (.plan.json), whose digest the manifest has; where definition, lock or
role would give another one today, it says which field differs. Packages come from the mirror or the cache by their digest,
components from the cache by what they are made of; all else is made anew. With --compile the components are compiled anew too.

On a difference it exits with 8 and names the first file that differs (in the root image, the initrd, a section, a
partition) and its first byte. It needs the same Slipway, Go and C compiler that baked the image.`,
		Args: oneWord("ARTIFACT, MANIFEST or DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := flags.secure.check(); err != nil {
				return usage(c, err)
			}
			return verify(c.Context(), a, flags, args[0])
		},
	}
	flags.register(c)
	c.Flags().Lookup("arch").Hidden = true // the manifest says it
	c.Flags().BoolVar(&flags.compile, "compile", false, "compile the components again too, which takes long")
	c.Flags().StringVar(&flags.keep, "keep", "", "folder where what was baked again stays (default: it is removed)")
	flags.secure.register(c)
	a.outputFlag(c)
	return c
}

// given is an image to verify: its manifest and what lies beside it.
type given struct {
	dir      string
	manifest *manifest.Manifest
	names    []string // of the artifacts to compare; none: all
}

func verify(ctx context.Context, a *app, flags verifyFlags, path string) error {
	list, err := findImages(path)
	if err != nil {
		return err
	}
	w, err := flags.open(a)
	if err != nil {
		return err
	}
	p := newProgress(a)
	defer p.end()
	w.source.Warn = p.warn
	reports := []*rebuild.Report{}
	for _, g := range list {
		r, err := verifyOne(ctx, a, flags, w, g, p)
		if err != nil {
			return fmt.Errorf("cannot verify %s: %w", bootspec.ArtifactBase(g.manifest.Role, g.manifest.Version, g.manifest.Arch), err)
		}
		reports = append(reports, r)
	}
	p.end()
	if err := a.print(reports, func(w io.Writer) error { return printReports(w, reports) }); err != nil {
		return err
	}
	for _, r := range reports {
		if !r.Same {
			return fmt.Errorf("%s: %w, first %s", r.Image, rebuild.ErrDiffers, r.First().Name)
		}
	}
	return nil
}

// findImages finds the manifests that an argument means.
func findImages(path string) ([]given, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot verify: %w", err)
	}
	dir, name := path, ""
	if !info.IsDir() {
		dir, name = filepath.Split(path)
		dir = filepath.Clean(dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot verify: %w", err)
	}
	var list []given
	for _, e := range entries {
		if !manifest.IsName(e.Name()) || name != "" && manifest.IsName(name) && e.Name() != name {
			continue
		}
		m, _, err := readManifest(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		g := given{dir: dir, manifest: m}
		if name != "" && name != e.Name() {
			if !slices.ContainsFunc(m.Artifacts, func(f manifest.Artifact) bool { return f.Name == name }) {
				continue
			}
			g.names = []string{name}
		}
		list = append(list, g)
	}
	switch {
	case len(list) == 0 && name == "":
		return nil, fmt.Errorf("cannot verify: there is no manifest in %s", dir)
	case len(list) == 0:
		return nil, fmt.Errorf("cannot verify %s: no manifest in %s has it", name, dir)
	}
	return list, nil
}

// verifyOne bakes an image again and compares.
func verifyOne(ctx context.Context, a *app, flags verifyFlags, w *workshop, g given, p *progress) (*rebuild.Report, error) {
	o, differs, err := planAgain(flags, w, g)
	if err != nil {
		return nil, err
	}
	if err := plan.Fetch(ctx, w.source, []*plan.Plan{o.plan}, p.fetching("packages")); err != nil {
		return nil, err
	}
	images, err := w.fetchImages(ctx, []*plan.Plan{o.plan}, p)
	if err != nil {
		return nil, err
	}
	work, remove, err := workFolder(w.cache)
	if err != nil {
		return nil, err
	}
	defer remove()
	out := flags.keep
	if out == "" {
		out = filepath.Join(work, "out")
	}
	components := w.cache
	if flags.compile {
		components = work
	}
	libraries, err := installLibraries([]*plan.Plan{o.plan}, w)
	if err != nil {
		return nil, err
	}
	builder, err := component.New(component.Options{
		ImagesDir: w.images, CacheDir: components, Libraries: libraries, Progress: p.building, Warn: p.warn,
	})
	if err != nil {
		return nil, err
	}
	options := baking(w, builder, images, o, p)
	if options.SecureBoot, err = flags.secure.signer(); err != nil {
		return nil, err
	}
	options.Out, options.Cache, options.Formats = out, filepath.Join(work, "bake"), formatsOf(g)
	options.Disk = disk.Sizes{Root: g.manifest.RootSlot}
	baked, err := bake.Bake(ctx, options)
	if err != nil {
		return nil, err
	}
	r, err := compareFolders(ctx, g, out, baked, work, p)
	if err != nil {
		return nil, err
	}
	r.Image, r.Sources = bootspec.ArtifactBase(g.manifest.Role, g.manifest.Version, g.manifest.Arch), differs
	return r, nil
}

func compareFolders(ctx context.Context, g given, out string, baked *manifest.Manifest, work string, p *progress) (*rebuild.Report, error) {
	p.line(true, "comparing %s", g.manifest.Role)
	was, err := os.OpenRoot(g.dir)
	if err != nil {
		return nil, err
	}
	defer was.Close()
	now, err := os.OpenRoot(out)
	if err != nil {
		return nil, err
	}
	defer now.Close()
	return rebuild.Compare(ctx, was, g.manifest, now, baked, g.names, work)
}

// workFolder is on the cache's file system: an image in all formats is too large for many a machine's /tmp. What runs that were
// killed have left there goes.
func workFolder(cache string) (dir string, remove func(), err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", nil, fmt.Errorf("cannot make cache folder: %w", err)
	}
	const prefix, lock = ".verify-", "lock"
	old, _ := filepath.Glob(filepath.Join(cache, prefix+"*", lock))
	for _, name := range old {
		if f, err := os.OpenFile(name, os.O_RDWR, 0); err == nil {
			if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
				os.RemoveAll(filepath.Dir(name))
			}
			f.Close()
		}
	}
	if dir, err = os.MkdirTemp(cache, prefix); err != nil {
		return "", nil, fmt.Errorf("cannot make work folder: %w", err)
	}
	beside := filepath.Join(dir, ".lock")
	f, err := os.Create(beside)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err == nil {
		err = os.Rename(beside, filepath.Join(dir, lock)) // others see it when it is locked
	}
	if err != nil {
		os.RemoveAll(dir)
		return "", nil, fmt.Errorf("cannot make work folder: %w", err)
	}
	return dir, func() { os.RemoveAll(dir); f.Close() }, nil
}

// formatsOf are the formats that have to be baked for what is compared. A block map comes with its disk image.
func formatsOf(g given) []string {
	formats := []string{bake.FormatNetboot}
	for _, f := range g.manifest.Artifacts {
		kind := strings.TrimSuffix(f.Kind, manifest.FormBlockMap)
		if (len(g.names) == 0 || slices.Contains(g.names, f.Name)) && (kind == f.Kind || len(g.names) > 0) && slices.Contains(bake.Formats(), kind) {
			formats = append(formats, kind)
		}
	}
	return formats
}

// planAgain is the plan to bake: the one beside the image, else that of definition and lock if it is the same. Differs are the
// fields in which definition, lock and role would give another one.
func planAgain(flags verifyFlags, w *workshop, g given) (o order, differs []string, err error) {
	r, err := flags.loadRoles(w.definition, []string{g.manifest.Role})
	if err != nil {
		return o, nil, err
	}
	o.role = r[0]
	kept, err := keptPlan(g)
	if err != nil {
		return o, nil, err
	}
	today, err := planToday(w, g, o, kept)
	switch {
	case kept == nil && err != nil:
		return o, nil, fmt.Errorf("there is no plan beside the image, and none can be made: %w", err)
	case kept == nil:
		o.plan = today
		if fmt.Sprintf("%x", sha256.Sum256(today.JSON())) != g.manifest.Plan {
			return o, nil, fmt.Errorf("%w: there is no plan beside the image, and definition, lock and role give another one than it had (%s): check out what it was baked from",
				rebuild.ErrDiffers, strings.Join(orSomething(againstManifest(g.manifest, today)), "; "))
		}
		return o, []string{}, nil
	case plan.RoleDigest(o.role) != kept.RoleDigest:
		words := "role " + kept.Role + " has other content"
		if err == nil {
			words = strings.Join(plan.Differences(kept, today), "; ")
		}
		return o, nil, fmt.Errorf("%w: the role is another one than the image was baked from (roleDigest %.12s -> %.12s): check out what it was baked from, or name it with --roles (%s)",
			rebuild.ErrDiffers, kept.RoleDigest, plan.RoleDigest(o.role), words)
	case err != nil:
		differs = []string{err.Error()}
	default:
		differs = plan.Differences(kept, today)
	}
	if err := w.definition.Restore(kept); err != nil {
		return o, nil, fmt.Errorf("%w: %w: check out what it was baked from", rebuild.ErrDiffers, err)
	}
	o.plan = kept
	return o, differs, nil
}

// keptPlan is the plan beside an image, nil when there is none.
func keptPlan(g given) (*plan.Plan, error) {
	f, ok := g.manifest.Artifact(manifest.KindPlan)
	if !ok {
		return nil, nil
	}
	data, err := os.ReadFile(filepath.Join(g.dir, f.Name))
	if err != nil {
		return nil, fmt.Errorf("cannot read the image's plan: %w", err)
	}
	if err := f.Verify(bytes.NewReader(data)); err != nil {
		return nil, err
	}
	p, err := plan.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	m := g.manifest
	if sum := fmt.Sprintf("%x", sha256.Sum256(p.JSON())); sum != m.Plan || p.Role != m.Role || p.Version != m.Version || p.Arch != m.Arch {
		return nil, fmt.Errorf("%s is not the plan that the manifest names (role %s, version %s, %s, SHA-256 %s)", f.Name, m.Role, m.Version, m.Arch, m.Plan)
	}
	return p, nil
}

// planToday is the plan of definition, lock and role as they are here, with what the image's own says was asked of its bake: build
// metadata, the level of a release, pins of boot servers and of release keys. Kept may be nil.
func planToday(w *workshop, g given, o order, kept *plan.Plan) (*plan.Plan, error) {
	lock, err := plan.ReadLock(w.lock)
	if err != nil {
		return nil, err
	}
	_, build, _ := strings.Cut(g.manifest.Version, "+")
	definition, err := w.definition.WithBuild(build)
	if err != nil {
		return nil, err
	}
	if kept != nil && kept.Compression.Level == definition.ForRelease().Compression.Level {
		definition = definition.ForRelease()
	}
	p, err := plan.Make(definition, lock, o.role, g.manifest.Arch)
	if err != nil || kept == nil {
		return p, err
	}
	for _, argument := range kept.KernelArguments {
		if strings.HasPrefix(argument, bootspec.ArgBootCA+"=") || strings.HasPrefix(argument, bootspec.ArgReleaseKey+"=") {
			p.KernelArguments = append(slices.Clone(p.KernelArguments), argument)
		}
	}
	return p, nil
}

// againstManifest is what a manifest tells of the plan it was baked from, compared with another one.
func againstManifest(m *manifest.Manifest, today *plan.Plan) []string {
	was := *today
	was.Version, was.Packages = m.Version, nil
	for i, p := range m.Packages {
		q := plan.Package{Name: p.Name, Version: p.Version, Arch: p.Arch, SHA256: p.SHA256}
		for _, t := range append(slices.Clone(today.Packages), today.Kernel) {
			if t.Name == p.Name && t.SHA256 == p.SHA256 {
				q = t
			}
		}
		if i == len(m.Packages)-1 { // a manifest has the kernel last
			was.Kernel = q
		} else {
			was.Packages = append(was.Packages, q)
		}
	}
	return plan.Differences(&was, today)
}

// orSomething is for a difference in a field that a manifest doesn't tell of.
func orSomething(list []string) []string {
	if len(list) == 0 {
		return []string{"in a field that the manifest does not tell of, such as the definition's or the role's digest"}
	}
	return list
}

func printReports(w io.Writer, reports []*rebuild.Report) error {
	for _, r := range reports {
		for _, s := range r.Sources {
			fmt.Fprintf(w, "%s: definition, lock and role here would give another plan than the one beside the image: %s\n", r.Image, s)
		}
		for _, s := range r.Inputs {
			fmt.Fprintf(w, "%s: %s\n", r.Image, s)
		}
		for _, f := range r.Artifacts {
			if !f.Same {
				fmt.Fprintf(w, "%s differs: %s\n", f.Name, f.Difference)
			}
		}
		if r.Same {
			fmt.Fprintf(w, "%s: baked again, and all %d artifacts are the same, byte by byte\n", r.Image, len(r.Artifacts))
		}
	}
	return nil
}
