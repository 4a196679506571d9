package rack

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrBusy is what the error wraps when a rack of that name is up already.
var ErrBusy = errors.New("a rack of this cluster is up already")

const pidExtension = ".pid"

// claim makes the run's folder. What a killed run left is ended and removed first; a run that lives is left alone.
func (r *rack) claim() error {
	if err := os.MkdirAll(r.State, 0o755); err != nil {
		return fmt.Errorf("cannot make the rack's folder: %w", err)
	}
	if pid := ownerOf(r.dir); pid != 0 {
		return fmt.Errorf("%w: process %d has it (end it first)", ErrBusy, pid)
	}
	if err := removeLeftovers(r.dir, namespaceName(r.Cluster)); err != nil {
		return err
	}
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the rack's folder: %w", err)
	}
	if r.Logs != "" {
		if err := os.MkdirAll(r.Logs, 0o755); err != nil {
			return fmt.Errorf("cannot make the folder for logs: %w", err)
		}
	}
	return os.WriteFile(filepath.Join(r.dir, ownerFile), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600)
}

// ownerFile holds the pid of the slipway that runs the rack.
const ownerFile = "owner"

// ownerOf is the living owner of a rack's folder; 0 if there is none.
func ownerOf(dir string) int {
	pid := readPID(filepath.Join(dir, ownerFile))
	if pid == 0 || pid == os.Getpid() || !runs(pid, "rack") {
		return 0
	}
	return pid
}

// removeLeftovers ends the processes whose pid files are in dir, if they are still those, and removes folder and
// namespace.
func removeLeftovers(dir, space string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*"+pidExtension))
	if err != nil {
		return err
	}
	for _, f := range files {
		pid := readPID(f)
		// Every child has the rack's folder in its command line: QEMU for its sockets, the server for its states.
		if pid == 0 || !runs(pid, dir) {
			continue
		}
		if err := end(pid); err != nil {
			return fmt.Errorf("cannot end process %d of an earlier rack: %w", pid, err)
		}
	}
	if err := removeNamespace(space); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot remove what an earlier rack left: %w", err)
	}
	return nil
}

func readPID(file string) int {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0
	}
	return pid
}

// runs tells whether a process lives and has a word in its command line: pids are used again.
func runs(pid int, word string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(line, []byte(word))
}

func end(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	for range 100 {
		if syscall.Kill(pid, 0) != nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("it does not go away")
}
