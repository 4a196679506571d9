// Package status delivers a node's reports to the boot server: in order, with retry, never in the way of the boot.
//
// A report that can't be delivered waits in a bounded queue. What waits at the end of the first stage is handed over to
// the running system's agent (Pending).
package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// maxQueue bounds the reports that wait. A boot has about ten.
const maxQueue = 64

// maxLog bounds each log in a report in bytes. What JSON makes of them may still be too long: encode cuts it.
const maxLog = 64 << 10

// Sender delivers reports.
type Sender struct {
	Server string // base URL; empty: nothing is sent
	MAC    string
	Boot   string // boot id
	Client *http.Client
	Log    *slog.Logger
	// Uptime is milliseconds since the kernel started; nil: the kernel's clock.
	Uptime func() bootspec.Millis
	// KernelLog is the end of the kernel's log, for failures; nil: they come without.
	KernelLog func() []byte
	// Pause is the first pause after a failure, doubled up to 30 times of it; zero: 1 s.
	Pause time.Duration

	mu    sync.Mutex
	queue []bootspec.Report
	wake  chan struct{}
	empty chan struct{} // closed and renewed when the queue runs empty
}

// Report queues an event. It never blocks. When too many wait, the oldest are dropped.
func (s *Sender) Report(event bootspec.Event, detail string) {
	s.add(bootspec.Report{Event: event, Detail: detail})
}

// Fail queues a failure: what and why, the unit if one failed, and its last words (the last 64 KiB are kept); the kernel's go along.
func (s *Sender) Fail(detail, unit string, words []byte) {
	end := func(log []byte) string {
		return string(bytes.ToValidUTF8(log[max(0, len(log)-maxLog):], []byte("?")))
	}
	r := bootspec.Report{Event: bootspec.EventFailed, Detail: detail, Unit: unit, Log: end(words)}
	if s.KernelLog != nil {
		r.Kernel = end(s.KernelLog())
	}
	s.add(r)
}

// Resume queues reports of an earlier stage before all others.
func (s *Sender) Resume(pending []bootspec.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setup()
	s.queue = append(slices.Clone(pending), s.queue...)
	s.trim()
}

func (s *Sender) add(r bootspec.Report) {
	uptime := s.Uptime
	if uptime == nil {
		uptime = Uptime
	}
	r.MAC, r.Boot, r.Uptime = s.MAC, s.Boot, uptime()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setup()
	s.queue = append(s.queue, r)
	s.trim()
}

func (s *Sender) setup() {
	if s.wake == nil {
		s.wake = make(chan struct{}, 1)
	}
	if s.empty == nil {
		s.empty = make(chan struct{})
	}
}

// trim bounds the queue and wakes Run.
func (s *Sender) trim() {
	s.queue = s.queue[max(0, len(s.queue)-maxQueue):]
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Pending is what was not delivered yet, oldest first.
func (s *Sender) Pending() []bootspec.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.queue)
}

// Flush waits until nothing waits any more, or ctx ends.
func (s *Sender) Flush(ctx context.Context) error {
	s.mu.Lock()
	s.setup()
	n, empty := len(s.queue), s.empty
	s.mu.Unlock()
	if n == 0 || s.Server == "" {
		return nil
	}
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot deliver %d reports: %w", len(s.Pending()), ctx.Err())
	}
}

// Run delivers until ctx ends.
func (s *Sender) Run(ctx context.Context) {
	s.mu.Lock()
	s.setup()
	s.mu.Unlock()
	first := s.Pause
	if first == 0 {
		first = time.Second
	}
	pause, failing := first, false
	for {
		r, ok := s.next()
		if !ok || s.Server == "" {
			select {
			case <-s.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		err := s.post(ctx, r)
		var refused *refusal
		if err == nil || errors.As(err, &refused) {
			if err != nil {
				s.Log.Warn("the boot server refused a report", "event", r.Event, "cause", err)
			}
			s.drop(r)
			pause, failing = first, false
			continue
		}
		if !failing {
			s.Log.Warn("cannot report to the boot server, trying again", "event", r.Event, "cause", err)
			failing = true
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, 30*first)
		case <-ctx.Done():
			return
		}
	}
}

func (s *Sender) next() (bootspec.Report, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return bootspec.Report{}, false
	}
	return s.queue[0], true
}

// drop removes r, which may have been trimmed away meanwhile.
func (s *Sender) drop(r bootspec.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) > 0 && s.queue[0] == r {
		s.queue = s.queue[1:]
	}
	if len(s.queue) == 0 {
		close(s.empty)
		s.empty = make(chan struct{})
	}
}

// refusal is an answer that another try would not change.
type refusal struct{ status string }

func (r *refusal) Error() string { return "HTTP status " + r.status }

func (s *Sender) post(ctx context.Context, r bootspec.Report) error {
	body, err := encode(r)
	if err != nil {
		return &refusal{err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Server+bootspec.RouteReport, bytes.NewReader(body))
	if err != nil {
		return &refusal{err.Error()}
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4096))
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case resp.StatusCode/100 == 4 && resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusRequestTimeout:
		return &refusal{resp.Status}
	}
	return fmt.Errorf("HTTP status %s", resp.Status)
}

// encode cuts the beginning of the longer log until the report fits: JSON may need six bytes for one.
func encode(r bootspec.Report) ([]byte, error) {
	for {
		body, err := json.Marshal(r)
		longer := &r.Log
		if len(r.Kernel) > len(r.Log) {
			longer = &r.Kernel
		}
		if err != nil || len(body) <= bootspec.MaxReport || *longer == "" {
			return body, err
		}
		*longer = string(bytes.ToValidUTF8([]byte((*longer)[(len(*longer)+1)/2:]), nil))
	}
}

// Uptime is milliseconds since the kernel started (CLOCK_BOOTTIME).
func Uptime() bootspec.Millis {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return bootspec.Millis(time.Duration(ts.Nano()) / time.Millisecond)
}
