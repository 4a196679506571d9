package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/checkout"
	"github.com/slipway-os/slipway/builder/provenance"
)

// originFlags say who bakes, for an image's provenance.
type originFlags struct {
	builder, invocation string
	lock                string // SHA-256 of the lock that was read
}

func (f *originFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.builder, "builder-id", "", "URI of who runs the bake, for the provenance (default: SLIPWAY_BUILDER_ID, else "+provenance.LocalBuilder+")")
	c.Flags().StringVar(&f.invocation, "invocation-id", "", "URI or id of this run, for the provenance (default: SLIPWAY_INVOCATION_ID, else none)")
}

// read asks git about the definition's folder. Where git can't tell, the provenance names no commit, and the reason is said.
func (f *originFlags) read(ctx context.Context, a *app, images string) provenance.Origin {
	o := provenance.Origin{
		Builder: cmp.Or(f.builder, a.env("SLIPWAY_BUILDER_ID")), Invocation: cmp.Or(f.invocation, a.env("SLIPWAY_INVOCATION_ID")),
		Version: version, Lock: f.lock,
	}
	switch found, err := checkout.Find(ctx, images); {
	case err == nil:
		o.Source = &provenance.Source{URI: found.URI, Commit: found.Commit, Dirty: found.Dirty}
	case !errors.Is(err, checkout.ErrNone):
		fmt.Fprintf(a.words, "slipway: the provenance names no commit: %v\n", err)
	}
	return o
}
