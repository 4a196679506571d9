package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/publish"
	"github.com/slipway-os/slipway/builder/release"
)

// publishFlags are what publish needs.
type publishFlags struct {
	placeFlags
	trust    trustFlags
	version  string
	channels []string
	back     bool
	keep     keepFlags
	sealing  sealFlags
	wait     time.Duration
	dry      bool
}

// keepFlags say what is kept when older releases go.
type keepFlags struct {
	newest   int
	clusters []string
}

func (f *keepFlags) register(c *cobra.Command) {
	c.Flags().IntVar(&f.newest, "keep", 0, "delete all but so many of the newest versions, and those that a channel or a --cluster names (0: delete none)")
	c.Flags().StringArrayVar(&f.clusters, "cluster", nil, "cluster document whose image.version is kept, may be repeated")
}

// read reads what is kept. A document that names no version boots the newest one.
func (f *keepFlags) read(c *cobra.Command) (publish.Keep, error) {
	if f.newest < 0 {
		return publish.Keep{}, usage(c, errors.New("--keep is a number of versions, 0 or more"))
	}
	k := publish.Keep{Newest: f.newest}
	for _, file := range f.clusters {
		d, err := (&clusterFlags{file: file}).load(c)
		if err != nil {
			return k, err
		}
		if d.Image.Version != "" {
			k.Versions = append(k.Versions, d.Image.Version)
		}
	}
	return k, nil
}

func (f *publishFlags) registerPlace(c *cobra.Command) {
	f.placeFlags.register(c)
	f.sealing.register(c)
	f.trust.register(c)
	c.Flags().DurationVar(&f.wait, "wait", 10*time.Minute, "how long to wait for another publisher who is at work in the folder")
}

func publishCommand(a *app) *cobra.Command {
	var flags publishFlags
	c := &cobra.Command{
		Use:   "publish DIR PLACE",
		Short: "Publish a release to a folder that a web server serves, or to an OCI registry",
		Long: `publish copies the release in DIR (all images of a version, its checksum file and its signature) to PLACE. Readers see
all of it or nothing. A version is published once: again with the same bytes does nothing, with other bytes is refused.
With --channel, channels such as candidate and stable then name it; they move forward only, unless --back is given.
With --key the place's index is signed as well, so that nobody else can make a channel name another release; from then on every
change wants the key.
Exit codes: 0 done; 1 failed; 2 wrong usage; 6 a signature is missing or wrong; 7 refused, because the version is
published with other bytes or a channel would go back; 130 interrupted.`,
		Args: words("DIR", "PLACE"),
		RunE: func(c *cobra.Command, args []string) error { return publishRelease(a, c, args[0], args[1], flags) },
	}
	flags.registerPlace(c)
	flags.keep.register(c)
	c.Flags().StringVar(&flags.version, "version", "", "version of the release, where DIR has several")
	c.Flags().StringSliceVar(&flags.channels, "channel", nil, "channels that name the version then")
	c.Flags().BoolVar(&flags.back, "back", false, "move channels back to an older version too")
	a.outputFlag(c)
	c.AddCommand(publishMoveCommand(a), publishPruneCommand(a), publishSignCommand(a), publishListCommand(a))
	return c
}

// words wants arguments by their names.
func words(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usage(c, fmt.Errorf("%s are wanted", strings.Join(names, " and ")))
		}
		for i, word := range args {
			if word == "" {
				return usage(c, fmt.Errorf("%s is empty", names[i]))
			}
		}
		return nil
	}
}

func publishRelease(a *app, c *cobra.Command, dir, to string, flags publishFlags) error {
	keep, err := flags.keep.read(c)
	if err != nil {
		return err
	}
	trust, err := flags.trust.read(a, c)
	if err != nil {
		return err
	}
	to, want, err := splitPlace(to)
	if err != nil {
		return usage(c, err)
	}
	if flags.channels = append(flags.channels, strings.Fields(want.Channel)...); flags.version == "" {
		flags.version = want.Version
	}
	for _, name := range flags.channels {
		if err := publish.CheckChannel(name); err != nil {
			return usage(c, err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot open the release: %w", err)
	}
	defer root.Close()
	r, err := release.Open(c.Context(), root, flags.version, trust)
	if err != nil {
		return err
	}
	result, err := flags.apply(a, c, to, trust, publish.Order{Release: r, From: root, Channels: flags.channels, Back: flags.back, Keep: keep})
	if err != nil {
		return err
	}
	return a.print(result, func(w io.Writer) error { return printPublished(w, result, r, trust) })
}

func printPublished(w io.Writer, result publish.Result, r *release.Release, trust *release.Trust) error {
	signed := "signed by key " + r.Signer
	switch {
	case r.Signer == "":
		signed = "not signed"
	case !trust.Wanted():
		signed += ", which was not verified: no key is trusted here"
	}
	how := "published"
	if !result.Published {
		how = "published already, the same:"
	}
	fmt.Fprintf(w, "%s version %s in %s (%d images, %s)\n", how, result.Version, result.Place, len(r.Images), signed)
	return printMoves(w, result)
}

func printMoves(w io.Writer, result publish.Result) error {
	for _, m := range result.Channels {
		fmt.Fprintln(w, m)
	}
	if len(result.Pruned) > 0 {
		fmt.Fprintf(w, "deleted versions %s\n", strings.Join(result.Pruned, ", "))
	}
	if result.Index > 0 {
		fmt.Fprintf(w, "signed the index: it is number %d\n", result.Index)
	}
	return nil
}

// apply changes a place.
func (f *publishFlags) apply(a *app, c *cobra.Command, to string, trust *release.Trust, o publish.Order) (publish.Result, error) {
	guard := a.guard(trust)
	var err error
	if o.Sealing, err = f.sealing.read(a, c, trust, guard.Now); err != nil {
		return publish.Result{}, err
	}
	p, err := f.openToWrite(a, c, to, o.Release != nil, f.wait, guard)
	if err != nil {
		return publish.Result{}, err
	}
	show := newProgress(a)
	defer show.end()
	o.Progress = func(done, all int64) {
		show.line(false, "publishing  %s  %s of %s", bar(done, all), bytesText(done), bytesText(all))
	}
	return p.Apply(c.Context(), o)
}

func publishMoveCommand(a *app) *cobra.Command {
	var flags publishFlags
	c := &cobra.Command{
		Use:   "move PLACE CHANNEL VERSION|CHANNEL",
		Short: "Make a channel name another published version",
		Long: `move makes CHANNEL name a version, or the one that another channel names: move PLACE stable candidate. A channel moves
forward only, unless --back is given. Exit code 7: refused.`,
		Args: words("PLACE", "CHANNEL", "VERSION or CHANNEL"),
		RunE: func(c *cobra.Command, args []string) error { return moveChannel(a, c, args, flags) },
	}
	flags.registerPlace(c)
	c.Flags().BoolVar(&flags.back, "back", false, "move it back to an older version too")
	a.outputFlag(c)
	return c
}

func moveChannel(a *app, c *cobra.Command, args []string, flags publishFlags) error {
	if err := publish.CheckChannel(args[1]); err != nil {
		return usage(c, err)
	}
	want, err := publish.ParseWant(args[2])
	if err != nil {
		return usage(c, err)
	}
	trust, err := flags.trust.read(a, c)
	if err != nil {
		return err
	}
	from, err := flags.open(c, args[0], nil) // what is moved is verified when it is written
	if err != nil {
		return err
	}
	found, err := from.Find(c.Context(), want)
	if err != nil {
		return fmt.Errorf("cannot move channel %s: %w", args[1], err)
	}
	result, err := flags.apply(a, c, args[0], trust, publish.Order{Version: found.Version, Channels: []string{args[1]}, Back: flags.back})
	if err != nil {
		return err
	}
	return a.print(result, func(w io.Writer) error { return printMoves(w, result) })
}

func publishPruneCommand(a *app) *cobra.Command {
	var flags publishFlags
	c := &cobra.Command{
		Use:   "prune PLACE --keep N",
		Short: "Delete old published versions",
		Long: `prune deletes all versions but the newest N, those that a channel names and those that a cluster document (--cluster) names.
A document that names no version serves the newest one.`,
		Args: words("PLACE"),
		RunE: func(c *cobra.Command, args []string) error { return prunePlace(a, c, args[0], flags) },
	}
	flags.registerPlace(c)
	flags.keep.register(c)
	c.Flags().BoolVar(&flags.dry, "dry-run", false, "say what would be deleted, and delete nothing")
	a.outputFlag(c)
	return c
}

func prunePlace(a *app, c *cobra.Command, to string, flags publishFlags) error {
	keep, err := flags.keep.read(c)
	if err != nil {
		return err
	}
	if keep.Newest == 0 {
		return usage(c, errors.New("--keep is missing: how many of the newest versions stay"))
	}
	trust, err := flags.trust.read(a, c)
	if err != nil {
		return err
	}
	result, err := flags.apply(a, c, to, trust, publish.Order{Keep: keep, Dry: flags.dry})
	if err != nil {
		return err
	}
	return a.print(result, func(w io.Writer) error {
		switch {
		case len(result.Pruned) == 0:
			_, err = fmt.Fprintln(w, "nothing to delete")
		case flags.dry:
			_, err = fmt.Fprintf(w, "would delete versions %s\n", strings.Join(result.Pruned, ", "))
		default:
			err = printMoves(w, result)
		}
		return err
	})
}

func publishListCommand(a *app) *cobra.Command {
	var flags placeFlags
	c := &cobra.Command{
		Use:   "list PLACE",
		Short: "List the published versions and channels",
		Long: `list shows the published versions, newest first, the channels that name them, and whether the index is signed. It
verifies nothing: pull does.`,
		Args: words("PLACE"),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := flags.open(c, args[0], nil)
			if err != nil {
				return err
			}
			x, err := p.Index(c.Context())
			if err != nil {
				return err
			}
			return a.print(x, func(w io.Writer) error { return printIndex(w, x) })
		},
	}
	flags.register(c)
	a.outputFlag(c)
	return c
}

func printIndex(w io.Writer, x *publish.Index) error {
	if len(x.Releases) == 0 {
		_, err := fmt.Fprintln(w, "nothing is published there yet")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "VERSION\tCHANNELS\tIMAGES\tSIZE\tSIGNED BY")
	for i := len(x.Releases) - 1; i >= 0; i-- {
		r := x.Releases[i]
		var channels, images []string
		var size int64
		for _, name := range x.ChannelNames() {
			if x.Channels[name] == r.Version {
				channels = append(channels, name)
			}
		}
		for _, image := range r.Images {
			images = append(images, image.Role+"/"+image.Arch)
		}
		for _, f := range r.Files {
			size += f.Size
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.Version, orDash(strings.Join(channels, " ")), orDash(strings.Join(images, " ")), bytesText(size), orDash(r.Signer))
	}
	if err := table.Flush(); err != nil || x.Seal == nil {
		return err
	}
	expires := "does not expire"
	if x.Seal.Expires != "" {
		expires = "expires at " + x.Seal.Expires
	}
	_, err := fmt.Fprintf(w, "\nsigned index %d of place %s, which %s\n", x.Seal.Counter, x.Seal.Place, expires)
	return err
}
