package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/footprint"
	"github.com/slipway-os/slipway/builder/provenance"
	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/images/manifest"
)

// inspectFlags are what inspect needs.
type inspectFlags struct {
	verify, size bool
	trust        trustFlags
	depth        int
	by, svg      string
}

func inspectCommand(a *app) *cobra.Command {
	var flags inspectFlags
	c := &cobra.Command{
		Use:   "inspect MANIFEST",
		Short: "Show what an image is made of",
		Long: `inspect shows an image's manifest (slipway-ROLE-VERSION-ARCH.json): its artifacts, packages, components and
container images. With --verify it compares size and digest of every artifact beside it, and verifies the signature of
the release it belongs to, and its provenance: who baked it, from which commit.

With --size it shows where the bytes are, as a tree: of what a machine loads, the unified kernel image and the root image,
compressed. Every byte of both is somewhere in it. --by folder puts files together by folder and not by who brought them; --depth 0 shows all levels. --svg
writes the same as a picture, a treemap. It reads the list of files and the unified kernel image beside the manifest.`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(c, errors.New("one manifest is wanted"))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := flags.check(c); err != nil {
				return err
			}
			return inspect(a, c, args[0], flags)
		},
	}
	c.Flags().BoolVar(&flags.verify, "verify", false, "compare the artifacts with the manifest")
	c.Flags().BoolVar(&flags.size, "size", false, "show where the bytes are")
	c.Flags().IntVar(&flags.depth, "depth", 3, "levels of the tree below the image; 0: all")
	c.Flags().StringVar(&flags.by, "by", string(footprint.ByOrigin), "how files are put together: origin or folder")
	c.Flags().StringVar(&flags.svg, "svg", "", "file for a picture of the tree (with --size)")
	flags.trust.register(c)
	a.outputFlag(c)
	return c
}

func (f *inspectFlags) check(c *cobra.Command) error {
	switch {
	case f.by != string(footprint.ByOrigin) && f.by != string(footprint.ByFolder):
		return usage(c, fmt.Errorf("--by is origin or folder, not %q", f.by))
	case f.depth < 0:
		return usage(c, fmt.Errorf("--depth is 0 or more, not %d", f.depth))
	case !f.size:
		for _, name := range []string{"svg", "depth", "by"} {
			if c.Flags().Changed(name) {
				return usage(c, fmt.Errorf("--%s is for --size", name))
			}
		}
	}
	return nil
}

// readManifest reads a manifest; what a signature is over are its bytes.
func readManifest(file string) (*manifest.Manifest, []byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read manifest: %w", err)
	}
	m, err := manifest.Decode(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return m, data, nil
}

func inspect(a *app, c *cobra.Command, file string, flags inspectFlags) error {
	m, data, err := readManifest(file)
	if err != nil {
		return err
	}
	var signed string
	if flags.verify {
		if signed, err = verifyImage(a, c, filepath.Dir(file), m, data, flags.trust); err != nil {
			return err
		}
	}
	var result any = m
	people := func(w io.Writer) error { return writeManifest(w, m) }
	if flags.size {
		tree, err := measure(filepath.Dir(file), m, flags)
		if err != nil {
			return err
		}
		result, people = tree, tree.Text
	}
	return a.print(result, func(w io.Writer) error {
		if err := people(w); err != nil || !flags.verify {
			return err
		}
		_, err := fmt.Fprintf(w, "\nall %d artifacts are what the manifest says; %s\n", len(m.Artifacts), signed)
		return err
	})
}

// measure is the tree that was asked for. The picture is of all of it.
func measure(dir string, m *manifest.Manifest, flags inspectFlags) (*footprint.Node, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot measure the image: %w", err)
	}
	defer root.Close()
	tree, err := footprint.Read(root, m, footprint.Order(flags.by))
	if err != nil {
		return nil, err
	}
	if flags.svg != "" {
		var picture bytes.Buffer
		if err := tree.SVG(&picture); err != nil {
			return nil, err
		}
		if err := replaceFile(flags.svg, 0o644, picture.Bytes()); err != nil {
			return nil, fmt.Errorf("cannot write the picture: %w", err)
		}
	}
	return tree.Cut(flags.depth), nil
}

// verifyImage verifies the signature, which takes no time, and then the artifacts. It says in words who signed.
func verifyImage(a *app, c *cobra.Command, dir string, m *manifest.Manifest, data []byte, flags trustFlags) (string, error) {
	trust, err := flags.read(a, c)
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", fmt.Errorf("cannot verify artifacts: %w", err)
	}
	defer root.Close()
	key, err := trust.Check(c.Context(), release.Folder(root), m, data)
	if err != nil {
		return "", fmt.Errorf("cannot verify %s: %w", dir, err)
	}
	proven, err := trust.Provenance(c.Context(), release.Folder(root), m, data)
	if err != nil {
		return "", fmt.Errorf("cannot verify the provenance in %s: %w", dir, err)
	}
	if err := m.VerifyFolder(dir); err != nil {
		return "", err
	}
	if !trust.Wanted() {
		return "no signature was asked for: no key is trusted here (see slipway inspect --help)" + origin(proven), nil
	}
	return fmt.Sprintf("signed by key %s (%s)", key.ID, key.File) + origin(proven), nil
}

// origin tells an image's provenance in words.
func origin(s *provenance.Statement) string {
	if s == nil {
		return "\nwithout provenance"
	}
	words := "\nbaked by " + s.Builder
	if s.Invocation != "" {
		words += " (" + s.Invocation + ")"
	}
	switch {
	case s.Commit == "":
		words += " from no known commit"
	case s.Dirty:
		words += " from commit " + s.Commit + " with changes"
	default:
		words += " from commit " + s.Commit
	}
	return fmt.Sprintf("%s, of %d dependencies", words, s.Dependencies)
}

func writeManifest(w io.Writer, m *manifest.Manifest) error {
	fmt.Fprintf(w, "role %s, version %s, %s\nplan %s\nroot hash %s\n", m.Role, m.Version, m.Arch, m.Plan, m.Root.Hash)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nARTIFACT\tKIND\tSIZE\tSHA-256")
	for _, f := range m.Artifacts {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", f.Name, f.Kind, bytesText(f.Size), f.SHA256)
	}
	fmt.Fprintln(table, "\nCOMPONENT\tVERSION")
	for _, c := range m.Components {
		fmt.Fprintf(table, "%s\t%s\n", c.Name, c.Version)
	}
	fmt.Fprintln(table, "\nCONTAINER IMAGE\tDIGEST")
	for _, i := range m.Images {
		fmt.Fprintf(table, "%s\t%s\n", i.Reference, i.Digest)
	}
	fmt.Fprintln(table, "\nPACKAGE\tVERSION")
	for _, p := range m.Packages {
		fmt.Fprintf(table, "%s\t%s\n", p.Name, p.Version)
	}
	return table.Flush()
}
