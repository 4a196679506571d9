// Package provision applies a node's Ignition configuration with the real Ignition and keeps it private.
//
// Ignition prints the whole configuration when a stage fails, and its log quotes parts of it. So its output is read into
// memory and never shown: an Error says the stage, the exit code and what a strict filter lets through (see explain).
package provision

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Ignition is a program to run. Stages fetch and files are run; disks would need systemd in the initramfs.
type Ignition struct {
	Program string // path of the ignition binary
	Root    string // folder of the root file system to provision
	Scratch string // folder for the configuration while Ignition runs; it is made, and removed with all its content
}

// maxOutput bounds how much of the beginning and of the end of Ignition's output is looked at, in bytes.
const maxOutput = 256 << 10

// Error says that Ignition refused or failed. It holds no secret.
type Error struct {
	Stage   string   // fetch, files
	Code    int      // exit code; -1: it didn't exit by itself
	Ended   string   // exit status 1, signal: killed
	Reasons []string // what can be told, at most a few lines
}

// Error is one line.
func (e *Error) Error() string {
	what := "Ignition failed to apply the configuration"
	if e.Stage == "fetch" {
		what = "Ignition refused the configuration"
	}
	reasons := "its own words are withheld because they may quote secrets"
	if len(e.Reasons) > 0 {
		reasons = strings.Join(e.Reasons, "; ")
	}
	return fmt.Sprintf("%s (stage %s, %s): %s", what, e.Stage, e.Ended, reasons)
}

// Apply provisions. It may be run again after a failure. Nothing of config stays outside of Root.
func (i Ignition) Apply(ctx context.Context, config []byte) (err error) {
	if err := os.RemoveAll(i.Scratch); err != nil {
		return fmt.Errorf("cannot prepare Ignition: %w", err)
	}
	if err := os.Mkdir(i.Scratch, 0o700); err != nil {
		return fmt.Errorf("cannot prepare Ignition: %w", err)
	}
	defer func() {
		if rerr := os.RemoveAll(i.Scratch); rerr != nil {
			err = errors.Join(err, fmt.Errorf("cannot remove the configuration from %s: %w", i.Scratch, rerr))
		}
	}()
	if err := os.WriteFile(i.path("config.ign"), config, 0o600); err != nil {
		return fmt.Errorf("cannot prepare Ignition: %w", err)
	}
	for _, stage := range []string{"fetch", "files"} {
		if err := i.stage(ctx, stage, config); err != nil {
			return err
		}
	}
	return nil
}

func (i Ignition) path(name string) string { return filepath.Join(i.Scratch, name) }

// stage runs one stage. Ignition's log goes to standard output instead of a system log, its standard error is read too.
func (i Ignition) stage(ctx context.Context, stage string, config []byte) error {
	cmd := exec.CommandContext(ctx, i.Program,
		"--platform=file", "--stage="+stage, "--root="+i.Root, "--log-to-stdout",
		"--config-cache="+i.path("cache.json"), "--state-file="+i.path("state"), "--neednet="+i.path("neednet"))
	cmd.Env = []string{
		"IGNITION_CONFIG_FILE=" + i.path("config.ign"),
		"IGNITION_WRITE_AUTHORIZED_KEYS_FRAGMENT=false",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TMPDIR=" + i.Scratch,
	}
	cmd.WaitDelay = 5 * time.Second
	out := &bounded{limit: maxOutput}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("Ignition stage %s: %w", stage, context.Cause(ctx))
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("cannot run Ignition: %w", err)
	}
	return &Error{Stage: stage, Code: exit.ExitCode(), Ended: exit.String(), Reasons: explain(out.bytes(), config, i.Root)}
}

// bounded keeps the first and the last bytes of what is written, each up to limit: the failure is told first and last,
// the whole configuration in between.
type bounded struct {
	first, last []byte
	limit       int
}

func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.limit-len(b.first))
	b.first = append(b.first, p[:n]...)
	b.last = append(b.last, p[n:]...)
	if len(b.last) > 2*b.limit {
		b.last = append([]byte(nil), b.last[len(b.last)-b.limit:]...)
	}
	return len(p), nil
}

func (b *bounded) bytes() []byte { return slices.Concat(b.first, []byte("\n"), b.last) }
