// Command slipway is the operator's program: it locks, bakes, serves and rehearses node images. One file is one command;
// a command parses its flags, builds values and hands them to the package that does the work.
//
// Exit codes: 0 done; 1 failed; 2 wrong usage or wrong input; 3 the lock is stale, damaged or missing; 4 the mirror no longer has
// a locked file; 5 a device must not be written; 6 a signature is missing or wrong; 7 publishing
// is refused; 8 what was compared differs; 130 interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/flash"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/builder/publish"
	"github.com/slipway-os/slipway/builder/rebuild"
	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/images/document"
)

// Exit codes.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitStale       = 3
	exitMoved       = 4
	exitRefused     = 5
	exitSignature   = 6
	exitPublished   = 7
	exitDiffer      = 8
	exitInterrupted = 130
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	a := &app{in: os.Stdin, out: os.Stdout, words: os.Stderr, env: os.Getenv}
	code := run(ctx, a, os.Args[1:])
	stop()
	os.Exit(code)
}

// run runs one command line and gives its exit code.
func run(ctx context.Context, a *app, args []string) int {
	root := command(a)
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.words)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	explain(a.words, err)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	return exitCode(err)
}

// command is the whole command tree.
func command(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "slipway",
		Short: "Bake immutable Kubernetes node images and boot them",
		Long: `Slipway bakes immutable Kubernetes node images and boots them.

An image is baked once for each role and version and knows no cluster; a node becomes this node by its own small
configuration. Exit codes: 0 done; 1 failed; 2 wrong usage or wrong input; 3 the lock is stale, damaged or missing;
4 the mirror no longer has a locked file; 5 a device must not be written; 6 a signature is missing or wrong;
7 publishing is refused; 8 what was compared differs; 130 interrupted.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noWords,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(c, err) })
	root.PersistentFlags().StringVar(&a.cache, "cache", "", "folder for downloads and what was built (default: SLIPWAY_CACHE, else below the user's cache)")
	root.AddCommand(
		lockCommand(a), bakeCommand(a), inspectCommand(a), verifyCommand(a), diffCommand(a), keygenCommand(a), signCommand(a), publishCommand(a), pullCommand(a), flashCommand(a), identityCommand(a), kubeconfigCommand(a), netCommand(a),
		serveCommand(a), statusCommand(a), logsCommand(a), etcdCommand(a), renewCommand(a), rotateCommand(a), resetCommand(a), pruneCommand(a), bundleCommand(a), bootCommand(a), powerCommand(a), explainCommand(a), armCommand(a), claimsCommand(a), machinesCommand(a), adoptCommand(a), reloadCommand(a), rackCommand(a), versionCommand(a), manCommand(),
	)
	return root
}

// usageError is a wrong command line.
type usageError struct {
	command string
	err     error
}

func (e *usageError) Error() string { return e.err.Error() + " (" + e.command + " --help)" }
func (e *usageError) Unwrap() error { return e.err }

func usage(c *cobra.Command, err error) error { return &usageError{command: c.CommandPath(), err: err} }

// noWords refuses words after the flags.
func noWords(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if c.HasAvailableSubCommands() {
		return usage(c, fmt.Errorf("unknown command %q", args[0]))
	}
	return usage(c, fmt.Errorf("unexpected argument %q", args[0]))
}

// needs refuses a command line that lacks flags.
func needs(c *cobra.Command, flags ...string) error {
	for _, f := range flags {
		if c.Flag(f).Value.String() == "" || c.Flag(f).Value.String() == "[]" {
			return usage(c, fmt.Errorf("--%s is missing", f))
		}
	}
	return nil
}

func exitCode(err error) int {
	var wrong *usageError
	var faults document.Faults
	switch {
	case errors.As(err, &wrong), errors.As(err, &faults), errors.Is(err, plan.ErrPattern):
		return exitUsage
	case errors.Is(err, plan.ErrStale), errors.Is(err, plan.ErrNoLock), errors.Is(err, plan.ErrBadLock):
		return exitStale
	case errors.Is(err, plan.ErrMoved):
		return exitMoved
	case errors.Is(err, flash.ErrRefused), errors.Is(err, flash.ErrBusy):
		return exitRefused
	case errors.Is(err, release.ErrSignature):
		return exitSignature
	case errors.Is(err, publish.ErrRefused):
		return exitPublished
	case errors.Is(err, errDiffer), errors.Is(err, rebuild.ErrDiffers):
		return exitDiffer
	default:
		return exitFailed
	}
}

// explain prints an error. Faults of a document stand alone, a line each, as editors read them.
func explain(w io.Writer, err error) {
	var faults document.Faults
	if errors.As(err, &faults) {
		fmt.Fprintln(w, faults)
		return
	}
	fmt.Fprintln(w, "slipway:", err)
}
