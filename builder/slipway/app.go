package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// app is what the commands share: streams, environment and the flags of all of them.
type app struct {
	in         io.Reader
	out, words io.Writer // results; messages and progress
	env        func(string) string
	cache      string
	output     string
}

// now is the clock of everything below; nothing that reaches an artifact asks for it.
func (a *app) now() time.Time { return time.Now() }

// terminal tells whether a stream is one.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// cacheDir is the folder for downloads and what was built.
func (a *app) cacheDir() (string, error) {
	for _, dir := range []string{a.cache, a.env("SLIPWAY_CACHE")} {
		if dir != "" {
			return filepath.Abs(dir)
		}
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot find a cache folder: %w (set SLIPWAY_CACHE or --cache)", err)
	}
	return filepath.Join(dir, "slipway"), nil
}

// outputFlag gives a command --output: text, json, and what else it can write.
func (a *app) outputFlag(c *cobra.Command, more ...string) {
	forms := append([]string{"text", "json"}, more...)
	c.Flags().StringVar(&a.output, "output", "text", strings.Join(append([]string{"text for people, json for programs"}, more...), ", "))
	check := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error {
		if !slices.Contains(forms, a.output) {
			return usage(c, fmt.Errorf("--output is %s or %s, not %q", strings.Join(forms[:len(forms)-1], ", "), forms[len(forms)-1], a.output))
		}
		if check != nil {
			return check(c, args)
		}
		return nil
	}
}

// print prints a result: as JSON where programs asked for it, else with the function for people.
func (a *app) print(result any, people func(io.Writer) error) error {
	if a.output != "json" {
		return people(a.out)
	}
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(result)
}
