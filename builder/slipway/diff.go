package main

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/changes"
)

// errDiffer is the end of a diff that was told to give an exit code.
var errDiffer = errors.New("the images differ")

// diffFlags are what diff needs.
type diffFlags struct {
	roles     []string
	all, code bool
}

func diffCommand(a *app) *cobra.Command {
	var flags diffFlags
	c := &cobra.Command{
		Use:   "diff FROM TO",
		Short: "Show what differs between two images or releases",
		Long: `diff compares two images, each named by its manifest (slipway-ROLE-VERSION-ARCH.json), or two releases, each by its folder,
DIR, or DIR@VERSION where the folder has several versions: packages, components and their Go modules, container images, the kernel, its modules, arguments and
configuration, systemd units, files, modes and owners, sizes. It reads what a bake writes beside the images, not the images,
and compares these files with their manifest's digests; signatures are not asked for (see slipway inspect --verify). What an older image lacks is named.

--output markdown writes release notes; --output json has everything, for each image. In text and Markdown, files of packages and components are
counted and long lists are cut; --all lists them. Images of several roles are compared with those of the same role
and architecture, and what all have in common is told once.

Exit codes: 0 done, whether they differ or not; 1 failed; 2 wrong usage; with --exit-code 8 when any artifact has other bytes.`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usage(c, errors.New("two manifests or folders are wanted"))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return diff(a, args[0], args[1], flags) },
	}
	c.Flags().StringSliceVar(&flags.roles, "role", nil, "only images of these roles")
	c.Flags().BoolVar(&flags.all, "all", false, "list every file and every row, in text and Markdown")
	c.Flags().BoolVar(&flags.code, "exit-code", false, "end with exit code 8 when the images differ")
	a.outputFlag(c, "markdown")
	return c
}

func diff(a *app, from, to string, flags diffFlags) error {
	before, err := changes.Open(from, flags.roles)
	if err != nil {
		return err
	}
	after, err := changes.Open(to, flags.roles)
	if err != nil {
		return err
	}
	found := changes.Releases(before, after)
	write := found.Text
	if a.output == "markdown" {
		write = found.Markdown
	}
	if err := a.print(found, func(w io.Writer) error { return write(w, flags.all) }); err != nil {
		return err
	}
	if flags.code && !found.Equal {
		return errDiffer
	}
	return nil
}
