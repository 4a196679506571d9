package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/images/manifest"
)

func inspectCommand(a *app) *cobra.Command {
	var verify bool
	c := &cobra.Command{
		Use:   "inspect MANIFEST",
		Short: "Show what an image is made of",
		Long: `inspect shows an image's manifest (slipway-ROLE-VERSION-ARCH.json): its artifacts, packages, components and
container images. With --verify it compares size and digest of every artifact beside it.`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(c, errors.New("one manifest is wanted"))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error { return inspect(a, args[0], verify) },
	}
	c.Flags().BoolVar(&verify, "verify", false, "compare the artifacts with the manifest")
	a.outputFlag(c)
	return c
}

func inspect(a *app, file string, verify bool) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot read manifest: %w", err)
	}
	m, err := manifest.Decode(data)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if verify {
		if err := m.VerifyFolder(filepath.Dir(file)); err != nil {
			return err
		}
	}
	return a.print(m, func(w io.Writer) error {
		if err := writeManifest(w, m); err != nil || !verify {
			return err
		}
		_, err := fmt.Fprintf(w, "\nall %d artifacts are what the manifest says\n", len(m.Artifacts))
		return err
	})
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
