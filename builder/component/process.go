package component

import (
	"context"
	"os/exec"
	"syscall"
	"time"
)

// grace is how long processes may take to end by themselves, so that `go` removes its work folder.
const grace = 5 * time.Second

// command runs in a process group of its own, which is interrupted when ctx ends. Whoever waits for it calls sweep after.
func (t *toolchain) command(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, program, args...)
	command.Dir = dir
	command.Env = append(t.environment(), "PWD="+dir)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGINT) }
	command.WaitDelay = grace
	return command
}

// sweep ends what an interrupted command left running: compilers and linkers must not go on by themselves.
func sweep(ctx context.Context, command *exec.Cmd) {
	if ctx.Err() != nil && command.Process != nil {
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
	}
}
