package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Bucket is a place in an object store. A program of its own asks the store (slipway-etcd bucket), so that the agent, which every
// initrd has, needn't have S3 in it.
type Bucket struct {
	bootspec.S3Bucket
	Tool []string // slipway-etcd, and arguments that it always gets
}

// run runs the program; its last words are the error.
func (b Bucket) run(ctx context.Context, from io.Reader, words ...string) (string, error) {
	args := append([]string{}, b.Tool[1:]...)
	args = append(args, "bucket", "--endpoint="+b.Endpoint, "--region="+b.Region, "--bucket="+b.Bucket, "--prefix="+b.Prefix,
		"--credentials="+b.Credentials, "--ca="+b.CA)
	cmd := exec.CommandContext(ctx, b.Tool[0], append(args, words...)...)
	cmd.Env = []string{"PATH=/usr/bin", "HOME=/nonexistent", "GOMEMLIMIT=64MiB"} // nobody's own keys
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = from, &out, &said
	err := cmd.Run()
	if err == nil {
		return out.String(), nil
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	text := strings.TrimSpace(string(said.Bytes()[max(0, said.Len()-1000):]))
	if text = strings.TrimPrefix(text, "slipway-etcd: "); text != "" {
		return "", errors.New(text)
	}
	return "", fmt.Errorf("cannot run slipway-etcd: %w", err)
}

// List is what lies in the bucket below the prefix.
func (b Bucket) List(ctx context.Context) ([]string, error) {
	out, err := b.run(ctx, nil, "list")
	return strings.Fields(out), err
}

// Put sends a file; the store has it whole or not at all.
func (b Bucket) Put(ctx context.Context, name string, f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	_, err = b.run(ctx, f, fmt.Sprintf("--size=%d", st.Size()), "put", name)
	return err
}

// Remove removes a file.
func (b Bucket) Remove(ctx context.Context, name string) error {
	_, err := b.run(ctx, nil, "remove", name)
	return err
}
