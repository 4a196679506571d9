// Command thousand boots a rack of simulated machines, all at once, against the real `slipway serve` in network namespaces, and
// prints what that cost. Each machine does what firmware and agent do, with packets of its own MAC address: DHCP, its kernel by TFTP or
// HTTP, DHCP again, its root image, its claim over TLS, its reports until it is Ready. Files are small (1 MB and 2 MB), so that it is the
// server that is measured and not memory.
//
// It wants root and the program: go run ./test/thousand -slipway bin/slipway. It ends with 1 when a machine doesn't get to Ready.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// inside marks the process that runs in its own network namespace.
const inside = "SLIPWAY_THOUSAND_NAMESPACE"

// options of a run.
type options struct {
	program  string
	machines int
	restarts int // how often the server is killed and started again meanwhile
	limit    time.Duration
	loss     int // percent of frames that are lost, each way
}

// result of a run.
type result struct {
	Machines int      `json:"machines"`
	Failed   int      `json:"failed"`
	Faults   []string `json:"faults,omitempty"` // the first few
	Repeated int64    `json:"repeated"`         // what machines asked again, because no answer came or one broke off
	Again    []string `json:"again,omitempty"`  // why, the first few
	Seconds  float64  `json:"seconds"`          // until the last one was Ready
	DHCP     struct {
		Answers int     `json:"answers"`
		Median  float64 `json:"medianMilliseconds"`
		P99     float64 `json:"p99Milliseconds"`
		Longest float64 `json:"longestMilliseconds"`
	} `json:"dhcp"`
	Bytes      int64   `json:"bytes"`      // of files
	PeakMemory int64   `json:"peakMemory"` // bytes resident, of the server
	Processor  float64 `json:"processorSeconds"`
}

func main() {
	var o options
	flag.StringVar(&o.program, "slipway", "bin/slipway", "the program")
	flag.IntVar(&o.machines, "machines", 1000, "how many machines")
	flag.IntVar(&o.restarts, "restarts", 0, "how often the server is killed meanwhile, and started again")
	flag.IntVar(&o.loss, "loss", 0, "percent of frames that are lost, each way (not of DHCP's answers)")
	flag.DurationVar(&o.limit, "limit", 5*time.Minute, "how long it may take")
	flag.Parse()
	if os.Getenv(inside) == "" {
		os.Exit(again())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := run(ctx, o)
	if err == nil {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(r)
	}
	if err == nil && r.Failed > 0 {
		err = fmt.Errorf("%d of %d machines didn't get to Ready", r.Failed, r.Machines)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "thousand:", err)
		stop()
		os.Exit(1)
	}
}

// again runs this program in a network namespace of its own, which is that of the machines, and returns how it ended.
func again() int {
	runtime.LockOSThread() // for Pdeathsig
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), inside+"=1")
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := c.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode()
	case err != nil:
		fmt.Fprintln(os.Stderr, "thousand: cannot make a network namespace (it takes root):", err)
		return 1
	}
	return 0
}
