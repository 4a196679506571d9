package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is Slipway's own.
const version = "0.1.0"

func versionCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  noWords,
		RunE: func(*cobra.Command, []string) error {
			result := map[string]string{"version": version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH, "revision": revision()}
			return a.print(result, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "slipway %s (%s, %s, revision %s)\n", version, result["go"], result["platform"], result["revision"])
				return err
			})
		},
	}
	a.outputFlag(c)
	return c
}

// revision is the commit the program was built from.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	value, dirty := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			value = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = " with changes"
		}
	}
	return value + dirty
}
