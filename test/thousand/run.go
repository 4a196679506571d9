package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netns"

	"github.com/slipway-os/slipway/images/bootspec"
)

// run boots a rack.
func run(ctx context.Context, o options) (*result, error) {
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	work, err := os.MkdirTemp("", "slipway-thousand-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	all := machines(o.machines)
	if err := os.WriteFile(filepath.Join(work, "cluster.yaml"), []byte(document(all)), 0o600); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(work, "images"), 0o700); err != nil {
		return nil, err
	}
	digests, err := images(filepath.Join(work, "images"))
	if err != nil {
		return nil, err
	}
	space, err := connect(o.loss)
	if err != nil {
		return nil, err
	}
	defer space.Close()
	radio, err := openRadio()
	if err != nil {
		return nil, err
	}
	s := &server{program: o.program, work: work, space: space}
	if err := s.identity(); err != nil {
		return nil, err
	}
	defer s.kill()
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	r := &rack{radio: radio, digests: digests}
	out := &result{Machines: o.machines}
	started := time.Now()
	ended := make(chan error)
	go func() { ended <- s.fall(ctx, r, o) }()
	faults := r.power(ctx, all)
	out.Seconds = time.Since(started).Seconds()
	cancelFall := <-ended
	out.Failed, out.Repeated, out.Bytes = len(faults), r.repeated.Load(), r.bytes.Load()
	for _, fault := range faults[:min(len(faults), 5)] {
		out.Faults = append(out.Faults, fault.Error())
	}
	out.Again = r.again
	out.latencies(r.answers)
	if err := errors.Join(cancelFall, s.cost(out)); err != nil {
		return nil, err
	}
	if out.Failed > 0 {
		fmt.Fprintf(os.Stderr, "the server's last words:\n%s", s.words(20))
		return out, nil
	}
	return out, s.allReady(ctx, o.machines)
}

// power powers all machines on, and returns why those failed that did.
func (r *rack) power(ctx context.Context, all []machine) []error {
	var wg sync.WaitGroup
	faults := make([]error, len(all))
	for i, m := range all {
		b := newBoot(r, m)
		wg.Go(func() {
			faults[i] = b.run(ctx, i)
			b.client.CloseIdleConnections()
		})
	}
	wg.Wait()
	return slices.DeleteFunc(faults, func(err error) bool { return err == nil })
}

func (out *result) latencies(answers []time.Duration) {
	slices.Sort(answers)
	if len(answers) == 0 {
		return
	}
	milliseconds := func(part float64) float64 {
		return float64(answers[min(len(answers)-1, int(part*float64(len(answers))))].Microseconds()) / 1000
	}
	out.DHCP.Answers, out.DHCP.Median, out.DHCP.P99, out.DHCP.Longest = len(answers), milliseconds(0.5), milliseconds(0.99), milliseconds(1)
}

// server is `slipway serve`.
type server struct {
	program, work string
	space         netns.NsHandle
	process       *exec.Cmd
	running       bool
}

func (s *server) file(name string) string { return filepath.Join(s.work, name) }

func (s *server) identity() error {
	c := exec.Command(s.program, "identity", "--cluster", s.file("cluster.yaml"), "--identity", s.file("identity"))
	if said, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("slipway identity: %w: %s", err, said)
	}
	return nil
}

// start starts the server and waits until it answers.
func (s *server) start(ctx context.Context) error {
	log, err := os.OpenFile(s.file("log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.process = exec.Command(s.program, "serve", "--cluster", s.file("cluster.yaml"), "--identity", s.file("identity"),
		"--artifacts", s.file("images"), "--state", s.file("state"), "--interface", serverLink, "--unsigned")
	s.process.Stdout, s.process.Stderr = log, log
	if err := inSpace(s.space, s.process.Start); err != nil {
		return err
	}
	s.running = true
	for {
		response, err := http.Get("http://" + serverAddress + ":8080" + bootspec.RouteHealth)
		if err == nil {
			response.Body.Close()
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server doesn't start: %w\n%s", err, s.words(20))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// fall kills the server and starts it again, each time when some more machines have their kernel.
func (s *server) fall(ctx context.Context, r *rack, o options) error {
	for i := range o.restarts {
		for r.kernels.Load() < int64((i+1)*o.machines/(o.restarts+1)) && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		s.kill()
		if err := s.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) kill() {
	if !s.running {
		return
	}
	s.running = false
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
}

// words are the last lines that the server said.
func (s *server) words(lines int) string {
	text, _ := os.ReadFile(s.file("log"))
	all := strings.SplitAfter(string(text), "\n")
	return strings.Join(all[max(0, len(all)-lines-1):], "")
}

// cost is what the server used: memory at most, and time on processors.
func (s *server) cost(out *result) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.Process.Pid))
	if err != nil {
		return fmt.Errorf("the server has ended: %w\n%s", err, s.words(20))
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "VmHWM:"); found {
			kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				return err
			}
			out.PeakMemory = kilobytes << 10
		}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.process.Process.Pid))
	if err != nil {
		return err
	}
	fields := strings.Fields(string(stat)[strings.LastIndex(string(stat), ")")+1:])
	const ticks = 100                     // a second, proc(5)
	for _, field := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return err
		}
		out.Processor += float64(n) / ticks
	}
	return nil
}

// allReady asks the server what it thinks of its machines, and has it end in order.
func (s *server) allReady(ctx context.Context, want int) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+serverAddress+":8080"+bootspec.RouteNodes, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var nodes []struct{ Name, State string }
	if err := json.NewDecoder(response.Body).Decode(&nodes); err != nil {
		return err
	}
	ready := 0
	for _, n := range nodes {
		if n.Name != "" && n.State == string(bootspec.EventReady) {
			ready++
		}
	}
	if ready != want {
		return fmt.Errorf("the server has %d of %d machines as Ready", ready, want)
	}
	return s.process.Process.Signal(syscall.SIGTERM)
}
