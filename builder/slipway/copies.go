package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/copies"
	"github.com/slipway-os/slipway/builder/nodes"
	"github.com/slipway-os/slipway/images/bootspec"
)

// copiesFlags are those of etcd list and fetch.
type copiesFlags struct {
	clusterFlags
	from string
}

func (f *copiesFlags) register(c *cobra.Command) {
	f.clusterFlags.register(c)
	f.registerIdentity(c)
	c.Flags().StringVar(&f.from, "from", "", "one place: a control plane, "+copies.DepotPlace+" (default: all)")
}

// find asks the places. It fails when none of them answers; those that don't are told.
func (f *copiesFlags) find(a *app, c *cobra.Command) ([]copies.Copy, []string, error) {
	o, d, err := operator(a, c, &f.clusterFlags)
	if err != nil {
		return nil, nil, err
	}
	if d.Etcd.Backup == nil {
		return nil, nil, errors.New("the cluster document has no etcd.backup: control planes keep no snapshots (slipway etcd snapshot takes one now)")
	}
	places := copies.Places(d.Cluster, o)
	if f.from != "" {
		var names []string
		for _, p := range places {
			names = append(names, p.String())
		}
		places = slices.DeleteFunc(places, func(p copies.Place) bool { return p.String() != f.from })
		if len(places) == 0 {
			return nil, nil, usage(c, fmt.Errorf("there is no place %q (%s)", f.from, strings.Join(names, ", ")))
		}
	}
	list, faults := copies.List(c.Context(), places)
	silent := make([]string, 0, len(faults))
	for _, err := range faults {
		silent = append(silent, err.Error())
	}
	if len(faults) == len(places) {
		return nil, nil, fmt.Errorf("no place tells which snapshots it has: %w", errors.Join(faults...))
	}
	return list, silent, nil
}

func etcdListCommand(a *app) *cobra.Command {
	var flags copiesFlags
	c := &cobra.Command{
		Use:   "list --cluster FILE",
		Short: "List the snapshots of etcd that are kept, and where",
		Long: `list asks control planes, the boot server and the other places that the cluster document names (etcd.backup) for the
snapshots that they keep. A place that doesn't answer is said.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			list, silent, err := flags.find(a, c)
			if err != nil {
				return err
			}
			result := struct {
				Snapshots []copies.Copy `json:"snapshots"`
				Silent    []string      `json:"silent,omitempty"`
			}{list, silent}
			return a.print(result, func(w io.Writer) error { return writeCopies(w, list, silent) })
		},
	}
	flags.register(c)
	a.outputFlag(c)
	return c
}

func writeCopies(w io.Writer, list []copies.Copy, silent []string) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SNAPSHOT\tTAKEN\tSIZE\tWHERE")
	for _, c := range list {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", c.Name, c.At.Format(time.RFC3339), mebibytes(c.Size), strings.Join(c.Where, ", "))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, words := range silent {
		fmt.Fprintln(w, words)
	}
	return nil
}

// fetchResult is a snapshot that was fetched.
type fetchResult struct {
	Name    string          `json:"name"`
	From    string          `json:"from"`
	File    string          `json:"file"`
	Size    int64           `json:"size"`
	Checked *nodes.Snapshot `json:"checked,omitempty"`
}

func etcdFetchCommand(a *app) *cobra.Command {
	var flags copiesFlags
	var out, key string
	var latest bool
	c := &cobra.Command{
		Use:   "fetch [SNAPSHOT] --cluster FILE --out FILE",
		Short: "Fetch a snapshot of etcd that is kept somewhere",
		Long: `fetch brings a snapshot that slipway etcd list names, or with --latest the newest, into a file that only its owner may
read: from a control plane, the boot server or another place, whichever has it and answers. The file appears whole or not at all.
It stays encrypted; with --key it is checked too. slipway etcd restore takes it as it is.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := needs(c, "cluster", "out"); err != nil {
				return err
			}
			if (len(args) == 1) == latest || len(args) > 1 {
				return usage(c, errors.New("name one snapshot, or say --latest"))
			}
			list, silent, err := flags.find(a, c)
			if err != nil {
				return err
			}
			chosen, err := choose(list, args, silent, a.now())
			if err != nil {
				return err
			}
			r, err := fetch(c.Context(), chosen, out, key)
			if err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "fetched %s from %s into %s: %d bytes, encrypted\n", r.Name, r.From, r.File, r.Size)
				if s := r.Checked; s != nil {
					_, err = fmt.Fprintf(w, "it is whole: revision %d, %d keys\n", s.Revision, s.Keys)
				}
				return err
			})
		},
	}
	flags.register(c)
	c.Flags().StringVarP(&out, "out", "o", "", "file to write")
	c.Flags().BoolVar(&latest, "latest", false, "the newest")
	c.Flags().StringVar(&key, "key", "", "file with the secret key that age-keygen made: check the snapshot too")
	a.outputFlag(c)
	return c
}

// choose finds the named snapshot, or the newest but those of days to come, which are from when a clock was wrong.
func choose(list []copies.Copy, args, silent []string, now time.Time) (copies.Copy, error) {
	unheard := ""
	if len(silent) > 0 {
		unheard = " (not asked: " + strings.Join(silent, "; ") + ")"
	}
	for _, c := range list {
		if len(args) == 0 && c.At.Sub(now) < 24*time.Hour || len(args) == 1 && c.Name == args[0] {
			return c, nil
		}
	}
	if len(args) == 0 {
		return copies.Copy{}, errors.New("there is no snapshot yet" + unheard)
	}
	if _, _, ok := bootspec.ParseSnapshotName(args[0]); !ok {
		return copies.Copy{}, fmt.Errorf("%q is not the name of a snapshot: NODE-20260301T120000Z.etcd.age", args[0])
	}
	return copies.Copy{}, fmt.Errorf("no place has %s%s: slipway etcd list says what there is", args[0], unheard)
}

func fetch(ctx context.Context, chosen copies.Copy, out, key string) (fetchResult, error) {
	from, err := chosen.Fetch(ctx, out)
	r := fetchResult{Name: chosen.Name, From: from, File: out, Size: chosen.Size}
	if err != nil || key == "" {
		return r, err
	}
	s, done, err := nodes.OpenSnapshot(out, key)
	if err != nil {
		return r, fmt.Errorf("%s was fetched, but: %w", out, err)
	}
	defer done()
	s.File = out
	r.Checked = &s
	return r, nil
}
