package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Configure makes the machine's network what the document says: check, diff, apply, read back. It may be run again at any
// time. The context bounds the waiting for the kernel (duplicate address detection of IPv6).
func Configure(ctx context.Context, want bootspec.Network, log *slog.Logger) error {
	have, err := Links()
	if err != nil {
		return err
	}
	if err := Check(have, want); err != nil {
		return err
	}
	if err := keepSecondaries(); err != nil {
		return err
	}
	for range 3 { // a link that had to go down for its new name loses routes: the next diff brings them back
		ops := Diff(have, want)
		for _, op := range ops {
			log.Info("network: " + op.String())
			if err := apply(op); err != nil {
				return fmt.Errorf("cannot configure the network: %w", err)
			}
		}
		if have, err = Links(); err != nil || len(ops) == 0 {
			break
		}
	}
	return errors.Join(err, ReadBack(ctx, want))
}

// keepSecondaries makes an address survive when the first one of its subnet goes: the boot's own address is the first, the
// document's comes to it (Documentation/networking/ip-sysctl.rst, promote_secondaries).
func keepSecondaries() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/promote_secondaries", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("cannot configure the network: %w", err)
	}
	return nil
}

// ReadBack compares what the kernel has with the document. The error names what is missing.
func ReadBack(ctx context.Context, want bootspec.Network) error {
	for {
		have, err := Links()
		if err != nil {
			return err
		}
		left := Diff(have, want)
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
			continue
		}
		var words []string
		for _, op := range left {
			words = append(words, op.String())
		}
		return fmt.Errorf("the kernel's network is not what the document says, still to do: %s", strings.Join(words, "; "))
	}
}

// apply does one op.
func apply(op Op) error {
	switch op.Verb {
	case AddVLAN:
		return addVLAN(op)
	case AddBond:
		return addBond(op)
	case AddBridge:
		attrs := netlink.NewLinkAttrs()
		attrs.Name = op.Link
		return addLink(op, &netlink.Bridge{LinkAttrs: attrs}, "bridge")
	case Remove:
		return removeLink(op.Link)
	case Enslave:
		return enslave(op)
	case Release:
		return release(op)
	case SetRA:
		return setRA(op)
	case SetUp:
		return setUp(op.Link)
	case AddAddress:
		return replaceAddress(op.Link, op.Address)
	case RemoveAddress:
		return removeAddress(op.Link, op.Address)
	case AddRoute:
		return replaceRoute(op.Link, op.Route)
	case RemoveRoute:
		return removeRoute(op.Link, op.Route)
	}
	l, err := netlink.LinkByName(op.Link)
	if err != nil {
		return fmt.Errorf("cannot find link %s: %w", op.Link, err)
	}
	if op.Verb == Rename {
		err = rename(l, op.To)
	} else {
		err = netlink.LinkSetMTU(l, op.Number)
	}
	if err != nil {
		return fmt.Errorf("cannot do %q: %w", op, err)
	}
	return nil
}

// rename renames a link while it is up; kernels before 6.2 want it down for a moment.
func rename(l netlink.Link, to string) error {
	err := netlink.LinkSetName(l, to)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	if err := netlink.LinkSetDown(l); err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetName(l, to), netlink.LinkSetUp(l))
}

// addVLAN makes a VLAN link; one with the right name and another id is made anew.
func addVLAN(op Op) error {
	parent, err := netlink.LinkByName(op.To)
	if err != nil {
		return fmt.Errorf("cannot find link %s: %w", op.To, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = op.Link, parent.Attrs().Index
	return addLink(op, &netlink.Vlan{LinkAttrs: attrs, VlanId: op.Number, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}, "8021q")
}
