package rack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// stopGrace is how long a process has to end by itself.
const stopGrace = 10 * time.Second

// process is a child in the namespace, with a log file and a pid file.
type process struct {
	name    string
	pidFile string
	cmd     *exec.Cmd
	done    chan struct{} // closed when it has ended
	err     error         // valid after done
}

// spawn starts a command in the namespace. Its output goes to the log file; its pid is kept in dir, for a later run to
// find what this one could not end.
func spawn(space *namespace, dir, name, logFile string, cmd *exec.Cmd) (*process, error) {
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	p := &process{name: name, pidFile: filepath.Join(dir, name+pidExtension), cmd: cmd, done: make(chan struct{})}
	if err := space.start(cmd); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := os.WriteFile(p.pidFile, []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start %s: %w", name, err), p.stop(0))
	}
	return p, nil
}

// running tells whether the process has not ended yet.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop asks the process to end (SIGTERM), and makes it end when the grace is over. Its exit status does not matter.
func (p *process) stop(grace time.Duration) error {
	if !p.running() {
		return os.Remove(p.pidFile)
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	if !p.ends(grace) {
		p.cmd.Process.Kill()
		if !p.ends(stopGrace) {
			return fmt.Errorf("cannot end %s: process %d does not go away", p.name, p.cmd.Process.Pid)
		}
	}
	return os.Remove(p.pidFile)
}

func (p *process) ends(within time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(within):
		return false
	}
}
