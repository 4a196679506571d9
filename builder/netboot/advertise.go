package netboot

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
)

// A machine asks DHCPv6 for an address only where a router advertisement says so, and sends to what is on its own network only where one
// says which that is (RFC 4861 sections 4.2 and 5.2). Where no router does, this server says both, and that it is no router.

// Between advertisements (RFC 4861 section 6.2.1).
const (
	advertiseOften = 16 * time.Second // at first
	advertiseLeast = 200 * time.Second
	advertiseMost  = 600 * time.Second
	advertiseOnce  = 3 * time.Second // to all, at most
)

// advertisement is what the server says.
func advertisement(six *IPv6, mac net.HardwareAddr) *ndp.RouterAdvertisement {
	return &ndp.RouterAdvertisement{
		ManagedConfiguration: true, OtherConfiguration: true, // and no lifetime: not a router
		Options: []ndp.Option{
			&ndp.PrefixInformation{
				PrefixLength: uint8(six.Subnet.Bits()), Prefix: six.Subnet.Masked().Addr(), OnLink: true,
				ValidLifetime: LeaseTime, PreferredLifetime: LeaseTime,
			},
			&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac},
		},
	}
}

// advertise sends router advertisements on a link until ctx ends: now and then, and to who asks.
func advertise(ctx context.Context, link *net.Interface, six *IPv6, log *slog.Logger) {
	const patience = 5 // tries: a link-local address of an interface that has just come up is a second or two away
	for failed := 1; ctx.Err() == nil; failed++ {
		err := advertiseOn(ctx, link, six)
		if ctx.Err() == nil && failed == patience {
			log.Warn("cannot send router advertisements (it takes CAP_NET_RAW, and IPv6 on the interface); trying on", "interface", link.Name, "error", err)
		}
		pause(ctx, time.Second)
	}
}

func advertiseOn(ctx context.Context, link *net.Interface, six *IPv6) error {
	conn, _, err := ndp.Listen(link, ndp.LinkLocal)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	if err := errors.Join(conn.SetICMPFilter(&filter), conn.JoinGroup(netip.IPv6LinkLocalAllRouters())); err != nil {
		return err
	}
	all, words := netip.IPv6LinkLocalAllNodes(), advertisement(six, link.HardwareAddr)
	var sent time.Time
	next, first := time.Now(), 3
	for ctx.Err() == nil {
		if now := time.Now(); !now.Before(next) {
			if err := conn.WriteTo(words, nil, all); err != nil {
				return err
			}
			sent, next = now, now.Add(advertiseLeast+rand.N(advertiseMost-advertiseLeast))
			if first--; first > 0 {
				next = now.Add(advertiseOften)
			}
		}
		if err := conn.SetReadDeadline(next); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		_, _, from, err := conn.ReadFrom()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			return err
		case from.IsUnspecified(): // who has no address yet: all hear the answer, not too often
			if earliest := sent.Add(advertiseOnce); earliest.Before(next) {
				next = earliest
			}
		default:
			if err := conn.WriteTo(words, nil, from); err != nil {
				return err
			}
		}
	}
	return nil
}
