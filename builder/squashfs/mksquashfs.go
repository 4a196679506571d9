package squashfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// ErrNoTool means that mksquashfs cannot be run.
var ErrNoTool = errors.New("mksquashfs cannot be run; install squashfs-tools")

// Program runs mksquashfs with arguments.
type Program func(ctx context.Context, args ...string) *exec.Cmd

// Host is this machine's own mksquashfs.
func Host(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "mksquashfs", args...)
}

var version = regexp.MustCompile(`mksquashfs version (\S+)`)

// Version is mksquashfs's version: 4.5.1.
func (run Program) Version(ctx context.Context) (string, error) {
	out, err := run(ctx, "-version").Output()
	m := version.FindSubmatch(out) // the exit status differs between versions
	if m == nil && ctx.Err() != nil {
		return "", ctx.Err()
	}
	if m == nil {
		return "", fmt.Errorf("%w (%v)", ErrNoTool, err)
	}
	return string(m[1]), nil
}

// Write packs the tar stream that feed writes into the file at path, which is overwritten. On an error, what is at path
// is of no use. Feed's errors are returned as they are. More are further arguments.
func (run Program) Write(ctx context.Context, path string, o Options, feed func(io.Writer) error, more ...string) error {
	if err := o.check(); err != nil {
		return fmt.Errorf("cannot make squashfs: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	parent := ctx
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	cmd := run(ctx, append(o.args(path), more...)...)
	cmd.Env = environment(os.Environ())
	cmd.WaitDelay = 10 * time.Second
	said := &tail{limit: 4 << 10}
	cmd.Stdout, cmd.Stderr = said, said
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("cannot make squashfs: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot make squashfs: %w (%v)", ErrNoTool, err)
	}
	fed := feed(in)
	if fed != nil {
		cancel() // else mksquashfs would finish a file that ends early
	}
	in.Close()
	switch failed := cmd.Wait(); {
	case parent.Err() != nil:
		return fmt.Errorf("cannot make squashfs: %w", parent.Err())
	case failed != nil && (fed == nil || brokenPipe(fed)):
		return fmt.Errorf("cannot make squashfs %s: mksquashfs: %w: %s", path, failed, said)
	case fed != nil:
		return fed
	}
	return nil
}

func (o Options) args(path string) []string {
	epoch := strconv.FormatInt(o.Epoch, 10)
	return []string{"-", path, "-tar", "-noappend", "-no-progress", "-quiet", "-no-recovery",
		"-comp", o.Algorithm, "-Xcompression-level", strconv.Itoa(o.Level), "-b", strconv.Itoa(o.BlockSize),
		"-reproducible", "-mkfs-time", epoch, "-all-time", epoch,
		"-root-mode", "755", "-root-uid", "0", "-root-gid", "0",
		"-processors", strconv.Itoa(runtime.NumCPU())}
}

// environment is without SOURCE_DATE_EPOCH, which mksquashfs refuses to see together with -mkfs-time.
func environment(env []string) []string {
	out := []string{"LC_ALL=C"}
	for _, e := range env {
		if !strings.HasPrefix(e, "SOURCE_DATE_EPOCH=") && !strings.HasPrefix(e, "LC_ALL=") {
			out = append(out, e)
		}
	}
	return out
}

// brokenPipe says whether feeding failed only because mksquashfs went away.
func brokenPipe(err error) bool {
	return errors.Is(err, os.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || strings.Contains(err.Error(), "broken pipe")
}

// tail keeps the last bytes written to it.
type tail struct {
	limit int
	buf   bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p)
	t.buf.Next(max(0, t.buf.Len()-t.limit))
	return len(p), nil
}

func (t *tail) String() string { return strings.Join(strings.Fields(t.buf.String()), " ") }
