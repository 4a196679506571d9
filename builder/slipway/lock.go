package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/builder/plan"
)

// lockFlags are what lock needs besides what an image is made of.
type lockFlags struct {
	imageFlags
	check    bool
	only     []string
	snapshot string
}

func lockCommand(a *app) *cobra.Command {
	var flags lockFlags
	c := &cobra.Command{
		Use:   "lock",
		Short: "Resolve the packages of all roles and write the lock",
		Long: `lock resolves the packages of all roles against the archives' signed indexes of today and writes the lock,
so that every bake from it has the same packages; it says what moved. With --only PATTERN, such as 'linux-image*', just
those packages move, with what they need to; all others stay as they are locked, also where the archives have newer ones
or no longer have them. With --snapshot 20261101T000000Z the archives are taken as they were then; the mirror must be one
that keeps snapshots. With --check nothing is written: it only says whether the lock fits the definition and the roles;
it exits with 3 if it does not.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := flags.wrong(); err != nil {
				return usage(c, err)
			}
			if flags.check {
				return checkLock(c.Context(), a, flags.imageFlags)
			}
			return writeLock(c.Context(), a, flags)
		},
	}
	flags.register(c)
	c.Flags().BoolVar(&flags.check, "check", false, "write nothing; fail if the lock is stale")
	c.Flags().StringSliceVar(&flags.only, "only", nil, "names of packages that may move, * and ? for any characters; all others stay as they are locked (may be repeated)")
	c.Flags().StringVar(&flags.snapshot, "snapshot", "", "take the archives as they were then, such as 20261101T000000Z (default: the definition's)")
	a.outputFlag(c)
	return c
}

func (f *lockFlags) wrong() error {
	if f.check && (len(f.only) > 0 || f.snapshot != "") {
		return errors.New("--check resolves nothing: leave --only and --snapshot out")
	}
	if slices.Contains(f.only, "") {
		return errors.New("--only has an empty pattern")
	}
	if f.snapshot == "" {
		return nil
	}
	_, err := archive.ParseSnapshot(f.snapshot)
	return err
}

func writeLock(ctx context.Context, a *app, flags lockFlags) error {
	w, err := flags.open(a)
	if err != nil {
		return err
	}
	roles, err := flags.loadRoles(w.definition, nil)
	if err != nil {
		return err
	}
	p := newProgress(a)
	w.source.Warn = p.warn
	old, err := plan.ReadLock(w.lock)
	switch {
	case errors.Is(err, plan.ErrBadLock) && len(flags.only) == 0:
		p.note("warning: %v", err) // this is what writes it anew
	case err != nil && !errors.Is(err, plan.ErrNoLock):
		return err
	}
	fresh, err := plan.Resolve(ctx, w.definition, plan.Options{
		Images: w.images, Roles: roles, Arches: flags.arches, Source: w.source, Now: a.now(), Progress: p.fetching("package lists"),
		Warn: p.warn, Snapshot: archive.Snapshot(flags.snapshot), Only: flags.only, Old: old,
	})
	if err != nil {
		p.end()
		return err
	}
	if err := w.lockImages(ctx, fresh, old, p); err != nil {
		return err
	}
	merged := plan.Merge(old, fresh)
	if err := plan.WriteLock(w.lock, merged); err != nil {
		return err
	}
	return printChanges(a, w.lock, plan.Changes(old, merged), merged)
}

func printChanges(a *app, file string, changes []plan.Change, lock *plan.Lock) error {
	result := struct {
		File    string        `json:"file"`
		Changes []plan.Change `json:"changes"`
		Summary plan.Summary  `json:"summary"`
	}{file, append([]plan.Change{}, changes...), plan.Summarize(changes, lock)}
	return a.print(result, func(w io.Writer) error {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, c := range changes {
			name, versions := changeText(c, len(lock.Architectures) > 1)
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", name, versions, c.SizeText(), because(c))
		}
		if err := table.Flush(); err != nil {
			return err
		}
		s := result.Summary
		fmt.Fprintf(w, "wrote %s: %d moved, %d added, %d removed, %d as before; %s to fetch, %+.1f MB in all\n",
			file, s.Moved, s.Added, s.Removed, s.Kept, bytesText(s.Fetched), float64(s.Bytes)/1e6)
		return nil
	})
}

// changeText is a change's name and versions: "  libc6", "2.41-12 -> 2.41-13".
func changeText(c plan.Change, several bool) (name, versions string) {
	name = c.Name
	if c.OldName != "" {
		name = c.OldName + " -> " + c.Name
	}
	if c.Kind == "containerImage" {
		name = "container image " + name
	}
	if several {
		name += " (" + c.Arch + ")"
	}
	switch {
	case c.Was == "":
		return "+ " + name, shortDigest(c.Now)
	case c.Now == "":
		return "- " + name, shortDigest(c.Was)
	case c.Was == c.Now:
		return "  " + name, shortDigest(c.Now) + " (another file)"
	}
	return "  " + name, shortDigest(c.Was) + " -> " + shortDigest(c.Now)
}

func shortDigest(s string) string {
	if digest, ok := strings.CutPrefix(s, "sha256:"); ok {
		return "sha256:" + digest[:min(12, len(digest))]
	}
	return s
}

func because(c plan.Change) string {
	if c.Why == "" {
		return ""
	}
	return "because " + c.Why
}

// checkLock makes every plan, which needs no network.
func checkLock(ctx context.Context, a *app, flags imageFlags) error {
	w, err := flags.open(a)
	if err != nil {
		return err
	}
	roles, err := flags.loadRoles(w.definition, nil)
	if err != nil {
		return err
	}
	lock, err := plan.ReadLock(w.lock)
	if err != nil {
		return err
	}
	if err := w.checkArchives(ctx, lock, flags.arches); err != nil {
		return err
	}
	for _, arch := range flags.arches {
		for _, r := range roles {
			if _, err := plan.Make(w.definition, lock, r, arch); err != nil {
				return err
			}
		}
	}
	return a.print(map[string]any{"file": w.lock, "stale": false}, func(out io.Writer) error {
		fmt.Fprintf(out, "%s fits the definition and %d roles\n", w.lock, len(roles))
		return nil
	})
}
