package bake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
)

// level is zstd's for the initrd and container images, with a window of 4 MiB. The next ones take twice to six times as long for a
// hundredth less.
const level = "-9"

// zstdWriter compresses what feed writes, whose errors are returned as they are; nil: there is no such program.
func (p toolbox) zstdWriter(ctx context.Context) func(w io.Writer, feed func(io.Writer) error) error {
	if p.zstd == nil {
		return nil
	}
	return func(w io.Writer, feed func(io.Writer) error) error { return p.runZstd(ctx, w, feed) }
}

func (p toolbox) runZstd(ctx context.Context, w io.Writer, feed func(io.Writer) error) error {
	parent := ctx
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	cmd := p.zstd(ctx, level, "--single-thread", "--quiet", "--stdout")
	var words strings.Builder
	cmd.Env, cmd.Stdout, cmd.Stderr = []string{"LC_ALL=C"}, w, &words // without ZSTD_CLEVEL and the like
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("cannot run zstd: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot run zstd: %w", err)
	}
	fed := feed(in)
	if fed != nil {
		cancel() // else it would finish a file that ends early
	}
	in.Close()
	failed := cmd.Wait()
	switch {
	case parent.Err() != nil:
		return parent.Err()
	case failed != nil && (fed == nil || errors.Is(fed, syscall.EPIPE)):
		return fmt.Errorf("cannot compress: zstd: %w: %s", failed, strings.TrimSpace(words.String()))
	}
	return fed
}
