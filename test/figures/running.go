package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// running are a server's processes: the first answers, the others are what it stands on. They are ended in this order.
type running []*process

type process struct {
	*exec.Cmd
	ended chan struct{} // closed when it has ended
}

// begin starts a program.
func begin(cmd *exec.Cmd) (running, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd, make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = p.Wait()
	}()
	return running{p}, nil
}

// end has all of them end, and kills those that don't.
func (r running) end() error {
	var errs []error
	for _, p := range r {
		_ = p.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(dhcpEnd):
			running{p}.kill()
			errs = append(errs, fmt.Errorf("%s doesn't end within %s", strings.Join(p.Args, " "), dhcpEnd))
		}
	}
	return errors.Join(errs...)
}

// kill has them and their children write nothing more.
func (r running) kill() {
	pids := r.pids()
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, p := range r {
		<-p.ended
	}
}

// pids are their numbers and those of their children (proc_pid_task(5)); what has ended is left out.
func (r running) pids() (pids []int) {
	for _, p := range r {
		select {
		case <-p.ended:
			continue
		default:
		}
		pids = append(pids, p.Process.Pid)
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.Process.Pid))
		for _, list := range lists {
			text, _ := os.ReadFile(list)
			for _, field := range strings.Fields(string(text)) {
				if pid, err := strconv.Atoi(field); err == nil {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// processor is the time that all of them and their children have had of processors.
func (r running) processor() (all time.Duration, err error) {
	for _, pid := range r.pids() {
		one, err := processor(pid)
		if errors.Is(err, os.ErrNotExist) {
			continue // a child that has ended
		}
		if err != nil {
			return 0, err
		}
		all += one
	}
	return all, nil
}

// processor is the time that a process has had of processors (proc_pid_stat(5), fields 14 and 15, in hundredths of a second).
func processor(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("process %d has no times", pid)
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / 100, errors.Join(err1, err2)
}
