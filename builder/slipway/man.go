package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func manCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "man --out DIR",
		Short: "Write the man pages",
		Args:  noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := needs(c, "out"); err != nil {
				return err
			}
			if err := os.MkdirAll(out, 0o755); err != nil {
				return fmt.Errorf("cannot write man pages: %w", err)
			}
			root := c.Root()
			root.DisableAutoGenTag = true
			// The date is the release's, not today's: equal sources give equal pages.
			date := time.Date(2026, time.November, 23, 0, 0, 0, 0, time.UTC)
			header := &doc.GenManHeader{Title: "SLIPWAY", Section: "1", Source: "Slipway " + version, Manual: "Slipway", Date: &date}
			if err := doc.GenManTree(root, header, out); err != nil {
				return fmt.Errorf("cannot write man pages: %w", err)
			}
			return nil
		},
	}
	c.Flags().StringVar(&out, "out", "", "folder of the pages")
	return c
}
