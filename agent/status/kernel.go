package status

import (
	"bytes"
	"regexp"

	"golang.org/x/sys/unix"
)

// level is how a line of the kernel's log begins: <6>.
var level = regexp.MustCompile(`(?m)^<\d+>`)

// KernelLog is the end of the kernel's log, at most 64 KiB of whole lines (syslog(2), SYSLOG_ACTION_READ_ALL); nothing where it can't be
// read.
func KernelLog() []byte {
	const readAll = 3
	log := make([]byte, maxLog)
	n, err := unix.Klogctl(readAll, log)
	if err != nil || n <= 0 {
		return nil
	}
	log = log[:n]
	if n > maxLog-1024 { // it is full, so the first line is most likely cut
		if _, rest, ok := bytes.Cut(log, []byte("\n")); ok {
			log = rest
		}
	}
	return level.ReplaceAll(log, nil)
}
