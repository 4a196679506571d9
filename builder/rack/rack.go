// Package rack rehearses a cluster document: it builds the document's networks in a network namespace, starts the boot
// server there, powers on one QEMU machine per node that knows nothing but "boot from the network", waits until every
// node is Ready and tries the cluster out.
//
// Words: a rack is the namespace with its bridges, the server and the machines; a machine is one QEMU process; a stage is
// the way from one event of a boot to the next; a check is one thing a user would try in a fresh cluster.
//
// It is not for serving (builder/netboot does that, as a process of its own) and bakes nothing. All it starts it ends,
// and what a killed run left behind the next one removes.
package rack

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// Options is what a rehearsal needs.
type Options struct {
	Cluster   *cluster.Cluster
	File      string // the cluster document; empty: the server gets Document
	Document  []byte
	Artifacts string // folder of finished images
	Identity  string // folder of the cluster's identity
	// IdentityKey is a file that opens the identity's keys; empty: they are not encrypted, or the environment names it.
	IdentityKey string

	Slipway string // path of the slipway program, whose `serve` is the boot server
	Kubectl string // path of a program that is kubectl when it is called by that name
	// Kubeconfig writes an admin kubeconfig. It is called once, when the rack's folder is there.
	Kubeconfig func(file string) error

	Memory map[string]int // MiB by role; default DefaultMemory
	CPUs   int            // of a machine; 0: DefaultCPUs
	Logs   string         // folder that keeps the logs; empty: they go with the rack
	State  string         // folder for what a run needs; default DefaultState

	// Faults makes faults when all checks have passed: control planes lose their power under writes. It needs Admin, which
	// lets a client do everything at the API, and more than two control planes.
	Faults bool
	Admin  *tls.Config

	Once     bool          // end when all checks are done
	Timeout  time.Duration // of the whole rehearsal until the last check; 0: DefaultTimeout, and more with many machines
	Out      io.Writer     // what people read
	Live     bool          // Out is a terminal: show progress
	Log      *slog.Logger
	OnResult func(Result) // called when the rack stands, before it stays up
}

// Defaults.
const (
	DefaultTimeout = 45 * time.Minute
	DefaultCPUs    = 2
	// EmulatedCPUs is DefaultCPUs without KVM. Where one processor changes the kernel's code (static keys, Documentation/staging/static-keys.rst)
	// QEMU 7.2 may have another one run into the breakpoint that stood there meanwhile, and the kernel panics. One processor is no slower:
	// it needs no atomic instructions.
	EmulatedCPUs = 1
	DefaultState = "/run/slipway-rack"
)

// DefaultMemory is what the images are made to do with, in MiB.
func DefaultMemory() map[string]int {
	return map[string]int{cluster.RoleControlPlane: 2048, cluster.RoleWorker: 1024}
}

// Result is what a rehearsal found out.
type Result struct {
	Cluster string        `json:"cluster"`
	Nodes   []Timeline    `json:"nodes"`
	Checks  []CheckResult `json:"checks"`
	Memory  []Memory      `json:"memory,omitempty"`
	Outages []Outage      `json:"outages,omitempty"`
}

// rack is a running rehearsal.
type rack struct {
	Options
	dir      string // this run's folder below State
	space    *namespace
	server   *process
	client   *client
	power    sync.Mutex // of machines, which takeTurns reads beside all else
	machines []*machine // in no order once one was powered on again
	turns    *turns     // nil: every machine always runs
	started  time.Time  // power on
	capture  *capture   // while the checks run
}

// Up runs a rehearsal to its end. It returns nil only if every node became Ready and every check passed; all it made is
// gone when it returns.
func Up(ctx context.Context, o Options) (err error) {
	o = o.withDefaults()
	if err := checkHost(o); err != nil {
		return err
	}
	if err := checkArtifacts(o); err != nil {
		return err
	}
	r := &rack{Options: o, dir: filepath.Join(o.State, o.Cluster.Metadata.Name)}
	if err := r.claim(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.down()) }()

	work, cancel := context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("the rehearsal took longer than %s (--timeout)", o.Timeout))
	defer cancel()
	if err := r.build(work); err != nil {
		return err
	}
	result, err := r.rehearse(work)
	if err != nil {
		r.explain(err)
		return fmt.Errorf("cannot bring up %s: %w", o.Cluster.Metadata.Name, err)
	}
	if o.OnResult != nil {
		o.OnResult(result)
	}
	return r.stay(ctx)
}

func (o Options) withDefaults() Options {
	memory := DefaultMemory()
	for role, m := range o.Memory {
		memory[role] = m
	}
	o.Memory = memory
	if o.CPUs == 0 {
		o.CPUs = DefaultCPUs
		if !haveKVM() {
			o.CPUs = EmulatedCPUs
		}
	}
	if o.State == "" {
		o.State = DefaultState
	}
	if o.Timeout == 0 {
		o.Timeout = max(DefaultTimeout, time.Duration(len(o.Cluster.Nodes))*DefaultTimeout/3)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// build makes everything that doesn't have power yet: folder, namespace, networks, server.
func (r *rack) build(ctx context.Context) error {
	var err error
	if r.space, err = newNamespace(namespaceName(r.Cluster)); err != nil {
		return err
	}
	if err := r.space.wire(r.Cluster); err != nil {
		return err
	}
	if err := r.Kubeconfig(r.kubeconfig()); err != nil {
		return err
	}
	if err := os.Symlink(r.Kubectl, r.kubectlPath()); err != nil {
		return fmt.Errorf("cannot link kubectl: %w", err)
	}
	return r.startServer(ctx)
}

// rehearse powers the machines on, waits for them and tries the cluster out.
func (r *rack) rehearse(ctx context.Context) (Result, error) {
	if err := r.powerOn(ctx); err != nil {
		return Result{}, err
	}
	timelines, err := r.watch(ctx)
	if err != nil {
		return Result{}, err
	}
	checks, err := r.check(ctx)
	result := Result{Cluster: r.Cluster.Metadata.Name, Nodes: timelines, Checks: checks}
	if err != nil {
		return result, err
	}
	result.Memory = r.memory(ctx)
	if err := r.present(ctx, result); err != nil || !r.Faults {
		return result, err
	}
	fmt.Fprintln(r.Out, "\nFaults:")
	result.Outages, err = r.faults(ctx)
	return result, err
}

// stay keeps the rack up until the user has had enough of it.
func (r *rack) stay(ctx context.Context) error {
	if r.Once {
		return nil
	}
	fmt.Fprintln(r.Out, "The rack stays up until Ctrl-C.")
	select {
	case <-ctx.Done():
		return nil
	case err := <-r.anyExit(ctx):
		return err
	}
}

func (r *rack) kubeconfig() string { return filepath.Join(r.dir, "admin.kubeconfig") }

func (r *rack) kubectlPath() string { return filepath.Join(r.dir, "kubectl") }

// logFile is where a machine's serial log or the server's log lies.
func (r *rack) logFile(name string) string {
	if r.Logs != "" {
		return filepath.Join(r.Logs, name+".log")
	}
	return filepath.Join(r.dir, name+".log")
}

// down ends all processes and removes everything the rack made.
func (r *rack) down() error {
	var faults []error
	if r.turns != nil {
		r.turns.end()
	}
	for _, m := range r.machines {
		m.powerOff()
	}
	for _, m := range r.machines {
		faults = append(faults, m.wait())
	}
	if r.server != nil {
		faults = append(faults, r.server.stop(stopGrace))
	}
	if r.space != nil {
		faults = append(faults, r.space.close())
	}
	faults = append(faults, os.RemoveAll(r.dir))
	return errors.Join(faults...)
}
