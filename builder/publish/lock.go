package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// poll is how often a lock that somebody has is tried again.
const poll = 200 * time.Millisecond

// lock takes the folder's lock (flock(2), so that a publisher that dies has it no more). It is held through a file that stays.
func (f *Folder) lock(ctx context.Context) (unlock func(), err error) {
	file, err := f.root.OpenFile(lockName, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	patience := time.NewTimer(f.Patience)
	defer patience.Stop()
	for waited := false; ; waited = true {
		switch err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			f.sign(file)
			return func() { file.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			file.Close()
			return nil, fmt.Errorf("cannot lock it: %w", err)
		}
		who := holder(file)
		if !waited {
			f.Wait(who)
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, ctx.Err()
		case <-patience.C:
			file.Close()
			return nil, fmt.Errorf("another publisher (%s) has been at work there for %s: try again, or wait for longer (--wait)", who, f.Patience)
		case <-time.After(poll):
		}
	}
}

// sign writes who has the lock, for those that wait; only a courtesy.
func (f *Folder) sign(file *os.File) {
	host, _ := os.Hostname()
	_ = file.Truncate(0)
	_, _ = file.WriteAt(fmt.Appendf(nil, "process %d on %s\n", os.Getpid(), host), 0)
}

func holder(file *os.File) string {
	data, _ := io.ReadAll(io.NewSectionReader(file, 0, 200))
	if who := strings.TrimSpace(string(data)); who != "" && !strings.ContainsFunc(who, func(r rune) bool { return r < ' ' || r > '~' }) {
		return who
	}
	return "unknown"
}
