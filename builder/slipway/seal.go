package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/publish"
	"github.com/slipway-os/slipway/builder/release"
)

// sealFlags say who signs the index of a place.
type sealFlags struct {
	key, cosign string
	expires     time.Duration
	adopt       bool
}

func (f *sealFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.key, "key", "", "secret key file, of minisign, to sign the place's index with")
	c.Flags().StringVar(&f.cosign, "cosign-key", "", "secret key file, of cosign, to sign the place's index with")
	c.Flags().DurationVar(&f.expires, "expires", 0, "how long the signed index is good, such as 720h (default: for ever); sign it again before (publish sign)")
}

// read reads the keys; nil: there are none.
func (f *sealFlags) read(a *app, c *cobra.Command, trust *release.Trust, now time.Time) (*publish.Sealing, error) {
	by, err := readSigners(a, f.key, f.cosign)
	if err != nil {
		return nil, err
	}
	switch {
	case f.expires < 0:
		return nil, usage(c, fmt.Errorf("--expires %s is before now", f.expires))
	case !by.Wanted() && f.expires > 0:
		return nil, usage(c, errors.New("--expires wants a --key"))
	case !by.Wanted():
		return nil, nil
	}
	return &publish.Sealing{By: by, Trust: trust, Now: now, Lasts: f.expires, Entropy: rand.Reader, Adopt: f.adopt}, nil
}

// guard is what is wanted of a place's index, and remembers what was seen on this machine.
func (a *app) guard(trust *release.Trust) *publish.Guard {
	g := &publish.Guard{Trust: trust, Now: time.Now()}
	dir := a.env("XDG_STATE_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil { // a user without a home remembers nothing
			return g
		}
		dir = filepath.Join(home, ".local", "state")
	}
	g.Memory = &publish.Memory{Dir: filepath.Join(dir, "slipway", "places"), Warn: func(err error) { fmt.Fprintln(a.words, "slipway:", err) }}
	return g
}

func publishSignCommand(a *app) *cobra.Command {
	var flags publishFlags
	c := &cobra.Command{
		Use:   "sign PLACE --key FILE",
		Short: "Sign the index of a place",
		Long: `sign signs the index of a place as it is: which versions there are, by digest, and which of them each channel names. For a place that
nobody has signed so far (look at it before: publish list), and before an index expires. The next index has a higher number, so that
readers notice an older one.`,
		Args: words("PLACE"),
		RunE: func(c *cobra.Command, args []string) error { return signPlace(a, c, args[0], flags) },
	}
	flags.registerPlace(c)
	a.outputFlag(c)
	return c
}

func signPlace(a *app, c *cobra.Command, to string, flags publishFlags) error {
	if flags.sealing.key == "" && flags.sealing.cosign == "" {
		return usage(c, errors.New("--key is missing"))
	}
	trust, err := flags.trust.read(a, c)
	if err != nil {
		return err
	}
	flags.sealing.adopt = true
	result, err := flags.apply(a, c, to, trust, publish.Order{})
	if err != nil {
		return err
	}
	return a.print(result, func(w io.Writer) error { return printMoves(w, result) })
}
