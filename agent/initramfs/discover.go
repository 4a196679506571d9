package initramfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/slipway-os/slipway/agent/hardware"
	"github.com/slipway-os/slipway/agent/network"
	"github.com/slipway-os/slipway/images/bootspec"
)

// Discovery: a machine that the cluster document doesn't have tells its hardware and waits until it has been adopted. Nothing is
// written to any disk, no configuration is asked for.

// errAdopted ends the wait: the machine starts anew, as a node.
var errAdopted = errors.New("this machine was adopted")

// Bounds of what a boot server answers a machine that it discovers: bytes, and how long it may have it wait until it asks again.
const (
	maxDiscovered = 4 << 10
	minPoll       = time.Second
	maxPoll       = 5 * time.Minute
	// remind is how often the console says again what this machine waits for.
	remind = 10 * time.Minute
)

// discover does nothing unless the boot server says that this machine is none of its nodes. Else it returns with an error, or restarts
// the machine when it has become a node.
func (b *boot) discover(ctx context.Context) error {
	if !b.secure.Discover {
		return nil
	}
	b.log.Warn("DISCOVERY: this machine is not in the cluster document. Nothing is written to its disks; it tells the boot server its hardware, and waits")
	err := b.awaitAdoption(ctx)
	if errors.Is(err, errAdopted) {
		restart(b, minPoll)
	}
	return err
}

// awaitAdoption tells the hardware again and again: the server may have been restarted, and drives may come later.
func (b *boot) awaitAdoption(ctx context.Context) error {
	said, spoken := "", time.Time{}
	for pause := time.Second; ; {
		h, err := b.hardware()
		if err != nil {
			return err
		}
		if line := h.Summary(); line != said || time.Since(spoken) > remind {
			said, spoken = line, time.Now()
			b.log.Info("hardware: " + line)
			b.log.Info("to make this machine a node, on the boot server: slipway adopt " + h.MAC + " --role worker --cluster FILE --write; it restarts by itself then")
		}
		answer, again, err := b.tellHardware(ctx, h)
		switch {
		case err == nil && answer.Node != "":
			b.log.Info("adopted: this machine restarts as node " + bootspec.HardwareText(answer.Node))
			return errAdopted
		case err == nil:
			pause = min(max(time.Duration(answer.Seconds)*time.Second, minPoll), maxPoll)
		case !again:
			return fmt.Errorf("the boot server doesn't take this machine's hardware: %w", err)
		default:
			b.log.Warn("cannot tell the boot server this machine's hardware, trying again", "cause", err, "in", pause)
			pause = min(2*pause, 30*time.Second)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hardware is this machine's.
func (b *boot) hardware() (bootspec.Hardware, error) {
	links, err := network.Links()
	if err != nil {
		return bootspec.Hardware{}, err
	}
	h, err := hardware.Machine{Sys: "/sys", Proc: "/proc", Links: links}.Read()
	h.MAC, h.Image = b.lease.MAC, b.root.Image
	return h, err
}

// tellHardware asks once; again says if another try may help.
func (b *boot) tellHardware(ctx context.Context, h bootspec.Hardware) (answer bootspec.Discovered, again bool, err error) {
	body, err := json.Marshal(h)
	for err == nil && len(body) > bootspec.MaxHardware && len(h.Disks) > 0 {
		h.Disks = h.Disks[:len(h.Disks)/2]
		body, err = json.Marshal(h)
	}
	if err != nil {
		return answer, false, err
	}
	data, _, again, err := b.tell(ctx, bootspec.RouteHardware, body, maxDiscovered)
	if err != nil {
		return answer, again, err
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return answer, true, fmt.Errorf("cannot read the boot server's answer: %w", err)
	}
	return answer, false, nil
}
