package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// resolve prints the addresses of a name, one a line.
func resolve(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("resolve", flag.ContinueOnError)
	again := flags.Duration("retry", 0, "how long to try again")
	rest, err := arguments(flags, args, 1)
	if err != nil {
		return err
	}
	return retry(ctx, *again, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		addresses, err := net.DefaultResolver.LookupHost(ctx, rest[0])
		if err != nil {
			return err
		}
		for _, a := range addresses {
			fmt.Println(a)
		}
		return nil
	})
}

// write writes a text to a file, whole or not at all; with --every again and again.
func write(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("write", flag.ContinueOnError)
	every := flags.Duration("every", 0, "write again after this time; 0: once")
	rest, err := arguments(flags, args, 2)
	if err != nil {
		return err
	}
	for {
		if err := replace(rest[0], rest[1]); err != nil || *every == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(*every):
		}
	}
}

func replace(path, text string) error {
	beside, err := os.CreateTemp(filepath.Dir(path), ".write-*")
	if err != nil {
		return err
	}
	defer os.Remove(beside.Name())
	if _, err := beside.WriteString(text); err != nil {
		return err
	}
	if err := beside.Chmod(0o644); err != nil { // other containers of the pod may read it
		return err
	}
	if err := beside.Close(); err != nil {
		return err
	}
	return os.Rename(beside.Name(), path)
}

// cat prints a file.
func cat(_ context.Context, args []string) error {
	rest, err := arguments(flag.NewFlagSet("cat", flag.ContinueOnError), args, 1)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(rest[0])
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(content)
	return err
}
