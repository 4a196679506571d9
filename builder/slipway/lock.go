package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/plan"
)

func lockCommand(a *app) *cobra.Command {
	var flags imageFlags
	var check bool
	c := &cobra.Command{
		Use:   "lock",
		Short: "Resolve the packages of all roles and write the lock",
		Long: `lock resolves the packages of all roles against the archives' signed indexes of today and writes the lock,
so that every bake from it has the same packages. With --check it only says whether the lock fits the definition and
the roles; it exits with 3 if it does not.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			if check {
				return checkLock(a, flags)
			}
			return writeLock(c.Context(), a, flags)
		},
	}
	flags.register(c)
	c.Flags().BoolVar(&check, "check", false, "write nothing; fail if the lock is stale")
	a.outputFlag(c)
	return c
}

func writeLock(ctx context.Context, a *app, flags imageFlags) error {
	w, err := flags.open(a)
	if err != nil {
		return err
	}
	roles, err := flags.loadRoles(nil)
	if err != nil {
		return err
	}
	old, err := plan.ReadLock(w.lock)
	if err != nil && !errors.Is(err, plan.ErrNoLock) {
		return err
	}
	p := newProgress(a)
	w.source.Warn = p.warn
	fresh, err := plan.Resolve(ctx, w.definition, plan.Options{
		Images: w.images, Roles: roles, Arches: flags.arches, Source: w.source, Now: a.now(), Progress: p.fetching("package lists"),
		Warn: p.warn,
	})
	p.end()
	if err != nil {
		return err
	}
	merged := plan.Merge(old, fresh)
	if err := plan.WriteLock(w.lock, merged); err != nil {
		return err
	}
	return printChanges(a, w.lock, plan.Changes(old, merged))
}

func printChanges(a *app, file string, changes []plan.Change) error {
	result := struct {
		File    string        `json:"file"`
		Changes []plan.Change `json:"changes"`
	}{file, append([]plan.Change{}, changes...)}
	return a.print(result, func(w io.Writer) error {
		for _, c := range changes {
			fmt.Fprintln(w, c)
		}
		fmt.Fprintf(w, "wrote %s: %d changes\n", file, len(changes))
		return nil
	})
}

// checkLock makes every plan, which needs no network.
func checkLock(a *app, flags imageFlags) error {
	w, err := flags.open(a)
	if err != nil {
		return err
	}
	roles, err := flags.loadRoles(nil)
	if err != nil {
		return err
	}
	lock, err := plan.ReadLock(w.lock)
	if err != nil {
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
