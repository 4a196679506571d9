package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"github.com/slipway-os/slipway/images/bootspec"
)

// ErrNoLink says that the machine has no network link that could be used.
var ErrNoLink = errors.New("no physical network link")

// Finder looks for the boot server by DHCP on all physical links at once.
type Finder struct {
	// Server is the base URL of the boot server; empty: option 67 of the answer says it.
	Server string
	// Usable says which links are asked; nil: physical ones.
	Usable func(LinkState) bool
	// Patience is how long no link at all is waited for, and how often the waiting is spoken of. Zero: 30 s and 15 s.
	NoLink, Speak time.Duration
	// Later6 is how long IPv4 is asked alone. Zero: 6 s.
	Later6 time.Duration
	Log    *slog.Logger
}

// Find sets all links up, asks each that has a carrier, and returns the first answer that is of use; the link then has its
// address and route. It asks for ever, with growing pauses, and says every few seconds what it waits for; it ends with an
// error when ctx does, or after NoLink when there is no link at all (ErrNoLink).
func (f Finder) Find(ctx context.Context) (Lease, error) {
	if f.Usable == nil {
		f.Usable = func(l LinkState) bool { return l.Kind == bootspec.KindPhysical }
	}
	f.NoLink, f.Speak = orDefault(f.NoLink, 30*time.Second), orDefault(f.Speak, 15*time.Second)
	lease, err := f.first(ctx)
	if err != nil {
		return Lease{}, err
	}
	return lease, lease.apply()
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// first asks on every link as soon as it has a carrier and returns the first lease.
func (f Finder) first(ctx context.Context) (Lease, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	found := make(chan Lease)
	started := time.Now()
	spoken := started
	asking := map[int]bool{}
	for {
		links, err := f.links()
		if err != nil {
			return Lease{}, err
		}
		for _, l := range links {
			if !l.Up {
				if err := setUp(l.Name); err != nil {
					f.Log.Warn(err.Error())
				}
			}
			if l.Carrier && !asking[l.Index] {
				asking[l.Index] = true
				f.Log.Info("link has a carrier, asking for an address", "link", l.Name, "mac", l.MAC, "driver", l.Driver)
				wg.Go(func() { f.ask(ctx, l, found) })
				wg.Go(func() { f.ask6(ctx, l, found) })
			}
		}
		if len(links) == 0 && time.Since(started) > f.NoLink {
			return Lease{}, fmt.Errorf("%w after %v: is the driver of the network card in the image", ErrNoLink, f.NoLink)
		}
		if time.Since(spoken) > f.Speak {
			spoken = time.Now()
			f.Log.Warn(waiting(links, time.Since(started)))
		}
		select {
		case lease := <-found:
			return lease, nil
		case <-ctx.Done():
			return Lease{}, fmt.Errorf("cannot find the boot server: %w", ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (f Finder) links() ([]LinkState, error) {
	all, err := Links()
	return slices.DeleteFunc(all, func(l LinkState) bool { return !f.Usable(l) }), err
}

// waiting says what Find waits for.
func waiting(links []LinkState, since time.Duration) string {
	if len(links) == 0 {
		return fmt.Sprintf("no network link after %v", since.Round(time.Second))
	}
	var words []string
	for _, l := range links {
		state := "no carrier: cable or switch port"
		if l.Carrier {
			state = "no usable DHCP answer"
		}
		words = append(words, fmt.Sprintf("%s (%s): %s", l.Name, l.MAC, state))
	}
	return fmt.Sprintf("still looking for the boot server after %v: %s", since.Round(time.Second), strings.Join(words, "; "))
}

// ask asks on one link until it has a lease or ctx ends, with pauses that grow from 1 to 16 seconds (RFC 2131 4.1).
func (f Finder) ask(ctx context.Context, l LinkState, found chan<- Lease) {
	for pause := time.Second; ; pause = min(2*pause, 16*time.Second) {
		lease, err := f.exchange(ctx, l, pause)
		if err == nil {
			select {
			case found <- lease:
			case <-ctx.Done():
			}
			return
		}
		if !errors.Is(err, nclient4.ErrNoResponse) && ctx.Err() == nil {
			f.Log.Warn("DHCP failed, trying again", "link", l.Name, "cause", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(rand.N(pause / 4)):
		}
	}
}

// exchange is one DISCOVER, OFFER, REQUEST, ACK; each answer is waited for as long as wait.
func (f Finder) exchange(ctx context.Context, l LinkState, wait time.Duration) (Lease, error) {
	c, err := nclient4.New(l.Name, nclient4.WithTimeout(wait), nclient4.WithRetry(1))
	if err != nil {
		return Lease{}, err
	}
	defer c.Close()
	var heard offers
	discover, err := dhcpv4.NewDiscovery(c.InterfaceAddr(), request)
	if err != nil {
		return Lease{}, err
	}
	heard.server = f.Server
	if _, err = c.SendAndRead(ctx, nclient4.DefaultServers, discover, heard.take); err != nil {
		if heard.refused != nil && errors.Is(err, nclient4.ErrNoResponse) {
			return Lease{}, heard.refused
		}
		return Lease{}, err
	}
	granted, err := c.RequestFromOffer(ctx, heard.offer, request)
	if err != nil {
		return Lease{}, err
	}
	lease, err := leaseFrom(granted.ACK, heard.server)
	if err != nil {
		return Lease{}, fmt.Errorf("answer of %v is no use: %w", granted.ACK.ServerIdentifier(), err)
	}
	lease.Link, lease.MAC = l.Name, c.InterfaceAddr().String()
	lease.Others = append(lease.Others, heard.others...)
	return lease, nil
}

// offers are what came in answer to one DISCOVER. The address and the boot server may come from one DHCP server, or from two: a
// boot server beside another DHCP server offers no address (proxyDHCP).
type offers struct {
	server  string         // base URL of the boot server: given, or a proxy's; empty: the offer with the address must say it
	others  []netip.Addr   // further ones that a proxy told of
	offer   *dhcpv4.DHCPv4 // with an address
	refused error          // why the last one was no use
}

// take takes an offer, and says whether there is all that is needed.
func (o *offers) take(p *dhcpv4.DHCPv4) bool {
	if p.MessageType() != dhcpv4.MessageTypeOffer {
		return false
	}
	proxy := len(p.YourIPAddr.To4()) == 0 || p.YourIPAddr.IsUnspecified()
	if proxy && p.ClassIdentifier() == bootspec.VendorClass && o.server == "" {
		server, err := BaseURL(p.BootFileNameOption())
		if err != nil {
			o.refused = fmt.Errorf("proxy offer of %v is no use: %w", p.ServerIdentifier(), err)
			return false
		}
		o.server, o.others = server, others(p)
		return o.offer != nil
	}
	_, err := leaseFrom(p, o.server)
	if err == nil {
		o.offer = p
		return true
	}
	o.refused = fmt.Errorf("offer of %v is no use: %w", p.ServerIdentifier(), err)
	if _, err := leaseFrom(p, "http://a.proxy.may.tell"); err == nil && o.offer == nil {
		o.offer = p
	}
	return false
}

// request says who asks and for what.
func request(p *dhcpv4.DHCPv4) {
	p.UpdateOption(dhcpv4.OptClassIdentifier(bootspec.VendorClass))
	p.UpdateOption(dhcpv4.OptParameterRequestList(
		dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
		dhcpv4.OptionBootfileName, dhcpv4.OptionServerIdentifier,
	))
}

// apply gives the link its address and route. The address stays when the lease ends: the node document takes over.
func (l Lease) apply() error {
	add := replaceAddress
	if l.Address.Addr().Is6() {
		add = addAtOnce
	}
	if err := add(l.Link, l.Address); err != nil {
		return err
	}
	if !l.Router.IsValid() {
		return nil
	}
	return replaceRoute(l.Link, RouteState{To: defaultRoute, Via: l.Router})
}
