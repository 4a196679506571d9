// Package initramfs is the first stage of a node: /init in the initramfs, from the kernel's start to systemd.
//
// Steps, in order: kernel file systems, modules, where to boot from; then the root image from the network or from a
// medium, verity, mounts, the node's configuration, installation, storage, provisioning, switch_root. Each is a short function on boot,
// writes lines to /dev/kmsg that a person can follow, and may be run again. When one fails, the reason is shown and
// reported, and the machine starts anew after a pause.
//
// It knows nothing of clusters and roles: those come with the node's configuration. Nothing of that configuration is ever
// logged.
package initramfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/agent/console"
	"github.com/slipway-os/slipway/agent/media"
	"github.com/slipway-os/slipway/agent/modules"
	"github.com/slipway-os/slipway/agent/network"
	"github.com/slipway-os/slipway/agent/secure"
	"github.com/slipway-os/slipway/agent/status"
	"github.com/slipway-os/slipway/images/bootspec"
)

// boot is what the steps know of each other.
type boot struct {
	console    *console.Console
	log        *slog.Logger
	args       map[string]string
	root       bootspec.Root
	lease      network.Lease
	servers    secure.Servers // boot servers of the site
	client     *http.Client
	secure     bootspec.Secure // the boot server over TLS
	claimant   *http.Client    // for it, with the key of this boot
	claimKey   string          // that key's digest
	authority  string          // digest of the boot server's authority
	openTPM    func() (prover, error)
	tpm        prover // nil: absent says why
	absent     string
	sender     *status.Sender
	loader     *modules.Loader
	medium     *media.Medium // what the machine booted from; nil: the network
	local      bool          // boot from a medium
	search     media.Search
	image      *os.File // the root image in memory
	device     string   // /dev/dm-0
	config     []byte   // the node's Ignition configuration: a secret
	configured bool     // it came from the medium
	again      bool     // the boot server wants the node to install itself once more
	vouched    string   // who vouches for what is installed, in words

}

// step is a named part of the boot; the name is what slipway.break takes.
type step struct {
	name string
	do   func(context.Context) error
}

// first are the steps that tell where the others get the root image from.
func (b *boot) first() []step {
	return []step{{"kernel", b.readKernel}, {"modules", b.loadModules}, {"source", b.chooseSource}}
}

// steps are the others.
func (b *boot) steps() []step {
	fromNetwork := []step{
		{"network", b.findServer},
		{"discover", b.discover},
		{"root", b.fetchRoot},
		{"verity", b.activate},
		{"mount", b.mountRoot},
		{"claim", b.claimConfig},
	}
	fromMedium := []step{
		{"medium", b.findMedium},
		{"verity", b.activateSlot},
		{"mount", b.mountRoot},
		{"claim", b.readConfig},
	}
	last := []step{
		{"install", b.install},
		{"storage", b.mountStorage},
		{"provision", b.provision},
		{"switch", b.switchRoot},
	}
	if b.local {
		return append(fromMedium, last...)
	}
	return append(fromNetwork, last...)
}

// Main runs the first stage as process 1. It doesn't return: in the end another program has taken the process over, or
// the machine starts anew.
func Main() {
	b := &boot{openTPM: openTPM}
	if err := b.start(); err != nil {
		// No /dev/kmsg: standard error is the console, if there is one.
		fmt.Fprintln(os.Stderr, "slipway: cannot start:", err)
		restart(b, time.Minute)
	}
	defer func() {
		if p := recover(); p != nil {
			b.log.Error("fault in the agent", "cause", p, "stack", strings.ReplaceAll(string(debug.Stack()), "\n", " | "))
			restart(b, time.Minute)
		}
	}()
	if err := b.run(context.Background()); err != nil {
		b.fail(err)
	}
}

// start mounts the kernel's file systems and opens the console.
func (b *boot) start() error {
	for _, m := range kernelMounts() {
		if err := m.do(); err != nil {
			return err
		}
	}
	kmsg, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	b.console = console.New(kmsg)
	b.log = slog.New(b.console)
	b.client = newClient(&b.servers)
	return os.MkdirAll(bootspec.RunDirectory, 0o755)
}

// run does the steps.
func (b *boot) run(ctx context.Context) error {
	if err := b.do(ctx, b.first()); err != nil {
		return err
	}
	if err := b.do(ctx, b.steps()); err != nil {
		return err
	}
	return errors.New("switch_root returned")
}

func (b *boot) do(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if b.args[bootspec.ArgBreak] == s.name {
			b.log.Warn("stopped before a step as " + bootspec.ArgBreak + " says; power the machine off when done")
			select {}
		}
		began := time.Now()
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("step %s: %w", s.name, err)
		}
		b.log.Debug("step done", "step", s.name, "took", time.Since(began))
	}
	return nil
}

// readKernel learns what to boot from the kernel command line.
func (b *boot) readKernel(context.Context) error {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	b.args = bootspec.ParseArgs(string(cmdline))
	if b.root, err = bootspec.ParseRoot(string(cmdline)); err != nil {
		return err
	}
	b.log.Info("starting", "image", b.root.Image, "root", fmt.Sprintf("%d MB", b.root.Size/1e6), "kernel", kernelRelease())
	return nil
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// stopError is a failure that another try would not mend: the pause before the machine starts anew is long.
type stopError struct{ error }

func (e stopError) Unwrap() error { return e.error }

// Pauses between a failure and a new start.
const (
	pauseRetry = time.Minute
	pauseStop  = 10 * time.Minute
)

// fail shows and reports a failure and starts the machine anew.
func (b *boot) fail(err error) {
	pause := pauseRetry
	var stop stopError
	if errors.As(err, &stop) {
		pause = pauseStop
	}
	b.log.Error("BOOT FAILED: " + err.Error())
	b.log.Error(fmt.Sprintf("nothing more happens; the machine starts anew in %v", pause))
	if b.sender != nil {
		b.sender.Fail(err.Error(), "", b.console.Last())
	}
	restart(b, pause)
}

// restart waits, while reports are delivered, and reboots.
func restart(b *boot, pause time.Duration) {
	time.Sleep(pause)
	if b.log != nil {
		b.log.Warn("rebooting")
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil && b.log != nil {
		b.log.Error("cannot reboot", "cause", err)
	}
	select {} // process 1 must not end
}
