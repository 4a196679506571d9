package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Keep holds the addresses that a document's links get by DHCP, until ctx ends: it asks, gives the link the address for as
// long as the lease lasts, and renews it at half of that (RFC 2131, 4.4.5). An address whose lease ends goes, for the kernel
// counts too. Name servers and host names of answers are not heeded: the document says them.
func Keep(ctx context.Context, n bootspec.Network, log *slog.Logger) {
	var wg sync.WaitGroup
	for _, l := range n.Links {
		if l.DHCP {
			wg.Go(func() { keeper{l, log}.keep(ctx) })
		}
	}
	wg.Wait()
}

// keeper holds one link's lease.
type keeper struct {
	link bootspec.Link
	log  *slog.Logger
}

// keep asks for a lease for ever, with growing pauses, and holds what it gets.
func (k keeper) keep(ctx context.Context) {
	pause := time.Second
	for ctx.Err() == nil {
		lease, err := k.ask(ctx, pause)
		if err == nil {
			pause = time.Second
			err = k.hold(ctx, lease)
		}
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, nclient4.ErrNoResponse) {
			k.log.Warn("DHCP failed, trying again", "link", k.link.Name, "cause", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(pause)):
		}
		pause = min(2*pause, 64*time.Second)
	}
}

// ask is one DISCOVER to ACK; each answer is waited for as long as wait.
func (k keeper) ask(ctx context.Context, wait time.Duration) (*nclient4.Lease, error) {
	c, err := nclient4.New(k.link.Name, nclient4.WithTimeout(wait), nclient4.WithRetry(1))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Request(ctx, request)
}

// hold applies a lease and renews it in time; it ends when the lease does, with the reason.
func (k keeper) hold(ctx context.Context, lease *nclient4.Lease) error {
	for {
		l, err := leaseFrom(lease.ACK, anyServer)
		if err != nil {
			return fmt.Errorf("answer of %v is no use: %w", lease.ACK.ServerIdentifier(), err)
		}
		last := max(lease.ACK.IPAddressLeaseTime(time.Hour), time.Second)
		if err := k.apply(l, last); err != nil {
			return err
		}
		k.log.Info("address by DHCP", "link", k.link.Name, "address", l.Address, "router", l.Router, "for", last)
		end := time.Now().Add(last)
		renewed, err := k.renew(ctx, lease, last/2, end)
		if err != nil {
			return errors.Join(err, removeAddress(k.link.Name, l.Address))
		}
		lease = renewed
	}
}

// anyServer stands in for a boot server, which these leases needn't tell of.
const anyServer = "-"

// renew waits and asks again until the lease ends; the pauses are half of what is left (RFC 2131, 4.4.5).
func (k keeper) renew(ctx context.Context, lease *nclient4.Lease, after time.Duration, end time.Time) (*nclient4.Lease, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(after):
		}
		left := time.Until(end)
		if left <= 0 {
			return nil, fmt.Errorf("the lease of %v has ended, the server doesn't answer", lease.ACK.YourIPAddr)
		}
		renewed, err := k.askAgain(ctx, lease, min(left, 5*time.Second))
		var refused *nclient4.ErrNak
		if err == nil || errors.As(err, &refused) {
			return renewed, err
		}
		after = max(left/2, time.Second)
	}
}

func (k keeper) askAgain(ctx context.Context, lease *nclient4.Lease, wait time.Duration) (*nclient4.Lease, error) {
	c, err := nclient4.New(k.link.Name, nclient4.WithTimeout(wait), nclient4.WithRetry(1))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Renew(ctx, lease, request)
}

// apply gives the link the address for so long, and the way through the router. Older addresses by DHCP go.
func (k keeper) apply(l Lease, last time.Duration) error {
	link, err := netlink.LinkByName(k.link.Name)
	if err != nil {
		return fmt.Errorf("cannot find link %s: %w", k.link.Name, err)
	}
	seconds := int(last / time.Second)
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(l.Address), ValidLft: seconds, PreferedLft: seconds}); err != nil {
		return fmt.Errorf("cannot add address %v to %s: %w", l.Address, k.link.Name, err)
	}
	if err := k.removeOthers(link, l.Address); err != nil {
		return err
	}
	if !l.Router.IsValid() {
		return nil
	}
	r := route(link.Attrs().Index, RouteState{To: defaultRoute, Via: l.Router, Metric: k.link.Metric})
	r.Protocol = unix.RTPROT_DHCP
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("cannot add route via %v to %s: %w", l.Router, k.link.Name, err)
	}
	return nil
}

// removeOthers removes IPv4 addresses that neither this lease nor the document gives: the boot's, and former leases'.
func (k keeper) removeOthers(link netlink.Link, keep netip.Prefix) error {
	list, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("cannot list addresses of %s: %w", k.link.Name, err)
	}
	for _, a := range list {
		if p, ok := prefix(a.IPNet); ok && p != keep && !slices.Contains(k.link.Addresses, p) {
			if err := removeAddress(k.link.Name, p); err != nil {
				return err
			}
		}
	}
	return nil
}
