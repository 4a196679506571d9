package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/publish"
	"github.com/slipway-os/slipway/builder/pull"
)

// pullFlags are what pull needs.
type pullFlags struct {
	placeFlags
	trust            trustFlags
	out              string
	version, channel string
	roles, arches    []string
	unsignedIndex    bool
}

func pullCommand(a *app) *cobra.Command {
	var flags pullFlags
	c := &cobra.Command{
		Use:   "pull PLACE[@VERSION|#CHANNEL] --out DIR",
		Short: "Fetch a published release, verified",
		Long: `pull fetches the release that a version or a channel names (default: channel stable) from where slipway publish put it,
for slipway serve --artifacts DIR and slipway flash DIR. The signature is verified first, then every file while it
is written; a file has its name when it is whole. What breaks off is resumed, also by running pull again.
Where a key is trusted, a channel is believed only if the place's index is signed too (slipway publish --key), has not expired, and is
not older than one that was seen here before.
Exit codes: 0 done; 1 failed; 2 wrong usage; 6 a signature is missing or wrong; 130 interrupted.`,
		Args: oneWord("PLACE"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := needs(c, "out"); err != nil {
				return err
			}
			return pullRelease(a, c, args[0], flags)
		},
	}
	flags.placeFlags.register(c)
	flags.trust.register(c)
	c.Flags().StringVar(&flags.out, "out", "", "folder for the release's files")
	c.Flags().StringVar(&flags.version, "version", "", "version to fetch")
	c.Flags().StringVar(&flags.channel, "channel", "", "fetch the version that this channel names")
	c.Flags().StringSliceVar(&flags.roles, "role", nil, "only images of these roles")
	c.Flags().StringSliceVar(&flags.arches, "arch", nil, "only images of these architectures, by Go's names")
	c.Flags().BoolVar(&flags.unsignedIndex, "unsigned-index", false, "believe the channels of a place whose index nobody has signed")
	a.outputFlag(c)
	return c
}

// want is which release is meant, by flags or by what follows the place.
func (f *pullFlags) want(word string) (string, publish.Want, error) {
	from, want, err := splitPlace(word)
	if err != nil {
		return "", want, err
	}
	for _, given := range []publish.Want{{Version: f.version}, {Channel: f.channel}} {
		if given == (publish.Want{}) {
			continue
		}
		if want != (publish.Want{}) {
			return "", want, errors.New("one version or one channel is wanted")
		}
		want = given
	}
	if f.channel != "" {
		err = publish.CheckChannel(f.channel)
	}
	return from, want, err
}

func pullRelease(a *app, c *cobra.Command, word string, flags pullFlags) error {
	from, want, err := flags.want(word)
	if err != nil {
		return usage(c, err)
	}
	trust, err := flags.trust.read(a, c)
	if err != nil {
		return err
	}
	guard := a.guard(trust)
	guard.Unsigned = flags.unsignedIndex
	source, err := flags.open(c, from, guard)
	if err != nil {
		return err
	}
	show := newProgress(a)
	defer show.end()
	result, err := pull.Pull(c.Context(), pull.Order{
		Source: source, Want: want, Out: flags.out, Roles: flags.roles, Arches: flags.arches, Trust: trust, Pause: time.Second,
		Progress: func(name string, done, all int64) {
			show.line(false, "fetching  %s  %s of %s  %s", bar(done, all), bytesText(done), bytesText(all), name)
		},
	})
	if err != nil {
		return err
	}
	show.end()
	return a.print(result, func(w io.Writer) error {
		signed := "no signature was asked for: no key is trusted here"
		if flags.trust.unsigned {
			signed = "no signature was asked for"
		} else if result.Signer != "" {
			signed = "signed by key " + result.Signer
		}
		_, err := fmt.Fprintf(w, "version %s (%s) is in %s: %d files, %s of %s fetched; %s\n",
			result.Version, strings.Join(result.Images, ", "), flags.out, result.Files, bytesText(result.Fetched), bytesText(result.Bytes), signed)
		return err
	})
}
