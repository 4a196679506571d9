package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/nodes"
)

func bundleCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var out string
	c := &cobra.Command{
		Use:   "bundle --cluster FILE --out FILE",
		Short: "Collect what helps others to see what is wrong with a cluster",
		Long: `bundle asks all running nodes for their status and journal and writes them with the cluster document and what
slipway status --nodes would say into one archive (.tar.gz) that only its owner may read. Nothing of the identity goes into
it, and what looks like a private key or a token in a journal is left out. Nodes that don't answer are told of. Addresses
and names are in it: look at it before you give it away.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := needs(c, "cluster", "out"); err != nil {
				return err
			}
			o, d, err := operator(a, c, &flags)
			if err != nil {
				return err
			}
			document := d.data
			if d.file != "" {
				if document, err = os.ReadFile(d.file); err != nil {
					return err
				}
			}
			answers, now := o.Survey(c.Context()), a.now()
			if err := o.Bundle(c.Context(), out, document, nodes.Explain(answers, flags.file, now), answers, now); err != nil {
				return err
			}
			silent := 0
			for _, answer := range answers {
				if answer.Status == nil {
					silent++
				}
			}
			result := struct {
				File   string `json:"file"`
				Nodes  int    `json:"nodes"`
				Silent int    `json:"silent"`
			}{out, len(answers), silent}
			return a.print(result, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "wrote %s: %d of %d nodes answered\n", out, len(answers)-silent, len(answers))
				return err
			})
		},
	}
	flags.register(c)
	flags.registerIdentity(c)
	c.Flags().StringVarP(&out, "out", "o", "", "file to write")
	a.outputFlag(c)
	return c
}
