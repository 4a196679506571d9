package initramfs

import (
	"context"
	"time"

	"github.com/slipway-os/slipway/agent/provision"
	"github.com/slipway-os/slipway/images/bootspec"
)

// provisionLimit bounds Ignition's work: a config may fetch files from elsewhere.
const provisionLimit = 10 * time.Minute

// ignitionProgram lies in the root image, which is verified and mounted by now: the smaller initrd loads faster.
const ignitionProgram = sysroot + "/usr/bin/ignition"

// provision applies the configuration to the root file system with Ignition.
func (b *boot) provision(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, provisionLimit)
	defer cancel()
	began := time.Now()
	ignition := provision.Ignition{Program: ignitionProgram, Root: sysroot, Scratch: bootspec.RunDirectory + "/ignition"}
	err := ignition.Apply(ctx, b.config)
	clear(b.config)
	b.config = nil
	if err != nil {
		return stopError{err}
	}
	b.log.Info("Ignition has applied the configuration", "took", time.Since(began).Round(100*time.Millisecond))
	b.sender.Report(bootspec.EventProvisioned, "")
	return nil
}
