// Command check is a small tool for trying out a cluster from inside its pods: it serves, fetches, resolves, writes and
// reads. It needs nothing but the standard library and no shell.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const usage = `usage: check serve [--listen :8080] [--file PATH] [--healthz-fail-after D]
       check fetch URL [--retry D] [--expect STRING]
       check resolve NAME [--retry D]
       check write PATH TEXT [--every D]
       check cat PATH
       check sleep D
`

// errUsage is a wrong command line.
var errUsage = errors.New("wrong usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	switch {
	case errors.Is(err, errUsage), errors.Is(err, flag.ErrHelp):
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	commands := map[string]func(context.Context, []string) error{
		"serve": serve, "fetch": fetch, "resolve": resolve, "write": write, "cat": cat, "sleep": sleep,
	}
	command, ok := commands[args[0]]
	if !ok {
		return errUsage
	}
	return command(ctx, args[1:])
}

// arguments parses flags, which may stand before and after the words, and wants n words.
func arguments(flags *flag.FlagSet, args []string, n int) ([]string, error) {
	flags.SetOutput(os.Stderr)
	var words []string
	for {
		if err := flags.Parse(args); err != nil {
			return nil, errUsage
		}
		if flags.NArg() == 0 {
			break
		}
		words, args = append(words, flags.Arg(0)), flags.Args()[1:]
	}
	if len(words) != n {
		return nil, errUsage
	}
	return words, nil
}

// retry tries once, then again every second until the duration is over.
func retry(ctx context.Context, d time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, max(d, 10*time.Second))
	defer cancel()
	end := time.Now().Add(d)
	for {
		err := try(ctx)
		if err == nil || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

func sleep(ctx context.Context, args []string) error {
	rest, err := arguments(flag.NewFlagSet("sleep", flag.ContinueOnError), args, 1)
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(rest[0])
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return nil
}
